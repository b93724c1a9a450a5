"""Building a bank says how much there is to do and how long it takes, and goes on where it was stopped."""

import os
import signal
import types

import pytest

from medlsam_jax.cli import progress
from medlsam_jax.cli.growing_bank import Growth


class Bar:
  """Remembers what it is told."""

  def __init__(self):
    self.said, self.steps = [], []

  def __call__(self, *step):
    self.steps.append(step)

  def say(self, text):
    self.said.append(text)


@pytest.fixture
def clock(monkeypatch):
  """Time that a test sets."""
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  return now


def growth(organs=2, templates=3, all_organs=True, known=0):
  bar = Bar()
  return Growth(bar, types.SimpleNamespace(known=known), organs, templates, all_organs), bar.said, bar.steps


def test_the_work_is_told_before_any_is_done():
  report, said, steps = growth(organs=1, templates=1)
  report(0, 12)
  assert said == ["bank: 1 organ x 1 template: 12 points to compute"] and steps == [(0, 12)]


@pytest.mark.parametrize(("all_organs", "advised"), [(True, True), (False, False)])
def test_many_organs_that_nobody_chose_are_answered_with_advice(all_organs, advised):
  report, said, _ = growth(organs=61, all_organs=all_organs)
  report(0, 3660)
  assert said[0] == "bank: 61 organs x 3 templates: 3,660 points to compute"
  assert any("--organs liver,spleen" in line for line in said) == advised


def test_the_time_is_told_once_after_the_first_patches(clock):
  report, said, _ = growth(organs=61)
  report(0, 3600)
  for clock[0], done in ((90.0, 6), (96.0, 12), (102.0, 18), (108.0, 24), (114.0, 30)):
    report(done, 3600)
  (line,) = (line for line in said if "search each scan" in line)
  assert "about 59 min 36 s more" in line and "about 20 min to search each scan" in line


def test_a_short_build_is_not_talked_about(clock):
  report, said, _ = growth()
  report(0, 36)
  for clock[0], done in ((1.0, 6), (2.0, 12), (3.0, 18), (4.0, 24)):
    report(done, 36)
  assert len(said) == 1


@pytest.fixture
def asked_to_end(monkeypatch):
  """SIGTERM in the middle of building a bank, as long as the list that is given has an entry."""
  from medlsam_jax.medlam.bank import template_points

  original, ends, calls = template_points._outputs, [True], []

  def outputs(*arguments):
    calls.append(arguments)
    if ends and len(calls) == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return original(*arguments)

  monkeypatch.setattr(template_points, "_outputs", outputs)
  return ends, calls


def test_a_command_that_was_stopped_goes_on_and_leaves_nothing(
  medlsam, mini_templates, small_network_file, one_query, tmp_path, asked_to_end, banks_grow_elsewhere
):
  ends, calls = asked_to_end
  words = ["--templates", mini_templates, "--network", small_network_file, "--organs", "alpha", "--mode", "WPL"]
  call = ["localize", *words, "--query", one_query, "--out", tmp_path / "out"]
  assert medlsam(*call).code == 128 + signal.SIGTERM
  assert list(banks_grow_elsewhere.rglob("*.safetensors")) and not (tmp_path / "out").exists()
  ends.clear()
  calls.clear()
  result = medlsam(*call)
  assert result.code == 0 and "6 points are there from a build that was stopped" in result.out
  assert len(calls) == 1  # of two templates
  assert not banks_grow_elsewhere.exists()


def test_a_bank_that_is_written_leaves_nothing(medlsam, mini_bank, banks_grow_elsewhere):
  assert mini_bank.exists() and not banks_grow_elsewhere.exists()
