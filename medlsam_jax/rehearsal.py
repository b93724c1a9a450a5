"""Programs compiled before they are needed: each runs once on nothing, in a thread of its own, beside what goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Rehearsal:
  """Runs that have begun; none is asked for a result."""

  def __init__(self, *runs: Callable[[], object]) -> None:
    self._begun: list[Future[object]] = []
    if runs:
      pool = ThreadPoolExecutor(len(runs), "rehearsal")
      self._begun = [pool.submit(run) for run in runs]
      pool.shutdown(wait=False)

  def __reduce__(self) -> tuple[type[Rehearsal], tuple[()]]:
    """For another process, which has its own programs: one of nothing."""
    return Rehearsal, ()

  def wait(self) -> None:
    """Until all are done. What went wrong is left for the work itself to meet."""
    for each in self._begun:
      each.exception()
