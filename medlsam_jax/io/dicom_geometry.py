"""Where the slices of a series lie, and the even grid that stands for them.

Each slice's own position is held against the grid that replaces it: along the normal, and sideways against the line
through all slices (a tilted gantry's line leans, and stays so). Within `EXACT_VOXELS` of a voxel, or the tenth of a
millimetre to which scanners round, they agree. Slices at uneven distances are laid on an even grid by linear
interpolation along the normal where no gap is over `GAP_LIMIT_MM`; slices that lie beside the line are refused.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32

from medlsam_jax import display
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid
from medlsam_jax.io.dicom_frames import ACQUISITION, Frame

EXACT_VOXELS, EXACT_MM = 0.1, 0.1
"""A slice is where the grid says when it is off by no more than the greater of these."""
SIDEWAYS_VOXELS = 0.5
"""Slices that lie beside the line by more than half a pixel are refused; between this and `EXACT_VOXELS` it is said."""
GAP_LIMIT_MM = 10.0
"""Widest distance between slices that is filled by interpolation: the thickest slices in common use."""
_SAME_PLACE_MM = 0.01
_STEEPEST = 1.0
"""Tangent of the most that a stack may lean, 45 degrees: gantries tilt by 30."""
_MISSING_LIMIT = 1.5
_ROUNDED_MM = 0.5
"""Places rounded to whole millimetres are off by so much."""
_JUMP = 1.5
_MOST_NEW = 4
"""Times as many slices as there were is the most that an even grid may have."""
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclasses.dataclass(frozen=True, eq=False)
class Stack:
  """Slices in order along their normal, and the even grid that stands for them."""

  frames: list[Frame]
  grid: Grid
  places: Float[np.ndarray, " slice"]
  """Of each slice, along the normal in mm."""
  even: Float[np.ndarray, " z"] | None
  """Places of the grid's slices where they are not those of `frames`."""
  notes: tuple[str, ...] = ()

  def laid_even(self, array: Float32[np.ndarray, "slice y x"]) -> Float32[np.ndarray, "z y x"]:
    """The slices as the grid has them: unchanged, or interpolated linearly between the two neighbours of a place."""
    if self.even is None:
      return array
    result = np.empty((len(self.even), *array.shape[1:]), np.float32)
    upper = np.clip(np.searchsorted(self.places, self.even), 1, len(self.places) - 1)
    share = (self.even - self.places[upper - 1]) / (self.places[upper] - self.places[upper - 1])
    for index, (above, weight) in enumerate(zip(upper, np.clip(share, 0, 1), strict=True)):
      weight = np.float32(np.rint(weight) if min(weight, 1 - weight) < 1e-3 else weight)
      result[index] = array[above - 1] * (1 - weight) + array[above] * weight
    return result


def place_slices(frames: list[Frame], source: str, whole_copy: Callable[[Frame, Frame], Frame | None]) -> Stack:
  """Orders the slices of one direction and size and finds their even grid, from headers alone.

  Args:
    whole_copy: of two slices at one place, the one to keep where they are copies, else None.

  Raises:
    InputError: two different slices at one place, gaps over `GAP_LIMIT_MM`, mixed acquisitions, slices beside the
      line of the others (each named with its place), one slice without a thickness.
  """
  normal = _normal(frames)
  frames = sorted(frames, key=lambda frame: (float(frame.position @ normal), len(frame.name), frame.name))
  frames, notes = _without_copies(frames, normal, source, whole_copy)
  places = np.array([float(frame.position @ normal) for frame in frames])
  if len(frames) == 1:
    return Stack(frames, _single(frames[0], source), places, None, tuple(notes))
  line = _line(frames, places, source, notes)
  even, step = _even_places(frames, places, source, notes)
  affine = np.eye(4)
  # PixelSpacing is (between rows, between columns); the first orientation runs along a row, so across columns.
  affine[:3, 0] = frames[0].orientation[0] * frames[0].pixel_spacing[1]
  affine[:3, 1] = frames[0].orientation[1] * frames[0].pixel_spacing[0]
  affine[:3, 2] = (normal + line[0]) * step
  affine[:3, 3] = normal * (places[0] if even is None else even[0]) + line[0] * places[0] + line[1]
  shape = (len(frames) if even is None else len(even), *frames[0].shape)
  return Stack(frames, Grid(shape, _RAS_FROM_LPS @ affine), places, even, tuple(notes))


