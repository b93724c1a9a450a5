"""Runs that the clock ends: the rate comes down over the time that is there, and what is done stays done."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.pretraining import recipe
from medlsam_jax.medlam.pretraining.export import read_network
from medlsam_jax.notices import MedlsamWarning
from medlsam_jax.train import clock, loop
from medlsam_jax.train.checkpoint import steps_in
from medlsam_jax.train.clock import Clock
from medlsam_jax.train.optimizer import make_optimizer, make_schedule
from medlsam_jax.train.settings import OptimizerSettings

pytestmark = pytest.mark.usefixtures("quick_compiler")
COSINE = {"decay": "cosine", "learning_rate": 1e-2, "warmup_steps": 0}


class Seconds:
  """A clock that a test turns; each look adds `each`."""

  def __init__(self, each=0.0):
    self.time, self.each = 0.0, each

  def __call__(self):
    self.time += self.each
    return self.time


def timed(**fields):
  return OptimizerSettings(**{"total_steps": 10**6, "total_seconds": 100.0, **COSINE, **fields})


def shares(tested, now, steps, pace):
  """The share before each step of a run whose first step ends now."""
  found = [tested.share(0)]
  tested.compiled(1)
  for step in range(1, steps):
    found.append(tested.share(step))
    now.time += pace
  return np.array(found)


def test_share_rises_from_the_end_of_compiling_to_the_end_of_the_time():
  now = Seconds()
  tested = Clock(timed(), 0.0, now=now)
  now.time = 60.0
  found = shares(tested, now, 200, 0.5)
  # 40 s are left after compiling: 80 steps of half a second
  assert found[0] == 0 and (np.diff(found) >= 0).all()
  np.testing.assert_allclose(found[41], 0.5, atol=0.02)
  assert 78 <= np.argmax(found >= 1) <= 92


def test_steps_end_a_run_that_has_time_left():
  now = Seconds()
  tested = Clock(timed(total_steps=20), 0.0, now=now)
  assert shares(tested, now, 21, 0.1)[20] == 1


def test_what_an_earlier_program_did_stays_done():
  now = Seconds()
  now.time = 10.0
  tested = Clock(timed(), 0.0, done=0.6, now=now)
  found = shares(tested, now, 92, 1.0)
  assert found[0] == 0.6
  np.testing.assert_allclose(found[46], 0.8, atol=0.06)


def test_compiling_longer_than_the_time_is_said():
  now = Seconds()
  tested = Clock(timed(), 0.0, now=now)
  now.time = 130.0
  with pytest.raises(ConfigError, match=r"total_seconds 100: .*took 130 s alone"):
    tested.compiled(1)


def test_the_rate_follows_the_share_and_the_warmup_the_steps():
  rate = make_schedule(timed(warmup_steps=10), jnp.float32(0.5))
  np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(900)], [0, 2.5e-3, 5e-3, 5e-3], rtol=1e-6)
  assert float(make_schedule(timed(), jnp.float32(1.0))(7)) == pytest.approx(0, abs=1e-9)


def test_state_of_the_optimizer_does_not_depend_on_the_clock():
  params = {"kernel": jnp.ones((2, 3))}
  plain, by_clock = (make_optimizer(timed(), *share).init(params) for share in ((), (jnp.float32(0.3),)))
  assert jax.tree.structure(plain) == jax.tree.structure(by_clock)


def settings(seconds, **more):
  optimizer = {"total_steps": 500, "total_seconds": seconds, **COSINE}
  return small_run.settings(optimizer=optimizer, **more)


@pytest.fixture
def stand_ins(monkeypatch):
  small_run.replace_network_and_scans(monkeypatch.setattr)

  def times(each):
    now = Seconds(each)
    monkeypatch.setattr(clock, "_LOOKS_EVERY_STEPS", 1)
    monkeypatch.setattr(loop, "Clock", lambda optimizer, began, done: Clock(optimizer, 0.0, done, now))

  return times


def test_a_run_ends_by_the_clock_with_its_state_kept_and_is_not_begun_again(stand_ins, tmp_path):
  stand_ins(each=1.0)
  reports = {}
  recipe.run(settings(9.0), tmp_path, lambda step, metrics: reports.setdefault(step, metrics))
  last = max(reports)
  assert 3 <= last <= 9 and reports[last]["run_share"] == 1
  assert steps_in(tmp_path / "checkpoints") == [last]
  further = {}
  with pytest.warns(MedlsamWarning, match=rf"time of this run was up after step {last}"):
    kept = recipe.run(settings(9.0), tmp_path, lambda step, metrics: further.setdefault(step, metrics))
  assert not further and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))


def test_rates_come_down_with_the_time_in_the_step_itself(stand_ins, tmp_path):
  stand_ins(each=0.5)
  recipe.run(settings(12.0, checkpoint={"every_steps": 1, "keep_last": 100}), tmp_path)
  folder = tmp_path / "checkpoints"
  networks = [jax.tree.leaves(read_network(folder, step)[0]) for step in steps_in(folder)]
  moves = [sum(float(np.abs(a - b).sum()) for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(networks)]
  assert len(moves) > 4 and moves[-1] < 0.2 * moves[0]
