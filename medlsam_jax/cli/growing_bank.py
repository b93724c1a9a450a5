"""What is said while a bank is built: how much there is to compute, how long it will take, and what is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medlsam_jax.cli.progress import Pace, duration
from medlsam_jax.cli.terminal import Bar
from medlsam_jax.display import count

if TYPE_CHECKING:
  from medlsam_jax.medlam.bank.kept_outputs import KeptOutputs

MANY_ORGANS = 20
"""From this number on the user is told how to ask for fewer."""
STEPS_TO_JUDGE = 4
"""Steps of the bank after which its pace is told; the first compiles."""
WORTH_TELLING_S = 60.0


def folder() -> Path:
  """Where banks grow: in the user's cache directory."""
  from medlsam_jax.io.weights.fetch import cache_folder

  return cache_folder() / "growing_banks"


class Growth:
  """Passes progress on to a bar, and says once how much there is to do, what was there, and how long it will take."""

  def __init__(self, bar: Bar, kept: KeptOutputs, organs: int, templates: int, all_organs: bool) -> None:
    self._bar, self._kept = bar, kept
    self._organs, self._templates, self._all_organs = organs, templates, all_organs
    self._pace, self._steps = Pace(), 0

  def __call__(self, done: int, total: int) -> None:
    self._bar(done, total)
    if done == 0:
      self._tell_work(total)
      return
    self._steps += 1
    if self._steps == 1 and self._kept.known:
      self._bar.say(f"bank: {count(self._kept.known, 'point')} are there from a build that was stopped")
    self._pace.step(done, total)
    if self._steps == STEPS_TO_JUDGE:
      self._tell_time(total)

  def _tell_work(self, total: int) -> None:
    organs, templates = count(self._organs, "organ"), count(self._templates, "template")
    self._bar.say(f"bank: {organs} x {templates}: {count(total, 'point')} to compute")
    if self._organs >= MANY_ORGANS and self._all_organs:
      self._bar.say("bank: fewer organs take less time, such as --organs liver,spleen")

  def _tell_time(self, total: int) -> None:
    left_s, each_s = self._pace.left_s, self._pace.each_s
    if left_s is None or each_s is None or left_s < WORTH_TELLING_S:
      return
    search_s = each_s * total / self._templates
    self._bar.say(
      f"bank: about {duration(left_s)} more, then about {duration(search_s)} to search each scan; what is computed is "
      "kept, so that the same command goes on where it was stopped"
    )
