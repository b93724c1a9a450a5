"""What every self-supervised objective receives and returns; adding an objective is adding one file beside this one.

An objective is a module that holds

    @dataclasses.dataclass(frozen=True)
    class Settings: ...                                   # optional: its own settings, each with a default

    def heads(settings: Settings) -> dict[str, nn.Module]: ...   # optional: what it trains beside the network

    def loss(views: Views, settings: Settings) -> tuple[Array, dict[str, Array]]: ...

`loss` returns a float32 scalar and the scalars worth logging. It is pure and traced as part of the training step, so
shapes are static; it must give a finite number for any views, also where a pool of voxels or pairs is empty. A run
names it as `objectives.<file name>`, with `weight` and any of its settings beside it; unknown ones are refused.

Of a loss is asked nothing about devices: the scans of a batch (axis `g`) may lie on many, and a sum or mean over `g`
is over all of them. What it may use:

- `views`: images, true places in mm and network outputs of the plain and the augmented views (the fields below);
- `views.heads[name](array)`: one of its own heads applied; parameters are made from the shape of the first array that
  it is given, trained and checkpointed with the network, and left out of exported weights;
- `views.network(images, strides)`: the network run once more, on images `(g, k, e, e, e)` of the loss's own making
  (masked ones, say): head outputs `(g, k, 3)` and features by stride;
- `views.key`: a random key of its own for this step.

Sizes: `g` scans in the batch, `m` patches of each, of which the first `k` also have dense features; `e` the patch edge.
Millimetres are (z, y, x) in the scan's own frame, so that only differences within one scan mean something.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

import flax.linen as nn
from jaxtyping import Array, Float, Int, Key

from medlsam_jax.errors import ConfigError

Features = dict[int, Float[Array, "g k _z _y _x _c"]]
"""Feature volumes by voxel stride."""


def _no_network(images: Array, strides: tuple[int, ...]) -> tuple[Array, Features]:
  raise ValueError("these views were made without a network to run")


class Views(NamedTuple):
  """Images, places and network outputs of one batch, and the tools of an objective (module docstring)."""

  positions: Float[Array, "g m 3"]
  """Head outputs of the views that describe where a patch lies."""
  centres_mm: Float[Array, "g m 3"]
  """True centres of those views."""
  plain: Float[Array, "g k e e e"]
  """Images of the plain views, [0, 1]."""
  plain_features: Features
  plain_origin_mm: Float[Array, "g k 3"]
  """Place of voxel (0, 0, 0) of each plain view, whose voxels are 3 mm apart along the axes."""
  points: Int[Array, "k p 3"]
  """Voxels of the plain view chosen for dense objectives, shared by the scans of the batch."""
  augmented: Float[Array, "g k e e e"]
  augmented_features: Features
  augmented_mm: Float[Array, "g k e e e 3"]
  """True place of every voxel of the augmented views."""
  network: Callable[[Array, tuple[int, ...]], tuple[Array, Features]] = _no_network
  heads: Mapping[str, Callable[[Array], Array]] = {}
  key: Key[Array, ""] = None  # type: ignore[assignment]  # a key cannot be made at import: that would start a backend

  def features_at(self, stride: int, objective: str) -> tuple[Array, Array]:
    """Plain and augmented features of one stride.

    Raises:
      ConfigError: the network of this run has none of that stride.
    """
    if stride not in self.plain_features:
      raise ConfigError(
        f"objectives.{objective}.stride is {stride}, but network.feature_scales has {sorted(self.plain_features)}"
      )
    return self.plain_features[stride], self.augmented_features[stride]


@dataclasses.dataclass(frozen=True)
class NoSettings:
  """Settings of an objective that has none."""


def _no_heads(settings: object) -> dict[str, nn.Module]:
  return {}


S = TypeVar("S")
"""Settings of an objective: a dataclass of its own module."""


@dataclasses.dataclass(frozen=True)
class Objective(Generic[S]):
  """One objective module: its loss, the type of its settings, and the heads it trains."""

  name: str
  loss: Callable[[Views, S], tuple[Array, dict[str, Array]]]
  settings: type[S]
  heads: Callable[[S], dict[str, nn.Module]]


def find(name: str) -> Objective:
  """The objective in `objectives/<name>.py`, or else in an importable module `<name>` of the user's own.

  Raises:
    ConfigError: no such module, or it has no `loss`.
  """
  importlib.invalidate_caches()  # the module may have been written a moment ago, as in a notebook
  candidates = (f"{__package__}.{name}", name)
  module_name = next((n for n in candidates if name.isidentifier() and importlib.util.find_spec(n)), None)
  if module_name is None:
    raise ConfigError(
      f"objective '{name}': there is no medlsam_jax/medlam/objectives/{name}.py, nor a module {name}.py"
    )
  module = importlib.import_module(module_name)
  if not callable(getattr(module, "loss", None)):
    raise ConfigError(f"objective '{name}': {module.__name__} has no function `loss`")
  settings = getattr(module, "Settings", NoSettings)
  return Objective(name, module.loss, settings, getattr(module, "heads", _no_heads))