def _normal(frames: list[Frame]) -> Float[np.ndarray, "3"]:
  normal = np.cross(*frames[0].orientation)
  return normal / np.linalg.norm(normal)


def place(frame: Frame) -> str:
  """The name of a slice and where it lies, for messages."""
  x, y, z = frame.position
  return f"{frame.name} ({x:.1f}, {y:.1f}, {z:.1f})"


def _single(frame: Frame, source: str) -> Grid:
  if not frame.thickness:
    raise InputError(f"{source}: one slice without a thickness ({frame.name}); give a whole series")
  affine = np.eye(4)
  affine[:3, 0] = frame.orientation[0] * frame.pixel_spacing[1]
  affine[:3, 1] = frame.orientation[1] * frame.pixel_spacing[0]
  affine[:3, 2] = np.cross(*frame.orientation) * frame.thickness
  affine[:3, 3] = frame.position
  return Grid((1, *frame.shape), _RAS_FROM_LPS @ affine)


def _without_copies(
  frames: list[Frame], normal: np.ndarray, source: str, whole_copy: Callable[[Frame, Frame], Frame | None]
) -> tuple[list[Frame], list[str]]:
  kept: list[Frame] = []
  copies, different = [], []
  for frame in frames:
    if not kept or float((frame.position - kept[-1].position) @ normal) >= _SAME_PLACE_MM:
      kept.append(frame)
      continue
    whole = whole_copy(kept[-1], frame) if np.allclose(frame.position, kept[-1].position, atol=0.01) else None
    if whole is None:
      different.append((kept[-1], frame))
      continue
    copies.append((frame if whole is kept[-1] else kept[-1], whole))
    kept[-1] = whole
  if different:
    raise InputError(f"{source}: {_mixed(frames, different)}")
  if not copies:
    return kept, []
  shown = display.some((f"{copy.name} of {whole.name}" for copy, whole in copies), 4)
  return kept, [f"{source}: left out copies of slices: {shown}"]


def _mixed(frames: list[Frame], different: list[tuple[Frame, Frame]]) -> str:
  """Which slices lie at one place, and the field that tells the acquisitions apart if one does."""
  first, second = different[0]
  if len(different) == len(frames) - 1 > 1:
    return f"all {len(frames)} slices state one place (ImagePositionPatient of {place(first)}); export the series again"
  text = f"{place(first)} and {place(second)} are different images at the same place"
  if len(different) > 1:
    text += f", and so are {len(different) - 1} more pairs"
  for name in first.acquisition:
    values = (first.acquisition[name], second.acquisition.get(name, ""))
    if values[0] != values[1]:
      groups: dict[str, int] = {}
      for frame in frames:
        groups[frame.acquisition.get(name, "")] = groups.get(frame.acquisition.get(name, ""), 0) + 1
      counted = ", ".join(f"{value or 'none'}: {count} slices" for value, count in list(groups.items())[:4])
      return f"{text}; two acquisitions in one series, by {name} ({counted}): put the files of one in a folder alone"
  return f"{text}; two acquisitions in one series? Remove one"


def interleaved(frames: list[Frame]) -> str:
  """A field by which slices, in order of place, change to and fro between acquisitions; "" where none does."""
  for name in ACQUISITION:
    values = [frame.acquisition.get(name, "") for frame in frames]
    changes = sum(a != b for a, b in itertools.pairwise(values))
    # acquisitions one after the other change once each; a new number with each slice is a count, not a mixture
    if len(set(values)) - 1 < changes and len(set(values)) <= len(values) // 2:
      return f"{name} ({', '.join(value or 'none' for value in sorted(set(values))[:4])})"
  return ""


