"""Work that does not end: a call that hangs in a device's runtime or a file system cannot be ended from without."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Watch(Generic[Item]):
  """Knows what each thread works at, and until when it has to be done."""

  def __init__(self) -> None:
    self._at_work: dict[threading.Thread, tuple[Item, float]] = {}
    self._lock = threading.Lock()

  @contextlib.contextmanager
  def over(self, item: Item, seconds: float | None) -> Iterator[None]:
    """The block is this thread's work at `item`; None for as long as it takes."""
    if seconds is None:
      yield
      return
    me = threading.current_thread()
    with self._lock:
      self._at_work[me] = (item, time.monotonic() + seconds)
    try:
      yield
    finally:
      with self._lock:
        del self._at_work[me]

  def overdue(self) -> Item | None:
    """What should have been done by now, and is not."""
    with self._lock:
      late = [item for item, ends in self._at_work.values() if time.monotonic() > ends]
    return late[0] if late else None
