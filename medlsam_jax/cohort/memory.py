"""Memory of this process, as far as the system tells."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def resident_bytes() -> int:
  """Memory of this process; 0 where the system does not tell."""
  try:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  except OSError:
    return 0


def peak_bytes() -> int:
  """The same at its highest so far."""
  try:
    import resource
  except ImportError:  # Windows
    return 0
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
