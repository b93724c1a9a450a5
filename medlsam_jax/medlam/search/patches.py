"""Patches of one scan, cut on the host for a CPU and on the device elsewhere, where the scan goes once and whole.

Voxels are (z, y, x) of the padded working grid.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from medlsam_jax.geometry import PATCH_EDGE
from medlsam_jax.medlam.search import programs
from medlsam_jax.working_grid import PATCH_MARGIN

_STEP = 32
"""Scans on a device have edges of multiples of so many voxels, so that one program cuts patches of most of them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Patches:
  """Where patches of a scan come from."""

  padded: Float32[np.ndarray, "z y x"]
  """Intensities with `PATCH_MARGIN` voxels of 0 on each side."""
  on_device: Float32[Array, "dz dy dx"] | None
  """The same without the margin, with zeros up to the next size; None where patches are cut on the host.

  In single precision for every preset. bfloat16 would lose nothing where the network begins by rounding to it, but
  rounding a torso on the host takes 2 ms, about what half of its transfer does.
  """

  @classmethod
  def of(cls, network: programs.Prepared, padded: Float[np.ndarray, "z y x"]) -> Patches:
    """Those of a scan that `network` is to see."""
    if not network.patches_together:
      return cls(padded, None)
    inside = padded[(slice(PATCH_MARGIN, -PATCH_MARGIN),) * 3]
    whole = np.zeros([-(-size // _STEP) * _STEP for size in inside.shape], np.float32)
    whole[tuple(slice(0, size) for size in inside.shape)] = inside
    return cls(padded, jax.device_put(whole))

  def at(self, centres: Int[np.ndarray, "n 3"], count: int | None = None) -> Float[Array | np.ndarray, "m e e e 1"]:
    """Patches around voxels, where the network takes them from.

    Args:
      centres: within the padded grid.
      count: rows of the result; those after the last centre mean nothing. None takes as many as there are centres.
    """
    count = len(centres) if count is None else count
    if self.on_device is None:
      return pad_batch(crop_patches(self.padded, centres), count)
    return cut(self.on_device, jax.device_put(pad_batch(np.asarray(centres, np.int32), count)))


@jax.jit
def cut(scan: Float32[Array, "z y x"], centres: Int[Array, "n 3"]) -> Float32[Array, "n e e e 1"]:
  """Cubes `[c - e/2, c + e/2)` around voxels of the padded grid, cut from a scan without margin; 0 beyond it."""
  around = jnp.pad(scan, PATCH_EDGE)  # of which PATCH_MARGIN is the padded grid's, and as much for what lies beyond it
  cubes = jax.vmap(lambda corner: jax.lax.dynamic_slice(around, corner, (PATCH_EDGE,) * 3))(centres)
  return cubes[..., None]


def crop_patches(
  padded: Float32[np.ndarray, "z y x"], centres: Int[np.ndarray, "n 3"]
) -> Float32[np.ndarray, "n e e e 1"]:
  """The same on the host, from the padded grid."""
  patches = np.zeros((len(centres), *(PATCH_EDGE,) * 3, 1), np.float32)
  for patch, centre in zip(patches, centres, strict=True):
    low = np.asarray(centre) - PATCH_EDGE // 2
    start = np.maximum(low, 0)
    stop = np.maximum(np.minimum(low + PATCH_EDGE, padded.shape), start)
    source = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    into = tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))
    patch[..., 0][into] = padded[source]
  return patches


def pad_batch(array: np.ndarray, count: int = programs.POINTS_PER_CALL) -> np.ndarray:
  """Zeros after the last row until there are `count`."""
  return np.pad(array, [(0, count - len(array)), *[(0, 0)] * (array.ndim - 1)])
