"""What goes on but should be known, as a warning that points at the user's own line."""

from __future__ import annotations

import os
import sys
import warnings
from types import FrameType

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
# Their functions only pass a call on (decorators): a line of theirs is nobody's.
_PASS_ON = {"contextlib", "functools", "jaxtyping"}


class MedlsamWarning(UserWarning):
  """Of this library, so that the command line can tell it from those of the libraries beneath."""


def warn(text: str) -> None:
  """Warns `text`; the place shown is the line that called this package, not a line inside it."""
  callers: list[FrameType] = []
  frame: FrameType | None = sys._getframe(1)
  while frame is not None:
    callers.append(frame)
    frame = frame.f_back
  # decorators and context managers of other libraries lie between our frames: the outermost of ours counts
  outside = 1 + max((i for i, caller in enumerate(callers) if _is_ours(caller)), default=-1)
  while outside < len(callers) - 1 and callers[outside].f_globals.get("__name__", "").split(".")[0] in _PASS_ON:
    outside += 1
  warnings.warn(text, MedlsamWarning, stacklevel=2 + outside)  # 2 is the caller of this function


def _is_ours(frame: FrameType) -> bool:
  return os.path.abspath(frame.f_code.co_filename).startswith(_PACKAGE)