def _line(
  frames: list[Frame], places: np.ndarray, source: str, notes: list[str]
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
  """How far slices move sideways per mm along the normal, and from where: the line that all slices' corners lie on."""
  axes = frames[0].orientation
  spacing = frames[0].pixel_spacing[::-1]
  sideways = np.array([axes @ frame.position for frame in frames])
  slope, start = np.polyfit(places - places[0], sideways, 1)
  start = start - slope * places[0]
  off = np.abs(sideways - (places[:, None] * slope + start))
  worst = int(off.max(1).argmax())
  if (off / np.maximum(EXACT_MM, EXACT_VOXELS * spacing)).max() > 1 + 1e-6:
    if (off / spacing).max() > SIDEWAYS_VOXELS:
      raise InputError(f"{source}: {_shift(frames, places, sideways)}")
    notes.append(
      f"{source}: slices lie up to {off.max():.2f} mm beside the line through all of them "
      f"({place(frames[worst])}); less than half a pixel, left there"
    )
  if np.linalg.norm(slope) > _STEEPEST:
    raise InputError(
      f"{source}: {place(frames[0])} and {place(frames[-1])} lie more sideways than above each other; no gantry tilts "
      "so far: two fields or acquisitions in one series?"
    )
  return slope @ axes, start @ axes


def _shift(frames: list[Frame], places: np.ndarray, sideways: np.ndarray) -> str:
  steps, distances = np.diff(sideways, axis=0), np.diff(places)[:, None]
  jumps = np.linalg.norm(steps - np.median(steps / distances, axis=0) * distances, axis=1)
  at = int(jumps.argmax())
  return (
    f"the slices do not lie on one line: between {place(frames[at])} and {place(frames[at + 1])} they shift "
    f"sideways by {jumps[at]:.1f} mm; two fields or acquisitions in one series? Give the slices of one alone"
  )


def _even_places(
  frames: list[Frame], places: np.ndarray, source: str, notes: list[str]
) -> tuple[Float[np.ndarray, " z"] | None, float]:
  """Places of the even grid (None: those of the slices) and the distance between them."""
  steps = np.diff(places)
  step = float((places[-1] - places[0]) / len(steps))
  off = np.abs(places - places[0] - np.arange(len(places)) * step)
  if off.max() <= max(EXACT_MM, EXACT_VOXELS * step) + 1e-6:
    return None, step
  usual = float(np.median(steps))
  oddest, widest = int(np.abs(steps - usual).argmax()), float(steps.max())
  between = f"{steps[oddest]:.2f} mm between {place(frames[oddest])} and {place(frames[oddest + 1])}"
  said = f"uneven slices: {between}, {usual:.2f} mm in most places"
  mixed = interleaved(frames)
  if mixed:
    raise InputError(f"{source}: {said}; two acquisitions in one series, by {mixed}: give one alone")
  changes = int((np.maximum(steps[1:], steps[:-1]) > _JUMP * np.minimum(steps[1:], steps[:-1]) + 1e-6).sum())
  if widest > GAP_LIMIT_MM + 1e-6:
    raise InputError(
      f"{source}: {said}; slices are missing, and gaps over {GAP_LIMIT_MM:g} mm are not filled: find the missing files"
    )
  rounded = off.max() <= _ROUNDED_MM + 1e-6
  if changes > max(2, len(steps) // 5) and not rounded and not _are_missing(steps, usual):
    raise InputError(f"{source}: {said}, and distances change {changes} times; two acquisitions in one series?")
  finest = float(np.percentile(steps, 10, method="lower"))
  count = max(1, round((places[-1] - places[0]) / finest))
  if count > _MOST_NEW * len(steps):
    raise InputError(f"{source}: {said}, and {finest:.2f} mm in some; two acquisitions in one series?")
  step = float((places[-1] - places[0]) / count)
  notes.append(
    f"{source}: {said}; interpolated to even slices {step:.2f} mm apart, on which results are written "
    f"({count + 1} of {len(frames)} slices)"
  )
  return np.linspace(places[0], places[-1], count + 1), step


def _are_missing(steps: np.ndarray, usual: float) -> bool:
  """Whether some slices of an even stack are missing: all distances are whole multiples, and most slices are there."""
  times = np.rint(steps / usual)
  whole = np.abs(steps - times * usual).max() <= max(EXACT_MM, EXACT_VOXELS * usual)
  return bool(whole and times.sum() <= _MISSING_LIMIT * len(steps))
