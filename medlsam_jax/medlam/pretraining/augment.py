"""From an 80-cube to an augmented 64-view and the true place of each of its voxels, on the device.

Source: MedLSAM's training program (reference, section 5). Image and places are warped by one sampling grid: a voxel's
place is where it was sampled, so the two cannot drift apart.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from medlsam_jax.geometry import PATCH_EDGE

_BANDS = ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8))
_BAND_WIDTH = 0.1
_NOWHERE = 1e5
"""Voxel coordinate of what a view does not show."""


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
  """Probabilities and strengths; the defaults are the published ones."""

  intensity_probability: float = 0.5
  noise_probability: float = 0.5
  noise_sd: float = 0.2
  affine_probability: float = 0.5
  scale: float = 0.1
  rotation_degrees: float = 15.0
  elastic_probability: float = 0.5
  control_points: int = 5
  displacement_vox: float = 3.0
  locked_layers: int = 2
  """Layers of control points at each border that do not move; 2 of 5 leave one free point, as in the published run."""
  blur_probability: float = 0.0
  """Of each axis on its own: thicker slices or coarser pixels than those of the scan. Not in the published run."""
  cut_probability: float = 0.0
  """Of an end of the scan within the view, beyond which there is air, as beyond a real scan's field of view. Not in the
  published run."""


def remap_intensity(key: Array, image: Array) -> Array:
  """Mean of three sigmoids of width 0.1 centred at uniform draws from three bands of intensity."""
  low, high = jnp.array(_BANDS).T
  centres = jax.random.uniform(key, (3,), minval=low, maxval=high)
  return jax.nn.sigmoid((image[..., None] - centres) / _BAND_WIDTH).mean(-1)


def add_noise(key: Array, image: Array, sd: float) -> Array:
  """Gaussian noise whose standard deviation is uniform up to `sd`."""
  size, draw = jax.random.split(key)
  return image + jax.random.uniform(size) * sd * jax.random.normal(draw, image.shape)


def blur(key: Array, image: Float[Array, "z y x"], probability: float) -> Float[Array, "z y x"]:
  """Mean of each voxel and its two neighbours along an axis, axis by axis; their weight is uniform up to a third."""
  chances, weights = jax.random.split(key)
  chosen = jax.random.uniform(chances, (3,)) < probability
  shares = jnp.where(chosen, jax.random.uniform(weights, (3,)) / 3, 0.0)
  for axis in range(3):
    padded = jnp.pad(image, [(1, 1) if axis == each else (0, 0) for each in range(3)], mode="edge")
    sides = [jax.lax.slice_in_dim(padded, at, at + image.shape[axis], axis=axis) for at in (0, 2)]
    image = (1 - 2 * shares[axis]) * image + shares[axis] * (sides[0] + sides[1])
  return image


def field_of_view(key: Array, edge: int) -> Bool[Array, "e e e"]:
  """Voxels of a view up to a plane across one axis; at least 8 voxels beyond the view's middle are left."""
  axis_key, side_key, depth_key = jax.random.split(key, 3)
  axis, far = jax.random.randint(axis_key, (), 0, 3), jax.random.bernoulli(side_key)
  depth = jax.random.uniform(depth_key) * (edge // 2 - 8)
  along = jnp.moveaxis(jnp.indices((edge,) * 3), 0, -1)[..., axis]
  return jnp.where(far, along < edge - depth, along >= depth)


def affine_matrix(key: Array, scale: float, rotation_degrees: float) -> Float[Array, "3 3"]:
  """Rotation about the three axes times a scale of each axis, both uniform within their bounds."""
  turn, stretch = jax.random.split(key)
  angles = jnp.deg2rad(jax.random.uniform(turn, (3,), minval=-rotation_degrees, maxval=rotation_degrees))
  matrix = jnp.diag(1.0 + jax.random.uniform(stretch, (3,), minval=-scale, maxval=scale))
  for axis in range(3):
    c, s = jnp.cos(angles[axis]), jnp.sin(angles[axis])
    i, j = [a for a in range(3) if a != axis]
    matrix = jnp.eye(3).at[i, i].set(c).at[j, j].set(c).at[i, j].set(-s).at[j, i].set(s) @ matrix
  return matrix


def spline_basis(positions: np.ndarray, edge: int, control_points: int) -> Float[np.ndarray, "n control"]:
  """Uniform cubic B-spline weights of `control_points` over a cube of `edge` voxels, one row a position."""
  cells = control_points - 3
  u = np.clip((positions + 0.5) / edge * cells, 0, cells)
  distance = np.abs(u[:, None] - (np.arange(control_points) - 1))
  near = 2 / 3 - distance**2 + distance**3 / 2
  far = np.clip(2 - distance, 0, None) ** 3 / 6
  return np.where(distance < 1, near, far).astype(np.float32)


def elastic_field(key: Array, settings: AugmentSettings, positions: np.ndarray, edge: int) -> Float[Array, "e e e 3"]:
  """Smooth random displacement in voxels at the lattice `positions` of a cube of `edge` voxels."""
  n, free = settings.control_points, np.zeros(settings.control_points, np.float32)
  free[settings.locked_layers : n - settings.locked_layers] = 1.0
  reach = settings.displacement_vox
  control = jax.random.uniform(key, (n, n, n, 3), minval=-reach, maxval=reach)
  control = control * (free[:, None, None] * free[:, None] * free)[..., None]
  basis = jnp.asarray(spline_basis(positions, edge, n))
  return jnp.einsum("zi,yj,xk,ijkc->zyxc", basis, basis, basis, control, optimize=True)


def sample_linear(image: Float[Array, "z y x"], places: Float[Array, "*n 3"]) -> Float[Array, "*n"]:
  """Trilinear value of an image at voxel coordinates; 0 beyond its outer voxel centres, fading in over one voxel.

  The eight neighbours of every voxel are laid side by side first, so that each place costs one gather, not eight.
  """
  padded = jnp.pad(image, 1)
  corners = [(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
  depth, height, width = (size + 1 for size in image.shape)
  packed = jnp.stack([padded[z : z + depth, y : y + height, x : x + width] for z, y, x in corners], -1)
  last = jnp.array(image.shape)
  shifted = jnp.clip(places + 1, 0, last + 1)
  low = jnp.minimum(jnp.floor(shifted).astype(jnp.int32), last)
  part = shifted - low
  index = (low[..., 0] * height + low[..., 1]) * width + low[..., 2]
  near = packed.reshape(-1, 8)[index]
  weights = [jnp.where(jnp.array(c) == 1, part, 1 - part).prod(-1) for c in corners]
  return (near * jnp.stack(weights, -1)).sum(-1)


def augmented_view(
  key: Array, cube: Float[Array, "e e e"], settings: AugmentSettings, patch_edge: int = PATCH_EDGE
) -> tuple[Float[Array, "v v v"], Float[Array, "v v v 3"]]:
  """One augmented view of edge `patch_edge` and, for each of its voxels, the cube voxel (z, y, x) it shows.

  Outside the cube the image is air (0); places stay exact there. Beyond a cut nothing is shown, so that places are far
  from all others.
  """
  keys = jax.random.split(key, 8)
  edge = cube.shape[0]

  def chance(k: Array, probability: float) -> Array:
    return jax.random.uniform(k) < probability

  image = jnp.where(chance(keys[0], settings.intensity_probability), remap_intensity(keys[1], cube), cube)
  noisy = chance(keys[2], settings.noise_probability)
  image = jnp.where(noisy, add_noise(keys[3], image, settings.noise_sd), image)
  if settings.blur_probability:
    image = blur(jax.random.fold_in(key, 1), image, settings.blur_probability)

  first = (edge - patch_edge) // 2
  along = np.arange(first, first + patch_edge, dtype=np.float32)
  lattice = jnp.stack(jnp.meshgrid(along, along, along, indexing="ij"), -1)
  matrix = affine_matrix(keys[5], settings.scale, settings.rotation_degrees)
  matrix = jnp.where(chance(keys[4], settings.affine_probability), matrix, jnp.eye(3))
  centre = (edge - 1) / 2
  bend = chance(keys[6], settings.elastic_probability) * elastic_field(keys[7], settings, along, edge)
  places = (lattice - centre) @ matrix.T + centre + bend
  view = sample_linear(image, places)
  if settings.cut_probability:
    cut, plane = jax.random.split(jax.random.fold_in(key, 2))
    seen = field_of_view(plane, patch_edge) | ~chance(cut, settings.cut_probability)
    view, places = jnp.where(seen, view, 0.0), jnp.where(seen[..., None], places, _NOWHERE)
  return view, places
