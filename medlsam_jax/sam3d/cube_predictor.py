"""A base with its adapters made ready: cubes in HU and prompts -> logits, by one compiled program for all cubes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int32

from medlsam_jax import display, notices, platform
from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.adapter_file import Adapted
from medlsam_jax.sam3d.cube_settings import CubeSettings, to_pixels
from medlsam_jax.sam3d.network.prompts import ABSENT, FACES, NEGATIVE, POSITIVE
from medlsam_jax.sam3d.network.sam3d import Sam3D

POINTS = 4
"""Points that may be added to the six faces of a box: so many are always given, the rest of them `ABSENT`."""
CUBES_AT_ONCE = 4
"""That an accelerator takes in a call."""


class CubePredictor:
  """Answers for batches of cubes, each with one organ's box and points.

  Args:
    adapted: of `read_adapters`, or a state of training.
    settings: how cubes are cut.
    dtype: of operands.
    source: for messages.
  """

  def __init__(self, adapted: Adapted, settings: CubeSettings, dtype: DTypeLike = "float32", source: str = "adapters"):
    self.settings, self.source, self.header = settings, source, adapted.header
    self.module = adapted.module.clone(dtype=jnp.dtype(dtype), remat=False)
    self._trained, self._frozen = jax.device_put((adapted.trained, adapted.frozen))
    self.at_once = CUBES_AT_ONCE if platform.patches_together() else 1
    self._told = set[str]()

  @property
  def operands(self) -> str:
    """Type of the operands of products."""
    return str(jnp.dtype(self.module.dtype).name)

  @property
  def edge(self) -> int:
    """Voxels an edge of a cube."""
    return self.module.variant.cube_edge

  def warn_of_unlearned(self, organs: Iterable[str]) -> None:
    """Warns once of each organ that the adapters have not learned, where their file says which they have."""
    learned = self.settings.organs
    strange = [organ for organ in organs if learned and organ not in learned and organ not in self._told]
    if strange:
      self._told.update(strange)
      notices.warn(
        f"{self.source}: these adapters have not learned {', '.join(strange)}, but {display.some(learned)}: look "
        "closely at what they paint"
      )

  def __call__(
    self,
    cubes: Float32[np.ndarray, "n z y x"],
    faces: Float[np.ndarray, "n 6 3"],
    points: Float[np.ndarray, "n t 3"],
    positive: Int32[np.ndarray, "n t"],
  ) -> Float32[np.ndarray, "n z y x"]:
    """Logits of one organ in each cube, above zero inside; cubes are filled up to the size of the program's batch.

    Args:
      cubes: HU.
      faces: points on the faces of a box in the order of `geometry.FACES`, voxels of the cube (z, y, x).
      points: at most `POINTS`, likewise.
      positive: of each point 1 inside the organ, 0 outside, -1 no point.

    Raises:
      ValueError: more than `POINTS` points.
    """
    if points.shape[1] > POINTS:
      raise ValueError(f"{points.shape[1]} points in a cube; {POINTS} at most are taken")
    prompts, labels = prompts_of(faces, points, positive)
    answers = []
    for start in range(0, len(cubes), self.at_once):
      some = slice(start, start + self.at_once)
      given = [_filled(each[some], self.at_once) for each in (cubes, prompts[:, None], labels[:, None])]
      run = _program(self.module, self.settings.window_hu)
      answers.append(np.asarray(run(self._trained, self._frozen, *given))[: len(cubes[some]), 0])
    return np.concatenate(answers)


def prompts_of(
  faces: Float[np.ndarray, "n 6 3"], points: Float[np.ndarray, "n t 3"], positive: Int32[np.ndarray, "n t"]
) -> tuple[Float32[np.ndarray, "n p 3"], Int32[np.ndarray, "n p"]]:
  """Points and labels as the network takes them, `6 + POINTS` an organ."""
  extra = POINTS - points.shape[1]
  places = np.concatenate([faces, points, np.zeros((len(faces), extra, 3))], 1).astype(np.float32)
  kinds = np.select([positive == 1, positive == 0], [POSITIVE, NEGATIVE], ABSENT)
  kinds = np.pad(kinds, ((0, 0), (0, extra)), constant_values=ABSENT)
  return places, np.concatenate([np.tile(FACES, (len(faces), 1)), kinds], 1).astype(np.int32)


@functools.lru_cache(maxsize=2)
def _program(module: Sam3D, window_hu: tuple[float, float]) -> Callable[..., Array]:
  def run(
    trained: parameters.Variables, frozen: parameters.Variables, cubes: Array, prompts: Array, labels: Array
  ) -> Array:
    shown = to_pixels(cubes, window_hu, module.variant.base.pixels)
    return parameters.apply(module, trained, frozen, shown, prompts, labels)

  return cast("Callable[..., Array]", jax.jit(run))


def _filled(array: np.ndarray, count: int) -> np.ndarray:
  return np.concatenate([array, np.repeat(array[-1:], count - len(array), 0)]) if len(array) < count else array
