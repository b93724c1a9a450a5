"""Masks of the templates brought into a scan: no network paints, and none has to be fetched.

Around an organ's box the query and each template are laid on the same nodes, boxes upon each other; each template
is registered to the query from there (`registration`) and its mask carried over, and what templates and intensities say
is put together (`evidence`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Integer

from medlsam_jax.errors import ConfigError
from medlsam_jax.geometry import Box, Volume
from medlsam_jax.progress import Progress
from medlsam_jax.template_masks import lattices
from medlsam_jax.template_masks.evidence import around_kernels, combined
from medlsam_jax.template_masks.lattices import Lattice
from medlsam_jax.template_masks.organ_crops import OrganCrop, intensity_of, sample_intensity
from medlsam_jax.template_masks.registration import NODES, gaussian, moved, register
from medlsam_jax.template_masks.votes import Vote


@dataclasses.dataclass(frozen=True)
class VoteSettings:
  """How templates' masks become one; the defaults are the best of `headneck/tuning`.

  Raises:
    ConfigError: a value out of range.
  """

  margin_mm: float = 12.0
  """How far beyond a box an organ is looked for, on each side."""
  margin_share: float = 0.2
  """The same as a share of the box's extent; the larger of both counts."""
  similarity_mm: float = 5.0
  """Standard deviation of the surroundings whose likeness gives a template its weight at a place."""
  sharpness: float = 4.0
  """Weights fall with this power of the mean squared difference; 0: all templates count alike."""
  box_error_mm: float = 4.5
  """Mean error of the faces of a search's box: the more of an organ's size that is, the nearer to their own size
  templates are laid over it. A box of the user's own counts as exact."""
  vote_share: float = 0.5
  """Where the vote prompts a network (`--masks prompted`), its own part in a mask's probability."""

  def __post_init__(self) -> None:
    for name, value in dataclasses.asdict(self).items():
      if not 0 <= value < 1000:
        raise ConfigError(f"masks.{name} {value}: give 0 or more")
    if self.vote_share > 1:
      raise ConfigError(f"masks.vote_share {self.vote_share}: a share is at most 1")
    if self.similarity_mm <= 0 or self.margin_mm <= 0:
      raise ConfigError("masks.similarity_mm and masks.margin_mm must be above 0")


