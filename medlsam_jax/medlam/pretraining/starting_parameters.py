"""Parameters of a trained MedLAM as the start of another run, of the same width or of a multiple of it."""

from __future__ import annotations

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.network.medlam import MedLAM
from medlsam_jax.medlam.pretraining.settings import PretrainSettings
from medlsam_jax.medlam.pretraining.step import make_module, network_shapes

_NOISE = 0.1
"""Standard deviation of the relative noise on repeated kernels. Without it the copies would learn the same for ever."""
_LEVELS = 16
"""Voxels per cell of the deepest stage along each axis."""


def starting_parameters(module: MedLAM, params: PyTree, settings: PretrainSettings) -> PyTree:
  """Network parameters for the first step of a run, from those of a trained network.

  A network of a multiple of the width computes what the narrow one does, but for the noise: every channel is repeated,
  and the copies of a kernel's input share its weight ("Net2Net: accelerating learning via knowledge transfer", Chen et
  al., 2016). Stages that only the given network has are left out.

  Args:
    module, params: the trained network.
    settings: the run, whose seed draws the noise.

  Raises:
    ConfigError: another patch edge, a width that is no multiple, or stages that the given network does not have.
  """
  wanted = make_module(settings)
  times, rest = divmod(wanted.base_channels, module.base_channels)
  if rest or not times or wanted.patch_edge != module.patch_edge:
    raise ConfigError(
      f"a network of width {wanted.base_channels} and patch edge {wanted.patch_edge} cannot start from one of width "
      f"{module.base_channels} and patch edge {module.patch_edge}: the edges must be equal, the width a multiple"
    )
  given, shapes = flatten_dict(params, sep="."), flatten_dict(network_shapes(settings), sep=".")
  missing = sorted(shapes.keys() - given.keys())
  if missing:
    raise ConfigError(f"the network to start from has no {missing[0]}: it was made for coarser features")
  rng, cells = np.random.default_rng(settings.seed), (module.patch_edge // _LEVELS) ** 3
  started = {}
  for name in sorted(shapes):
    value = np.asarray(given[name], np.float32)
    block = cells if name == "fc1.kernel" else 1
    started[name] = value if times == 1 else _widened(value, shapes[name].shape, times, block, rng)
  return unflatten_dict(started, sep=".")


def _widened(value: np.ndarray, shape: tuple[int, ...], times: int, block: int, rng: np.random.Generator) -> np.ndarray:
  """One kernel or bias, its channels repeated along the axes that the wider shape has more of.

  `block` inputs in a row belong to one channel: the cells of the deepest stage, for the first linear layer.
  """
  if value.shape[-1] != shape[-1]:
    value = np.repeat(value, times, -1)
  if value.ndim > 1 and value.shape[-2] != shape[-2]:
    apart = value.reshape(*value.shape[:-2], -1, block, value.shape[-1])
    value = np.repeat(apart, times, -3).reshape(shape) / times
  if value.ndim > 1:
    value = value * (1 + _NOISE * rng.standard_normal(value.shape))
  return value.astype(np.float32)
