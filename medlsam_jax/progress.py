"""What long work tells of how far it is, and is told of: that its time is over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from medlsam_jax.errors import TimeLimitError

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all: points of a search, slices of a segmentation."""

_ends: ContextVar[tuple[float, float] | None] = ContextVar("_ends", default=None)
"""When the time of this thread's work is over, by `time.monotonic`, and how long it was."""


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
  """Within, in this thread, `localize` and `segment` raise a TimeLimitError when they take longer; None for no limit.

  What runs on a device cannot be ended from without: the limit is looked at between two calls, where progress is told.
  """
  token = _ends.set(None if seconds is None else (time.monotonic() + seconds, seconds))
  try:
    yield
  finally:
    _ends.reset(token)


def within_limit(progress: Progress | None) -> Progress | None:
  """`progress`, which looks at the limit of this thread, too, whatever thread it is called in."""
  limit = _ends.get()
  if limit is None:
    return progress
  ends, seconds = limit

  def tell(done: int, total: int) -> None:
    if time.monotonic() > ends:
      said = f"took longer than {seconds:g} s (--scan-seconds) and was ended, {done} of {total} steps done"
      raise TimeLimitError(said)
    if progress is not None:
      progress(done, total)

  return tell