_SIZES_STD = 0.12
"""Standard deviation of the logarithm of an organ's size along an axis, between people."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Frame:
  """The nodes around one organ's box."""

  lattice: Lattice
  edges: Float[np.ndarray, "2 3"]
  step_mm: Float[np.ndarray, "3"]
  intensity: Float32[np.ndarray, "n n n"]
  inside: Bool[np.ndarray, "n n n"]
  """Nodes in the scan."""

  @classmethod
  def of(cls, scan: Volume, box: Box, settings: VoteSettings) -> _Frame:
    edges, spacing_mm = lattices.turned_edges(box, scan.grid), lattices.turned_spacing_mm(scan.grid)
    margin_mm = np.maximum(settings.margin_mm, settings.margin_share * (edges[1] - edges[0]) * spacing_mm)
    lattice = Lattice.around(edges, margin_mm / spacing_mm, (NODES, NODES, NODES))
    image = sample_intensity(scan, lattice)
    return cls(lattice, edges, lattice.step * spacing_mm, intensity_of(image), image > 0)

  def seen_in(self, crop: OrganCrop, box_error_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A template's intensity, its mask, and which nodes lie in its scan: its box in the middle of this one.

    Of the template's own size and the box's each counts by what it is worth: the variance between people against that
    of two faces of the box.
    """
    per_node_mm = self.step_mm / self.lattice.step  # of a turned voxel
    box_mm = (self.edges[1] - self.edges[0]) * per_node_mm
    own_mm = (crop.edges[1] - crop.edges[0]) * crop.step_mm
    # of a normal distribution the standard deviation is 1.25 times the mean error
    error = np.sqrt(2) * 1.2533 * box_error_mm / np.maximum((box_mm + own_mm) / 2, 5.0)
    size_mm = own_mm * (box_mm / own_mm) ** (_SIZES_STD**2 / (_SIZES_STD**2 + error**2))
    half = size_mm / per_node_mm / 2
    middle = self.edges.mean(0)
    lattice = self.lattice.carried(np.stack([middle - half, middle + half]), crop.edges.astype(float))
    image, inside = lattices.sample(crop.image, lattice)
    outside, _ = lattices.sample(crop.image == 0, lattice)
    mask, _ = lattices.sample(crop.mask, lattice)
    return intensity_of(image), mask / np.float32(255), inside & (outside < 0.5)


def organ_probability(
  scan: Volume,
  box: Box,
  crops: Sequence[OrganCrop],
  settings: VoteSettings,
  is_exact: bool = False,
  tell: Callable[[], None] = lambda: None,
) -> tuple[Float32[np.ndarray, "n n n"], Lattice]:
  """How likely the organ is, from 0 to 1 at nodes around its box, and where these lie in the turned scan.

  Args:
    scan: HU.
    box: scan voxels.
    crops: of its templates, at least one.
    settings: of the vote.
    is_exact: whether the box is the user's own.
    tell: called after each template.
  """
  frame = _Frame.of(scan, box, settings)
  images, masks, scaled = [], [], []
  for crop in crops:
    image, mask, inside = frame.seen_in(crop, 0.0 if is_exact else settings.box_error_mm)
    by_mm = register(frame.intensity, image, (frame.inside & inside).astype(np.float32), frame.step_mm)
    image, carried = _carried(image, mask, by_mm, np.asarray(frame.step_mm, np.float32))
    images.append(image)
    masks.append(carried)
    scaled.append(mask)
    tell()
  likeness = gaussian(NODES, settings.similarity_mm / frame.step_mm)
  stacked = (jnp.stack(images), jnp.stack(masks), np.stack(scaled))
  around, sharpness = around_kernels(frame.step_mm), np.float32(settings.sharpness)
  return np.asarray(combined(frame.intensity, *stacked, likeness, around, sharpness)), frame.lattice


@jax.jit
def _carried(image: Array, mask: Array, by_mm: Array, step_mm: Array) -> tuple[Array, Array]:
  """A template registered to the query: its intensity and its mask there."""
  by = by_mm / step_mm[:, None, None, None]
  return moved(image, by), moved(mask, by)


def paint_by_templates(
  scan: Volume,
  boxes: Mapping[str, Sequence[Box]],
  crops: Mapping[str, Sequence[OrganCrop]],
  values: Mapping[str, int],
  settings: VoteSettings | None = None,
  progress: Progress | None = None,
  exact: Collection[str] = (),
) -> Integer[np.ndarray, "z y x"]:
  """Paints each organ where it is likelier than not; the likeliest wins where organs overlap.

  Args:
    scan: HU.
    boxes: organ -> its parts in scan voxels (z, y, x); an organ is looked for around the box of all of them.
    crops: organ -> its templates' crops, at least one each.
    values: organ -> label value, of these organs at least.
    settings: None takes the measured ones.
    progress: called after each template of each organ.
    exact: organs whose boxes are the user's own.

  Returns:
    Label values in the order of the scan's voxels, in the smallest unsigned integer type.

  Raises:
    InputError: a box with NaN.
  """
  array = np.zeros(scan.array.shape, np.min_scalar_type(max((values[organ] for organ in boxes), default=0)))
  labels = lattices.turned(array, scan.grid)
  best = np.full(labels.shape, 0.5, np.float32)
  for organ, vote in votes(scan, boxes, crops, settings, progress, exact):
    more = vote.share > best[vote.window]
    best[vote.window][more] = vote.share[more]
    labels[vote.window][more] = values[organ]
  return array


def votes(
  scan: Volume,
  boxes: Mapping[str, Sequence[Box]],
  crops: Mapping[str, Sequence[OrganCrop]],
  settings: VoteSettings | None = None,
  progress: Progress | None = None,
  exact: Collection[str] = (),
) -> Iterator[tuple[str, Vote]]:
  """Each organ that has a box, with how likely it is where, along the working grid's directions.

  Arguments and errors are those of `paint_by_templates`.
  """
  settings = settings or VoteSettings()
  asked = {organ: parts for organ, parts in boxes.items() if parts}
  count, done = sum(len(crops[organ]) for organ in asked), 0

  def tell() -> None:
    nonlocal done
    done += 1
    if progress is not None:
      progress(done, count)

  shape = lattices.turned(scan.array, scan.grid).shape
  for organ, parts in asked.items():
    likely, lattice = organ_probability(scan, _around(parts), crops[organ], settings, organ in exact, tell)
    (z, y, x), share = lattices.spread(likely, lattice, shape)
    yield organ, Vote((z.start, y.start, x.start), share)


def _around(parts: Sequence[Box]) -> Box:
  corners = np.concatenate([np.sort(part.array(), 0) for part in parts])
  return Box.from_corners(corners.min(0), corners.max(0))
