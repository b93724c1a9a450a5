"""How to search: the settings and the presets that users choose by name."""

from __future__ import annotations

import dataclasses
from typing import Literal

from medlsam_jax import platform
from medlsam_jax.errors import ConfigError
from medlsam_jax.geometry import WORKING_SPACING_MM
from medlsam_jax.medlam.network.medlam import FEATURE_STRIDES


@dataclasses.dataclass(frozen=True)
class SearchSettings:
  """How to search; the defaults are the published ones, in single precision."""

  feature_scales: tuple[int, ...] | None = None
  """Strides to compare features at; None takes all that the network has. `()` leaves the targets of the coarse step."""
  finest_stride: int = 1
  """Finest stride that is used where `feature_scales` is None."""
  steps: int = 1
  """Times that each point is cropped anew and moved."""
  agents: int = 10
  """Starts that are averaged, when a key draws them."""
  dtype: Literal["float32", "bfloat16", "auto"] = "float32"
  """Of the operands of products; sums are float32. `auto` is what the platform is fastest with: bfloat16, on a CPU
  float32."""
  shared_patches: bool = False
  """Points that lie near each other use one patch, whose features are computed once, so that the cost is bounded by the
  scan (`medlam.search.sharing`); otherwise each has a patch of its own around its target."""

  organ_patches: bool = False
  """The points of an organ use one patch around the middle of their targets, or a few where it is long."""
  centred: bool = False
  """Moves in nodes that favour no place, and between them (`medlam.search.nodes`); otherwise as published, in whole
  voxels and on average .39 of one too far up."""
  templates: Literal["mean", "each"] = "mean"
  """`each` looks for every template on its own, near where their mean is found, and takes the mean of what they find
  with the weights `softmax(similarity / softness)`. It needs `centred`."""
  reach_mm: float = 36.0
  """How far from where the mean is found, along each axis, a single template is looked for."""
  softness: float = 0.15
  """Difference in similarity by which one template weighs e times another."""
  shapes: bool = False
  """Hold what the templates find against their own shapes (`medlam.search.shapes`). It needs templates `each`, and a
  bank that says where its points lie; with an older one it does nothing, with a warning."""

  def __post_init__(self) -> None:
    """Refuse values that mean nothing."""
    if not set(self.feature_scales or ()) <= set(FEATURE_STRIDES):
      raise ConfigError(f"feature scales {self.feature_scales}; choose among {FEATURE_STRIDES}")
    if self.finest_stride not in FEATURE_STRIDES:
      raise ConfigError(f"finest_stride {self.finest_stride}; choose among {FEATURE_STRIDES}")
    if self.steps < 1 or self.agents < 1:
      raise ConfigError(f"{self.steps} steps of {self.agents} agents; both must be at least 1")
    if self.templates not in ("mean", "each"):
      raise ConfigError(f"templates {self.templates!r}; choose mean or each")
    if self.templates == "each" and not self.centred:
      raise ConfigError("templates on their own are looked for with centred moves: set centred too")
    if self.shapes and self.templates != "each":
      raise ConfigError("shapes are held against templates on their own: set templates to each, or shapes to False")
    if self.shared_patches and self.organ_patches:
      raise ConfigError("shared_patches and organ_patches; points share one way or the other")
    if not (self.reach_mm >= WORKING_SPACING_MM and self.softness > 0):
      raise ConfigError(
        f"reach_mm {self.reach_mm}, softness {self.softness}; at least {WORKING_SPACING_MM:g} mm, and above 0"
      )
    if self.dtype not in ("float32", "bfloat16", "auto"):
      raise ConfigError(f"dtype {self.dtype!r}; choose float32, bfloat16 or auto")

  @property
  def operands(self) -> str:
    """`dtype` on the platform that runs."""
    return platform.fast_dtype() if self.dtype == "auto" else self.dtype

  def scales(self, available: tuple[int, ...]) -> tuple[int, ...]:
    """Strides that a network with features of the available ones is asked for.

    Raises:
      ConfigError: one that was named is not available, or none is coarse enough.
    """
    if self.feature_scales is None:
      chosen = tuple(stride for stride in available if stride >= self.finest_stride)
      if available and not chosen:
        finer = f"this network has features of strides {available} alone, finer than {self.finest_stride}"
        raise ConfigError(f"{finer}: search with `exact`")
      return chosen
    if not set(self.feature_scales) <= set(available):
      raise ConfigError(f"feature scales {self.feature_scales}; this network has {available}")
    return self.feature_scales


EXACT = SearchSettings()
FAST = SearchSettings(finest_stride=2, dtype="auto")
ATLAS = dataclasses.replace(FAST, shared_patches=True)
VOTE = dataclasses.replace(FAST, centred=True, templates="each", shapes=True)
VOTE_FAST = dataclasses.replace(VOTE, organ_patches=True)
PRESETS = {"exact": EXACT, "fast": FAST, "atlas": ATLAS, "vote": VOTE, "vote-fast": VOTE_FAST}
"""`exact` is the published arithmetic; `fast` leaves out features at full resolution; `atlas` besides lets organs share
patches. `vote` goes beyond the paper: templates are looked for one by one, without the bias of the published moves, and
held against their shapes; `vote-fast` besides gives each organ one patch. README and `medlsam localize --help` say what
each costs in accuracy."""

DEFAULT = "vote-fast"
"""The preset of `ml.localize` and of the commands: what measures best for its time (README)."""
