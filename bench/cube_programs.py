"""The volumetric network's forward pass and training step, as shapes and with random weights: for what times either."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.stages_sam import random_sam
from medlsam_jax.network import Variables
from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.cube_predictor import prompts_of
from medlsam_jax.sam3d.network.prompts import points_of_box
from medlsam_jax.sam3d.network.sam3d import Sam3D
from medlsam_jax.sam3d.network.variants import VARIANTS, Sam3DVariant
from medlsam_jax.sam3d.training.labelled_cubes import CubeBatch
from medlsam_jax.sam3d.training.settings import AdaptSettings, CubeDataSettings
from medlsam_jax.sam3d.training.step import Adapting, AdaptState, make_step, source_edge
from medlsam_jax.train import sharding
from medlsam_jax.train.optimizer import make_optimizer
from medlsam_jax.train.work import flop_of


class Asked(NamedTuple):
  """A cube and the prompts of `k` organs in it, as the network takes them."""

  volume: Any
  points: Any
  labels: Any


class Stepping(NamedTuple):
  """What a step takes."""

  state: AdaptState
  batch: CubeBatch
  frozen: Variables


def settings_of(name: str, dtype: str = "float32", remat: bool = True, organs: int = 1) -> AdaptSettings:
  """The recipe of one cube a step."""
  data = CubeDataSettings(organs_per_cube=organs)
  given: dict[str, Any] = {"dtype": dtype, "remat": remat, "data": data}
  return AdaptSettings(model=name, network=VARIANTS[name].base.name, **given)


def module_of(settings: AdaptSettings) -> Sam3D:
  return Sam3D(VARIANTS[settings.model], settings.dtype, settings.remat)


def boxes(variant: Sam3DVariant, organs: int) -> np.ndarray:
  """Low and high corners `(k, 2, 3)` of boxes side by side in the middle of a cube."""
  edge = variant.cube_edge
  low, high = np.full((organs, 3), edge // 4), np.full((organs, 3), 3 * edge // 4 - 1)
  low[:, 2] = edge // 4 + np.arange(organs) * (edge // 2) // organs
  high[:, 2] = low[:, 2] + max(edge // 2 // organs, 2) - 1
  return np.stack([low, high], 1)


def asked(variant: Sam3DVariant, organs: int) -> Asked:
  """A random cube and boxes; the points that may be added to each are absent, as in painting."""
  volume = np.random.default_rng(0).standard_normal((1, *(variant.cube_edge,) * 3), dtype=np.float32)
  faces = np.stack([points_of_box(box) for box in boxes(variant, organs)])
  points, labels = prompts_of(faces, np.zeros((organs, 0, 3)), np.zeros((organs, 0), np.int32))
  return Asked(volume, points[None], labels[None])


def masks(variant: Sam3DVariant, organs: int) -> np.ndarray:
  """The boxes' voxels, bool `(1, k, z, y, x)`."""
  filled = np.zeros((1, organs, *(variant.cube_edge,) * 3), bool)
  for organ, (low, high) in enumerate(boxes(variant, organs)):
    filled[0, organ][tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
  return filled


def shapes_of(tree: Any) -> Any:
  """Shapes of arrays."""
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


@functools.cache
def forward_flop(variant: Sam3DVariant, organs: int) -> float:
  """Work of the network on one cube."""
  module = Sam3D(variant)
  trained, frozen = parameters.split(parameters.shapes(module))
  return flop_of(functools.partial(parameters.apply, module), trained, frozen, *shapes_of(asked(variant, organs)))


@functools.cache
def step_flop(settings: AdaptSettings) -> float:
  """Work of a training step, with what `remat` works out again."""
  return flop_of(program(settings), *step_shapes(settings))


def program(settings: AdaptSettings) -> Any:
  """The jitted step of one device."""
  return make_step(settings, module_of(settings), _mesh(settings))


def _mesh(settings: AdaptSettings) -> Any:
  return sharding.make_mesh(settings.mesh, jax.devices()[:1])


def step_shapes(settings: AdaptSettings) -> Stepping:
  """Shapes of what a step takes, none of it computed."""
  trained, frozen = parameters.split(parameters.shapes(module_of(settings)))
  moments = jax.eval_shape(make_optimizer(settings.optimizer).init, trained)
  shape: Any = jax.ShapeDtypeStruct
  state = AdaptState(shape((), jnp.int32), trained, moments)
  edge, organs = source_edge(VARIANTS[settings.model].cube_edge, settings), settings.data.organs_per_cube
  cube = (1, edge, edge, edge)
  batch = (((cube), jnp.int16), (cube, jnp.uint8), ((1, organs), jnp.uint8), ((1,), jnp.int32))
  return Stepping(state, CubeBatch(*(shape(*each) for each in batch)), frozen)


def stepping(settings: AdaptSettings) -> Stepping:
  """Random weights, the state before the first step, and a cube that shows its organs in the middle."""
  variant, module = VARIANTS[settings.model], module_of(settings)
  adapting = Adapting(settings, module, random_sam(variant.base), _mesh(settings))
  organs, edge = settings.data.organs_per_cube, source_edge(variant.cube_edge, settings)
  hu = np.random.default_rng(0).integers(-200, 300, (1, edge, edge, edge)).astype(np.int16)
  numbers, around = np.arange(1, organs + 1, dtype=np.uint8), edge - variant.cube_edge
  shown = (masks(variant, organs)[0] * numbers[:, None, None, None]).max(0)
  labels = np.pad(shown, [(around // 2, around - around // 2)] * 3)[None]
  batch = CubeBatch(hu, labels, numbers[None], np.zeros(1, np.int32))
  return Stepping(adapting.start(), jax.device_put(batch), adapting.frozen)


@dataclasses.dataclass
class Step:
  """A compiled step that goes on from its own result; `temporary` is bytes beside state and batch."""

  settings: AdaptSettings

  def __post_init__(self) -> None:
    self._given = stepping(self.settings)
    self._run = program(self.settings).lower(*self._given).compile()
    self.temporary: int = self._run.memory_analysis().temp_size_in_bytes

  def __call__(self) -> Any:
    state, metrics = self._run(*self._given)
    self._given = self._given._replace(state=state)  # the state given is donated
    return metrics


def forward(name: str, dtype: Any, organs: int) -> Any:
  """A call of the whole network on a cube that lies on the device."""
  settings = settings_of(name, jnp.dtype(dtype).name, remat=False)
  module = module_of(settings)
  drawn = parameters.start(module, random_sam(module.variant.base), jax.random.key(0))
  given = jax.device_put((*parameters.split(drawn), *asked(module.variant, organs)))
  run = jax.jit(functools.partial(parameters.apply, module))
  return lambda: run(*given)
