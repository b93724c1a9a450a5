"""What a recipe tells the engine: all that the engine does not know of what it trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from jax.sharding import Mesh
from jaxtyping import Array

from medlsam_jax.train.loading import Batches
from medlsam_jax.train.settings import RunSettings

State = TypeVar("State", bound=NamedTuple)
Batch = TypeVar("Batch", bound=NamedTuple)
Json = dict[str, Any]
"""What a checkpoint keeps beside its arrays."""


@dataclasses.dataclass(frozen=True)
class Measurement(Generic[State]):
  """Figures of a state, by the number of its step; measured after the last step, too."""

  every_steps: int
  """0 never."""
  of: Callable[[int, State], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Identity:
  """What makes a resumed run the same run."""

  drawn_from: str
  """Names what batches are drawn from. Where it has changed, a resumed run warns."""
  data: str = "data"
  """What that is called in the warning."""
  origin: Mapping[str, str] = dataclasses.field(default_factory=dict)
  """Kept in every checkpoint for `differs` to compare."""
  differs: Callable[[Json, Json], str] = lambda config, position: ""
  """Settings and position of a checkpoint -> why this run cannot go on from it; empty where it can."""


@dataclasses.dataclass(frozen=True)
class Recipe(Generic[State, Batch]):
  """A run: what changes, how, on what, and how it is measured. States and batches are named tuples of arrays."""

  settings: RunSettings
  mesh: Mesh
  shapes: State
  """Shapes, dtypes and shardings of what `init` gives; nothing is computed (`sharding.laid_out`)."""
  init: Callable[[], State]
  """State before the first step, in arrays of its own: a step uses up those that it is given."""
  step: Callable[..., tuple[State, dict[str, Array]]]
  """Jitted: state and batch -> state and metrics. With `optimizer.total_seconds` it is given a third argument, the
  share of the time that is done (float32, replicated)."""
  batches: Batches[Batch]
  identity: Identity
  validate: Sequence[Measurement[State]] = ()
  gives_best: bool = False
  """The state before the first step is measured, every state that is measured is kept, and the run gives the best of
  them by `checkpoint.best_metric`; otherwise it gives the last."""
  goes_on: Callable[[int], None] = lambda done: None
  """Called in the main process, before anything is measured, with the steps that are done already."""
