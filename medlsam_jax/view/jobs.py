"""Work that takes longer than a request may: one after the other, in a thread of its own, told of as it goes."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from medlsam_jax.errors import InputError, MedlsamError

KEPT = 50
"""Jobs that are remembered; a page asks for one within seconds."""


class Stopped(MedlsamError):
  """The page asked to stop."""


class Job:
  """One piece of work; the page asks for `state()` until it has ended."""

  def __init__(self, number: int, title: str) -> None:
    self.number, self.title = number, title
    self.ended = threading.Event()
    self._said: dict[str, Any] = {"state": "waiting", "text": title, "done": 0, "total": 0}
    self._stop = threading.Event()
    self._kept = ""

  def keeps(self, text: str) -> None:
    """Says what is done and stays so, whatever comes after: a job that is stopped or fails from here on tells it."""
    self._kept = text

  def stage(self, text: str) -> None:
    """Says what is being done now."""
    self._look()
    self._said = {**self._said, "text": text, "done": 0, "total": 0}

  def __call__(self, done: int, total: int) -> None:
    """Progress of the stage, as `progress.Progress`."""
    self._look()
    self._said = {**self._said, "done": done, "total": total}

  def stop(self) -> None:
    """Asks the work to end; it does between two steps."""
    self._stop.set()

  def state(self) -> dict[str, Any]:
    """Plain values: `state` is waiting, running, done (with `result`) or failed (with `error`: why, and what stays)."""
    return {"job": self.number, "title": self.title, **self._said}

  def _look(self) -> None:
    if self._stop.is_set():
      raise Stopped("stopped")

  def _run(self, work: Callable[[Job], Mapping[str, Any]], report: Callable[[BaseException], None]) -> None:
    self._said = {**self._said, "state": "running"}
    try:
      self._look()
      result = work(self)
      self._said = {**self._said, "state": "done", "result": dict(result)}
    except Stopped as error:
      self._fails(f"{error}; {self._kept or 'nothing was changed'}")
    except MedlsamError as error:
      self._fails("; ".join(filter(None, (" ".join(str(error).split()), self._kept))))
    except Exception as error:
      report(error)
      text = f"the program is at fault ({type(error).__name__}); its terminal names the place in the code"
      self._fails("; ".join(filter(None, (text, self._kept))))
    self.ended.set()

  def _fails(self, text: str) -> None:
    self._said = {**self._said, "state": "failed", "error": text}


class Jobs:
  """Does one job after the other, since there is one device.

  Args:
    report: hears of an exception that is no `MedlsamError`.
  """

  def __init__(self, report: Callable[[BaseException], None]) -> None:
    self._report = report
    self._numbers = itertools.count(1)
    self._known: dict[int, Job] = {}
    self._waiting: queue.SimpleQueue[tuple[Job, Callable[[Job], Mapping[str, Any]]]] = queue.SimpleQueue()
    threading.Thread(target=self._work, name="medlsam-view-jobs", daemon=True).start()

  def start(self, title: str, work: Callable[[Job], Mapping[str, Any]]) -> Job:
    """Takes up a job, behind those that wait; `work` gives what the page gets."""
    job = Job(next(self._numbers), title)
    self._known[job.number] = job
    for old in [number for number, each in self._known.items() if each.ended.is_set()][:-KEPT]:
      self._known.pop(old, None)
    self._waiting.put((job, work))
    return job

  def __getitem__(self, number: int) -> Job:
    if number not in self._known:
      raise InputError(f"no job {number}: the program was started anew since; do it again")
    return self._known[number]

  def _work(self) -> None:
    while True:
      job, work = self._waiting.get()
      job._run(work, self._report)
