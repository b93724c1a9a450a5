"""How far a run is: by its steps, or by the clock that ends it."""

import pytest

from medlsam_jax.cli.trained_network import say_step
from medlsam_jax.train.settings import OptimizerSettings


class Terminal:
  def __init__(self):
    self.said = []

  def say(self, text):
    self.said.append(text)


@pytest.mark.parametrize(
  ("seconds", "metrics", "moved", "said"),
  [
    (0, {"loss": 0.5}, [(30, 200)], "step 30/200: loss 0.5"),
    (60, {"loss": 0.5, "run_share": 0.25}, [(250, 1000)], "step 30, 25.0%: loss 0.5, run_share 0.25"),
    (60, {"validation_dice": 0.7}, [], "step 30: validation_dice 0.7"),
  ],
)
def test_a_bar_goes_by_steps_or_by_the_share_of_the_time(seconds, metrics, moved, said):
  terminal, bar = Terminal(), []
  optimizer = OptimizerSettings(total_steps=200, total_seconds=seconds)
  say_step(30, optimizer, metrics, lambda *at: bar.append(at), terminal)
  assert bar == moved and terminal.said == [said]
