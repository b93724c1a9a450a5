"""What every self-supervised objective receives and returns; adding an objective is adding one file beside this one.

An objective module holds one function

    loss(views: Views, settings: Mapping[str, float]) -> tuple[Array, dict[str, Array]]

that returns a float32 scalar and the scalars worth logging. It is pure and jitted as part of the training step, so
shapes are static. Objectives are found by the name of their file (`find`).

Sizes: `g` scans in the batch, `m` patches of each, of which the first `k` also have dense features; `e` the patch edge.
Millimetres are (z, y, x) in the scan's own frame, so that only differences within one scan mean something.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtyping import Array, Float, Int

from medlsam_jax.errors import ConfigError


class Views(NamedTuple):
  """Network outputs on the views of one batch."""

  positions: Float[Array, "g m 3"]
  """Head outputs of the views that describe where a patch lies."""
  centres_mm: Float[Array, "g m 3"]
  """True centres of those views."""
  plain_features: dict[int, Float[Array, "g k z y x c"]]
  """Features of the plain views by stride."""
  plain_origin_mm: Float[Array, "g k 3"]
  """Place of voxel (0, 0, 0) of each plain view, whose voxels are 3 mm apart along the axes."""
  points: Int[Array, "k p 3"]
  """Voxels of the plain view chosen for dense objectives, shared by the scans of the batch."""
  augmented_features: dict[int, Float[Array, "g k z y x c"]]
  augmented_mm: Float[Array, "g k e e e 3"]
  """True place of every voxel of the augmented views."""


Objective = Callable[[Views, Mapping[str, float]], tuple[Array, dict[str, Array]]]


def find(name: str) -> Objective:
  """The objective in `objectives/<name>.py`.

  Raises:
    ConfigError: no such file, or it has no `loss`.
  """
  module_name = f"medlsam_jax.objectives.{name}"
  if not name.isidentifier() or importlib.util.find_spec(module_name) is None:
    raise ConfigError(f"objective '{name}': there is no medlsam_jax/objectives/{name}.py")
  module = importlib.import_module(module_name)
  if not hasattr(module, "loss"):
    raise ConfigError(f"objective '{name}': medlsam_jax/objectives/{name}.py has no function `loss`")
  return module.loss
