"""Where the agents of a search start: among the tissue around the scan's middle, as published, else in the body."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import SupportsIndex, cast

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy import ndimage

from medlsam_jax import notices, working_grid
from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.geometry import WORKING_SPACING_MM

START_REACH = 10
"""Agents start within [-10, 10) voxels of the middle of the padded scan."""

_BODY_INTENSITY, _LUNG_INTENSITY = working_grid.hu_to_intensity(np.array([-200.0, -900.0])).tolist()
"""Fat, muscle and bone lie above the first; air never does, however noisy."""
_LUNG_SHARE = 0.01
"""A greater share of lung lies above the second than of the noise of air."""

_THIN_VOX = 3
"""Twice so many working voxels (18 mm) are the thickness of a couch at most."""

Key = int | SupportsIndex | jax.Array


def draw_starts(
  padded: Float[np.ndarray, "z y x"], key: Key, agents: int, name: str = "the scan"
) -> Int[np.ndarray, "agents 3"]:
  """Uniform draws, with repetition, among the voxels around the middle of the padded scan that are not air.

  Where there is nothing but air around the middle (a frame that is half empty, a patient off centre), those around the
  middle of the largest connected body, with a warning.

  Raises:
    InputError: the whole scan is air.
    ConfigError: the key is neither a whole number from 0 nor one `jax.random` key.
  """
  generator = np.random.default_rng(seed_of(key))
  middle = np.array(padded.shape) // 2
  window = _reach(middle)
  tissue = padded[window] >= working_grid.AIR_INTENSITY
  if not _is_tissue(padded[window]):
    body = _body(padded)
    if body is not None:
      places = np.argwhere(body)
      centre = places[np.argmin(np.square(places - (places.min(0) + places.max(0)) / 2).sum(1))]
      away = float(np.linalg.norm(centre - middle)) * WORKING_SPACING_MM
      notices.warn(
        f"{name}: nothing but air within {START_REACH * WORKING_SPACING_MM:g} mm of the middle of the scan; the search "
        f"starts in the middle of the body, {away:.0f} mm away"
      )
      window = _reach(centre)
      tissue = body[window]
  if not tissue.any():
    raise InputError(f"{name}: nothing but air, so that no agent can start; check that it is in HU and shows a patient")
  candidates = np.argwhere(tissue) + [part.start for part in window]
  return candidates[generator.integers(len(candidates), size=agents)]


def moved(places: Int[np.ndarray, "agents 3"], shape: tuple[int, ...]) -> tuple[str, ...]:
  """A sentence, a doubt of every organ, where drawn starts do not lie around the middle of a padded scan."""
  away = places - np.array(shape) // 2
  if np.abs(away).max() <= START_REACH:
    return ()
  distance_mm = float(np.linalg.norm(away.mean(0))) * WORKING_SPACING_MM
  return (f"the middle of the scan is air: the search started in the body, {distance_mm:.0f} mm away",)


def given_starts(
  starts: Num[np.ndarray, "agents 3"] | Sequence[Sequence[int]], padded: np.ndarray, name: str
) -> Int[np.ndarray, "agents 3"]:
  """Starts of the user's own, as whole voxels.

  Raises:
    InputError: they are not voxels of the padded grid.
  """
  places = np.asarray(starts)
  if places.ndim != 2 or places.shape[1] != 3 or not len(places):
    raise InputError(f"{name}: starts of shape {places.shape}; give (z, y, x) for each agent")
  if not np.isfinite(places.astype(float)).all():
    raise InputError(f"{name}: a start is not a finite number")
  places = np.rint(places).astype(int)
  if (places < 0).any() or (places >= padded.shape).any():
    raise InputError(f"{name}: a start lies outside the padded working grid of {padded.shape} voxels")
  return places


def seed_of(key: object) -> int | list[int]:
  """What NumPy's generator is seeded with: the number itself, or the words of a `jax.random` key.

  Raises:
    ConfigError: a truth value, a fraction, a negative number, several keys, or something else.
  """
  dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", ())
  if isinstance(dtype, np.dtype) and dtype.kind == "u" and shape in ((2,), (4,)):
    return np.asarray(key).tolist()  # as `jax.random.PRNGKey` makes it
  if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) and not shape:
    return np.asarray(jax.random.key_data(cast(jax.Array, key))).ravel().tolist()
  try:
    # Python counts truth values as numbers
    seed = -1 if isinstance(key, bool | np.bool_) else operator.index(cast(SupportsIndex, key))
  except TypeError:
    seed = -1
  if seed < 0:
    raise ConfigError(f"key {key!r}; give a whole number from 0, or one jax.random key")
  return seed


def _reach(centre: Int[np.ndarray, "3"]) -> tuple[slice, ...]:
  return tuple(slice(max(middle - START_REACH, 0), middle + START_REACH) for middle in centre.tolist())


def _is_tissue(part: np.ndarray) -> bool:
  """Whether more than noisy air is there."""
  return bool((part >= _BODY_INTENSITY).any() or np.mean(part >= _LUNG_INTENSITY) >= _LUNG_SHARE)


def _body(padded: Float[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"] | None:
  """The inside of the largest connected body; None where there is nothing as dense as a body.

  What is thin, such as the couch and clothes, does not count while there is anything thicker.
  """
  dense = padded >= _BODY_INTENSITY
  thick = ndimage.binary_erosion(dense, iterations=_THIN_VOX)
  pieces, count = ndimage.label(thick if thick.any() else dense)
  return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]) if count else None
