"""How far a stage is: a moving bar where a person looks, else a line on stderr now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 30.0
LONG_STAGE_S = 5.0
"""A stage that took this long is told when it ends."""


class Display(Protocol):
  """Shows one stage from when it is made until `close`."""

  def update(self, done: int, total: int | None) -> None:
    """What is done, and what there is in all (None: not known)."""
    ...

  def title(self, text: str) -> None:
    """What is being done now."""
    ...

  def close(self, whole: bool) -> None:
    """The end; `whole` unless something went wrong."""
    ...


class Nothing:
  """Of a stage that nobody wants to see."""

  def update(self, done: int, total: int | None) -> None:
    """Does nothing, as do the others."""

  def title(self, text: str) -> None:
    """Nothing."""

  def close(self, whole: bool) -> None:
    """Nothing."""


class MovingBar:
  """On a terminal; vanishes when the stage ends."""

  def __init__(self, console: Console, text: str) -> None:
    self._progress = Progress(
      TextColumn("{task.description}", markup=False),
      BarColumn(bar_width=30),
      TextColumn("{task.percentage:>3.0f}%"),
      TimeElapsedColumn(),
      TimeRemainingColumn(),
      console=console,
      transient=True,
    )
    self._task = self._progress.add_task(text, total=None)
    self._progress.start()

  def update(self, done: int, total: int | None) -> None:
    """Moves the bar."""
    self._progress.update(self._task, completed=done, total=total)

  def title(self, text: str) -> None:
    """Changes the text before it."""
    self._progress.update(self._task, description=text)

  def say(self, text: str) -> None:
    """A line above it."""
    self._progress.console.print(text)

  def close(self, whole: bool) -> None:
    """Takes it away."""
    self._progress.stop()


class Lines:
  """In a log: a line every `LINE_EVERY_S`, also while a step takes longer than that, and one after a long stage."""

  def __init__(self, say: Callable[[str], None], text: str) -> None:
    self._say, self._text, self._pace = say, text, Pace()
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._tell, name="progress", daemon=True)
    self._thread.start()

  def update(self, done: int, total: int | None) -> None:
    """Remembers it for the next line."""
    self._pace.step(done, total)

  def title(self, text: str) -> None:
    """Changes what the lines begin with."""
    self._text = text

  def close(self, whole: bool) -> None:
    """Says how long it took."""
    self._ended.set()
    self._thread.join()
    if whole and self._pace.elapsed_s >= LONG_STAGE_S:
      self._say(f"{self._text}: done in {duration(self._pace.elapsed_s)}")

  def _tell(self) -> None:
    while not self._ended.wait(LINE_EVERY_S):
      said = [f"{self._pace.share:.0%}"] if self._pace.share is not None else []
      said.append(f"{duration(self._pace.elapsed_s)} so far")
      left_s = self._pace.left_s
      said += [f"about {duration(left_s)} left"] if left_s is not None else []
      try:
        self._say(f"{self._text}: {', '.join(said)}")
      except OSError:  # nobody reads any more, which the command finds out for itself
        return


class Pace:
  """How fast steps go. The first step that is told is not counted: programs compile in it."""

  def __init__(self) -> None:
    self._began = time.monotonic()
    self._first: tuple[int, float] | None = None
    self._last: tuple[int, float] | None = None
    self._total: int | None = None

  def step(self, done: int, total: int | None) -> None:
    """What is done, and what there is in all."""
    self._total = total
    if done <= 0:
      return
    self._last = (done, time.monotonic())
    self._first = self._first or self._last

  @property
  def elapsed_s(self) -> float:
    """Since it was made."""
    return time.monotonic() - self._began

  @property
  def share(self) -> float | None:
    """Part that is done; None where the whole is not known."""
    return None if not self._total or self._last is None else self._last[0] / self._total

  @property
  def each_s(self) -> float | None:
    """Time for one step; None before the second."""
    if self._first is None or self._last is None or self._last[0] <= self._first[0]:
      return None
    return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])

  @property
  def left_s(self) -> float | None:
    """Time that the rest will take; None as long as nobody can know."""
    if self.each_s is None or self._last is None or self._total is None:
      return None
    return self.each_s * (self._total - self._last[0])


def duration(seconds: float) -> str:
  """`42 s`, `3 min 5 s`, `2 h 10 min`."""
  whole = round(seconds)
  if whole < 60:
    return f"{whole} s"
  if whole < 3600:
    return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
  return f"{whole // 3600} h {whole % 3600 // 60} min"
