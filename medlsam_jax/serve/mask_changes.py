"""A mask of a whole scan from click to click: what changes of it, and how it was before, in little time and memory."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool

from medlsam_jax.geometry import Box

Mask = Bool[np.ndarray, "z y x"]


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
  """What an answer changes in the viewer's mask."""

  box: Box | None
  """Smallest around the voxels that differ from what the viewer has; None where none does."""
  mask: Mask | None
  """The new mask in that box."""

  @property
  def where(self) -> tuple[slice, slice, slice]:
    """The box in an array of the image's voxels; all of it where there is none."""
    if self.box is None:
      return slice(None), slice(None), slice(None)
    low, high = self.box.array().astype(int).tolist()
    z, y, x = (slice(first, last + 1) for first, last in zip(low, high, strict=True))
    return z, y, x

  @classmethod
  def of(cls, mask: Mask, before: Mask | None = None) -> Change:
    """From one mask of an image, or from an empty one, to another."""
    box = _differing(mask, before)
    return cls(None, None) if box is None else cls(box, mask[cls(box, None).where].copy())

  def laid(self, shape: tuple[int, ...]) -> Mask:
    """What it makes of an empty mask."""
    mask = np.zeros(shape, bool)
    if self.mask is not None:
      mask[self.where] = self.mask
    return mask


def _differing(mask: Mask, before: Mask | None) -> Box | None:
  """Box of the voxels that differ: slice by slice first, since most slices of a scan are empty in both."""
  hit = [i for i, plane in enumerate(mask) if (plane.any() if before is None else not np.array_equal(plane, before[i]))]
  if not hit:
    return None
  block = mask[hit[0] : hit[-1] + 1]
  box = Box.of_mask(block if before is None else block != before[hit[0] : hit[-1] + 1])
  if box is None:
    return None
  return Box.from_corners(box.array()[0] + (hit[0], 0, 0), box.array()[1] + (hit[0], 0, 0))


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
  """A mask of an image at an eighth of its tight box's voxels."""

  box: Box | None
  shape: tuple[int, ...]
  bits: bytes

  @classmethod
  def of(cls, mask: Mask) -> Packed:
    """Packs it."""
    change = Change.of(mask)
    return cls(change.box, mask.shape, b"" if change.mask is None else np.packbits(change.mask).tobytes())

  def unpacked(self) -> Mask:
    """The mask."""
    mask = np.zeros(self.shape, bool)
    if self.box is not None:
      part = mask[Change(self.box, None).where]
      part[...] = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=part.size).reshape(part.shape)
    return mask
