"""What a template leaves behind of an organ besides features: a small picture with its surroundings, and its mask."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, Integer, UInt8

from medlsam_jax.geometry import WORKING_SPACING_MM, Box, Volume
from medlsam_jax.label_boxes import LabelBox
from medlsam_jax.template_masks import lattices
from medlsam_jax.template_masks.lattices import Lattice
from medlsam_jax.working_grid import hu_to_intensity

MARGIN_MM = 21.0
MARGIN_SHARE = 0.35
"""A crop reaches that far beyond its organ's box, or by that share of the box where it is more: half as far again as a
vote looks around a box, so that a template may be smaller than the query."""
MOST_NODES = 64
"""Along an axis; a large organ is kept coarser than 3 mm."""
_GREYS = 254


@dataclasses.dataclass(frozen=True, eq=False)
class OrganCrop:
  """Nodes around an organ's box, (z, y, x) along the working grid's axes."""

  image: UInt8[np.ndarray, "z y x"]
  """1 to 255: intensity 0 to 1 as the network sees it; 0: outside the scan."""
  mask: UInt8[np.ndarray, "z y x"]
  """Share of the organ, 0 to 255."""
  edges: Float32[np.ndarray, "2 3"]
  """Outer faces of the organ's box, in edges of the nodes."""
  step_mm: Float32[np.ndarray, "3"]
  """Between nodes."""

  @classmethod
  def of(cls, scan: Volume, labels: Integer[np.ndarray, "z y x"], value: int, where: LabelBox) -> OrganCrop:
    """An organ of a scan in HU; `labels` are on the scan's voxels, `where` is the box of `value` in them."""
    edges, spacing_mm = lattices.turned_edges(Box.from_slices(where), scan.grid), lattices.turned_spacing_mm(scan.grid)
    extent_mm = (edges[1] - edges[0]) * spacing_mm
    margin_mm = np.maximum(MARGIN_MM, MARGIN_SHARE * extent_mm)
    z, y, x = np.clip(np.ceil((extent_mm + 2 * margin_mm) / WORKING_SPACING_MM).astype(int), 1, MOST_NODES).tolist()
    lattice = Lattice.around(edges, margin_mm / spacing_mm, (z, y, x))
    at = (edges - lattice.low) / lattice.step
    share = _share(lattices.turned(labels, scan.grid), value, edges, lattice)
    step_mm = (lattice.step * spacing_mm).astype(np.float32)
    return cls(sample_intensity(scan, lattice), share, at.astype(np.float32), step_mm)


def _share(
  labels: Integer[np.ndarray, "z y x"], value: int, edges: Float[np.ndarray, "2 3"], lattice: Lattice
) -> UInt8[np.ndarray, "a b c"]:
  """How much of each node is `value`, from the part of a turned label map around its box alone."""
  reach = np.ceil(np.maximum(lattice.step, 1)) + 1
  low = np.maximum(edges[0] - reach, 0).astype(int)
  high = np.minimum(edges[1] + reach, labels.shape).astype(int)
  mask = labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] == value
  share, _ = lattices.sample(mask, Lattice(lattice.low - low, lattice.step, lattice.count))
  return np.rint(255 * share).astype(np.uint8)


def sample_intensity(scan: Volume, lattice: Lattice) -> UInt8[np.ndarray, "z y x"]:
  """A scan in HU at the nodes, in the greys of `OrganCrop.image`."""
  hu, inside = lattices.sample(lattices.turned(scan.array, scan.grid), lattice)
  return np.where(inside, 1 + np.rint(_GREYS * hu_to_intensity(hu)), 0).astype(np.uint8)


def intensity_of(image: Integer[np.ndarray, "z y x"] | Float[np.ndarray, "z y x"]) -> Float32[np.ndarray, "z y x"]:
  """Greys of `OrganCrop.image` as intensity; of a node outside the scan 0."""
  return np.maximum((np.asarray(image, np.float32) - 1) / _GREYS, 0)
