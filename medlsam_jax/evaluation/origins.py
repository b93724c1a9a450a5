"""What results were made with, by what their boxes files say: networks, bank, settings, versions, hashes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medlsam_jax.io.scan_result import BOXES


def read_origins(
  folder: Path, scans: Iterable[str], elsewhere: Mapping[str, Path] | None = None
) -> list[dict[str, Any]]:
  """Each way in which results were made, and the scans that were: `{"provenance": ..., "scans": [...]}`.

  Scans whose file is not there, damaged or silent are in none. `elsewhere`: by scan the folder of its file where it is
  another one, as `scan_result.corrected_in` gives it.
  """
  found: dict[str, dict[str, Any]] = {}
  for scan in scans:
    path = (elsewhere or {}).get(scan, folder) / (scan + BOXES)
    try:
      said = json.loads(path.read_text(encoding="utf-8"))["provenance"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
      continue
    if isinstance(said, Mapping) and said:
      found.setdefault(json.dumps(said, sort_keys=True), {"provenance": said, "scans": []})["scans"].append(scan)
  return list(found.values())
