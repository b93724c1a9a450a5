"""What the time of a run went into: how much of it trained the network."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Literal, get_args

Other = Literal["preparing", "compiling", "waiting for data", "measuring", "saving"]
PRODUCTIVE = "productive"


class Goodput:
  """Seconds of one program from its start, by what they went into; what is nothing else is productive.

  The host's time counts: it waits for the device a step behind, so that work there while the host reads or saves is not
  counted twice. What a program before this one did after its last checkpoint, which is lost, `Records` knows.
  """

  def __init__(self, began: float, now: Callable[[], float] = time.perf_counter):
    """`began`: when the program did, by `now`."""
    self.began, self._now = began, now
    self._seconds = dict.fromkeys(get_args(Other), 0.0)

  def prepared(self) -> None:
    """Ends the time before the first step."""
    self._seconds["preparing"] = self._now() - self.began - sum(self._seconds.values())

  @contextlib.contextmanager
  def spent(self, on: Other | None) -> Iterator[None]:
    """Counts the time within; `None` is productive."""
    began = self._now()
    try:
      yield
    finally:
      if on is not None:
        self._seconds[on] += self._now() - began

  def shares(self) -> dict[str, float]:
    """Share of the time so far by what it went into, `productive` first; together 1."""
    total = max(self._now() - self.began, 1e-9)
    other = {name: seconds / total for name, seconds in self._seconds.items()}
    return {PRODUCTIVE: 1 - sum(other.values()), **other}


def line(shares: dict[str, float], lost_steps: int = 0, lost_seconds: float = 0.0) -> str:
  """In words, for the end of a run; with what an earlier program had done and this one did again."""
  lost = f"; lost before: {lost_steps} steps, {lost_seconds:.0f} s" if lost_steps else ""
  return "time: " + ", ".join(f"{share:.1%} {name}" for name, share in shares.items()) + lost
