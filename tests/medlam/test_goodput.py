"""What the time of a run went into."""

import pytest
import small_run

from medlsam_jax.medlam.pretraining import recipe
from medlsam_jax.train import goodput
from medlsam_jax.train.late_metrics import NotFinite

pytestmark = pytest.mark.usefixtures("quick_compiler")


def test_what_is_nothing_else_is_productive():
  times = iter([8.0, 10.0, 13.0, 20.0, 21.0, 30.0])  # of each look at the clock
  spent = goodput.Goodput(4.0, lambda: next(times))
  spent.prepared()
  with spent.spent("compiling"):
    pass
  with pytest.raises(KeyError), spent.spent("saving"):
    raise KeyError
  shares = spent.shares()
  assert shares == pytest.approx(
    {"productive": 18 / 26, "preparing": 4 / 26, "compiling": 3 / 26, "waiting for data": 0, "measuring": 0,
     "saving": 1 / 26}
  )  # fmt: skip
  assert goodput.line(shares).startswith("time: 69.2% productive, 15.4% preparing, 11.5% compiling, ")
  assert goodput.line(shares, 30, 61.2) == goodput.line(shares) + "; lost before: 30 steps, 61 s"


def test_time_within_a_step_is_productive_and_unnamed():
  times = iter([0.0, 1.0, 10.0])
  spent = goodput.Goodput(0.0, lambda: next(times))
  with spent.spent(None):
    pass
  assert spent.shares()["productive"] == 1


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_says_at_its_end_what_its_time_went_into(tmp_path, monkeypatch, stopped):
  small_run.replace_network_and_scans(monkeypatch.setattr, spoilt=stopped)
  told = []
  settings = small_run.settings(optimizer={"total_steps": 2}, checkpoint={"every_steps": 1})
  if stopped:
    with pytest.raises(NotFinite):
      recipe.run(settings, tmp_path, ended=told.append)
  else:
    recipe.run(settings, tmp_path, ended=told.append)
  (shares,) = told
  assert sum(shares.values()) == pytest.approx(1)
  assert shares["preparing"] > 0 and shares["compiling"] > 0 and shares["waiting for data"] > 0
  assert (shares["saving"] > 0) == (not stopped)
