"""What goes on but should be known, as a warning that points at the user's own line."""

from __future__ import annotations

import os
import sys
import warnings

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class MedlsamWarning(UserWarning):
  """Of this library, so that the command line can tell it from those of the libraries beneath."""


def warn(text: str) -> None:
  """Warns `text`; the place shown is the line that called this package, not a line inside it."""
  frame, level, outside = sys._getframe(1), 2, 2
  while frame.f_back is not None:
    # decorators and context managers of other libraries lie between our frames: the outermost of ours counts
    ours = os.path.abspath(frame.f_code.co_filename).startswith(_PACKAGE)
    frame, level = frame.f_back, level + 1
    if ours:
      outside = level
  warnings.warn(text, MedlsamWarning, stacklevel=outside)
