"""DICOM CT to a `Volume` in scan voxels: z rises along the slice normal, y down rows, x along them.

Single-frame slices and enhanced multi-frame files, uncompressed or compressed. Slices are ordered by position, never by
file name or number. Who does what: `dicom_headers` parses fields, `dicom_frames` images, `dicom_folder` files and
series, `dicom_geometry` places, `dicom_pixels` values; this file joins them.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from medlsam_jax import notices
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import SourceImage, Volume
from medlsam_jax.io import dicom_folder, oblique, scan_checks
from medlsam_jax.io.dicom_frames import may_be_slice
from medlsam_jax.io.dicom_geometry import Stack, interleaved, place_slices
from medlsam_jax.io.dicom_headers import Unusable, has_mark, pydicom_module, quiet
from medlsam_jax.io.dicom_pixels import hounsfield, read_pixels, whole_copy

_LOWEST_AIR_HU = -1024.0
_NO_HU_BELOW, _NO_AIR_ABOVE = -1100.0, -900.0
_UNSPECIFIED = "US"
"""RescaleType that GDCM and what is built on it (ITK) write of CT without one: judged by the tissue, as no type is."""
_JUMP_HU = 400.0
_NO_HU_ABOVE, _WRAPPED_SHARE = 30000.0, 0.01


def read_series(directory: str | os.PathLike[str], series: str | None = None) -> Volume:
  """Reads the one CT series of a folder, of a DICOMDIR's medium, or of one file (its series in the same folder).

  Files that are no slices (reports, localizers, label objects), copies of slices and a few damaged ones are left out
  with a note; folders below are searched where the folder itself holds no image. Slices at uneven distances are laid
  on an even grid (`dicom_geometry`). Padding (PixelPaddingValue, or a constant below -1100 HU in the corners) is air.

  Args:
    series: which one where a folder holds several: its SeriesInstanceUID, an ending of it that no other has, or its
      SeriesNumber.

  Returns:
    `array` float32 HU (each slice's own slope and intercept applied), affine in RAS; `notes` say what was settled or
    left out, `doubts` why the values may be no HU.

  Raises:
    InputError: no such folder, no slices, several series that make a volume (each listed), slices of two sizes or
      directions, at one place, beside each other's line or with gaps that are not filled (named with their places),
      many damaged slices, a compression that nothing installed decodes, pydicom not installed.
  """
  directory = Path(directory)
  pydicom_module()
  with quiet():
    volume, notes, doubts = _read(directory, series)
  for text in (*notes, *doubts):
    notices.warn(text)
  return oblique.straighten(dataclasses.replace(volume, notes=tuple(notes), doubts=tuple(doubts)))


def is_dicom_folder(directory: Path) -> bool:
  """Whether a folder directly holds a DICOM file; reads 140 bytes of each file until one is."""
  return any(has_mark(path) for path in sorted(directory.iterdir()) if path.is_file())


def holds_slices(directory: Path) -> bool:
  """Whether a folder directly holds slices of a scan, not only reports, localizers, structures or a DICOMDIR.

  Without pydicom every DICOM file counts: reading it says what is to be installed.
  """
  files = [path for path in sorted(directory.iterdir()) if path.is_file() and path.name.upper() != "DICOMDIR"]
  marked = (path for path in files if has_mark(path))
  try:
    pydicom_module()
  except InputError:
    return next(marked, None) is not None
  with quiet():
    return any(map(may_be_slice, marked))


def is_dicom_file(path: Path) -> bool:
  """Whether a file is DICOM by its first 140 bytes (a DICOMDIR is too)."""
  return path.is_file() and has_mark(path)


def _read(path: Path, series: str | None) -> tuple[Volume, list[str], list[str]]:
  source = str(path)
  files, series, notes = _files(path, series)
  contents = dicom_folder.read_contents(files, source)
  stack, chosen = dicom_folder.choose(contents, series, whole_copy)
  notes = [*notes, *contents.notes(), *chosen]
  stack, given = _scaled_alike(stack, source)
  if any(frame.rescale_type == _UNSPECIFIED for frame in stack.frames):
    notes.append(f"{source}: RescaleType is {_UNSPECIFIED} (unspecified); the values are taken as Hounsfield units")
  scan_checks.refuse_spacing(stack.grid, source)
  scan_checks.refuse_size(stack.grid.shape, source)
  scan_checks.refuse_size((len(stack.frames), *stack.grid.shape[1:]), source)
  array, stack, remarks = _decoded(stack, source)
  notes += [*stack.notes, *remarks["notes"], *_filled(array, stack, source)]
  doubts = [
    *_borrowed(stack, given, source),
    *remarks["doubts"],
    *_doubts(stack, source),
    *_jumps(array, stack, source),
  ]
  images = _images(stack)
  return Volume(stack.laid_even(array), stack.grid, source, source_images=images), notes, doubts


def _images(stack: Stack) -> tuple[SourceImage, ...]:
  """The stack's slices for files that refer to them."""
  positions = np.array([frame.position for frame in stack.frames]) * (-1, -1, 1)
  places = stack.grid.voxel_from_world(positions)[:, 0]
  return tuple(
    SourceImage(os.path.abspath(frame.path), frame.index, float(place), tuple(frame.position.tolist()))
    for frame, place in zip(stack.frames, places, strict=True)
  )


def _files(path: Path, series: str | None) -> tuple[list[Path], str | None, list[str]]:
  """The files to look at, the series to take of them, and a note where a single slice stands for its series."""
  if path.is_dir():
    return dicom_folder.files_below(path), series, []
  if not path.is_file():
    raise InputError(f"{path}: no such folder or file")
  if path.name.upper() == "DICOMDIR":
    return dicom_folder.files_below(path.parent), series, []
  result = dicom_folder.frames_or_reason(path)
  if isinstance(result, Unusable):
    raise InputError(f"{path}: {result}; give the folder that holds the whole series")
  frames = result[0]
  if frames[0].frames > 1:
    return [path], series, []
  note = f"{path}: one slice of a series; read together with the others of it in this folder"
  siblings = [other for other in dicom_folder.files_below(path.parent) if other.parent == path.parent]
  return siblings, series or frames[0].series.uid, [note] if len(siblings) > 1 else []


def _scaled_alike(stack: Stack, source: str) -> tuple[Stack, dict[str, str]]:
  """Gives slices without slope or intercept those that all others have.

  Returns:
    The stack, with a note where no slice has them (whether its values are HU is judged by their tissue, `checks`), and
    by the name of a slice that was given them, what it lacks.
  """
  bare = [frame for frame in stack.frames if frame.slope is None or frame.intercept is None]
  if not bare:
    return stack, {}
  lacking = [name for name in ("slope", "intercept") if any(getattr(frame, name) is None for frame in bare)]
  fields = " and ".join(f"Rescale{name.capitalize()}" for name in lacking)
  others = {(frame.slope, frame.intercept) for frame in stack.frames} - {(f.slope, f.intercept) for f in bare}
  if not others:
    note = f"{source}: no {fields} in the files; the stored values are taken as Hounsfield units"
    return dataclasses.replace(stack, notes=(*stack.notes, note)), {}
  if len(others) > 1:
    named = dicom_folder.names(frame.name for frame in bare)
    raise InputError(f"{source}: no {fields} in {named}, and those of the other slices differ; export the series again")
  ((slope, intercept),) = others
  frames = [dataclasses.replace(frame, slope=slope, intercept=intercept) for frame in stack.frames]
  return dataclasses.replace(stack, frames=frames), {frame.name: fields for frame in bare}


def _borrowed(stack: Stack, given: dict[str, str], source: str) -> list[str]:
  """A doubt about the slices that were given the others' scale, where they are still among those of the stack."""
  bare = [frame for frame in stack.frames if frame.name in given]
  if not bare:
    return []
  named, first = dicom_folder.names(frame.name for frame in bare), bare[0]
  scale = f"({first.slope:g}, {first.intercept:g})"
  return [f"{source}: no {given[first.name]} in {named}; scaled as the other slices {scale}, which may be wrong"]


def _decoded(stack: Stack, source: str) -> tuple[Float32[np.ndarray, "slice y x"], Stack, dict[str, list[str]]]:
  """All slices in HU, padding NaN; slices that cannot be decoded are missing slices for the geometry."""
  array = np.empty((len(stack.frames), *stack.grid.shape[1:]), np.float32)
  tasks: dict[Path, list[int]] = {}
  for index, frame in enumerate(stack.frames):
    tasks.setdefault(frame.path, []).append(index)
  failed: dict[int, str] = {}
  odd: set[str] = set()

  def decode(path: Path) -> None:
    try:
      pixels = read_pixels(path)
    except Unusable as error:
      failed.update(dict.fromkeys(tasks[path], str(error)))
      return
    for index in tasks[path]:
      try:
        array[index] = hounsfield(pixels, stack.frames[index])
      except InputError:
        raise
      except Unusable as error:
        failed[index] = str(error)
      except Exception as error:  # pixels damaged in a way that nobody foresaw cost their slice
        failed[index] = f"pixels that cannot be read ({type(error).__name__}: {error})"
    odd.update(pixels.remarks)

  paths = list(tasks)
  decode(paths[0])  # a missing decoder shows at the first file
  with ThreadPoolExecutor(dicom_folder.THREADS) as pool:
    list(pool.map(decode, paths[1:]))
  doubts = [f"{source}: {text}" for text in sorted(odd)]
  if not failed:
    return array, stack, {"notes": [], "doubts": doubts}
  array, stack, note = _without_failed(array, stack, failed, source)
  return array, stack, {"notes": [note], "doubts": doubts}


def _without_failed(
  array: Float32[np.ndarray, "slice y x"], stack: Stack, failed: dict[int, str], source: str
) -> tuple[Float32[np.ndarray, "kept y x"], Stack, str]:
  reasons: dict[str, list[str]] = {}
  for index in sorted(failed):
    reasons.setdefault(failed[index], []).append(stack.frames[index].name)
  named = dicom_folder.with_reasons(reasons)
  if dicom_folder.too_many(len(failed), len(stack.frames)):
    raise InputError(f"{source}: {len(failed)} of {len(stack.frames)} slices cannot be decoded: {named}")
  kept = [index for index in range(len(stack.frames)) if index not in failed]
  again = place_slices([stack.frames[index] for index in kept], source, lambda frame, other: None)
  notes = tuple(dict.fromkeys((*stack.notes, *again.notes)))
  return array[kept], dataclasses.replace(again, notes=notes), f"{source}: left out {named}"


def _filled(array: Float32[np.ndarray, "slice y x"], stack: Stack, source: str) -> list[str]:
  """Puts air in place of padding, in place, and reads values over any HU as the negative ones they are.

  Returns:
    Notes of what no field announced.
  """
  notes = []
  wrapped = array > _NO_HU_ABOVE
  if wrapped.mean() > _WRAPPED_SHARE:
    slopes = np.array([1.0 if frame.slope is None else frame.slope for frame in stack.frames], np.float32)
    array -= wrapped * (slopes * 65536)[:, None, None]
    notes.append(f"{source}: values were stored with a sign though PixelRepresentation says without; read with it")
  low = float(np.nanmin(array)) if not np.isnan(array).all() else np.nan
  corners = array[:, [0, 0, -1, -1], [0, -1, 0, -1]]
  if low < _NO_HU_BELOW and (corners == low).mean() > 0.5:
    array[array == low] = np.nan
    notes.append(f"{source}: {low:g} in the corners is padding, though no PixelPaddingValue says so; taken as air")
  padding = np.isnan(array)
  if not padding.any():
    return notes
  if padding.all():
    raise InputError(f"{source}: all pixels are padding (PixelPaddingValue); nothing to see in it")
  low = float(np.nanmin(array))
  scaled = any(frame.intercept is not None for frame in stack.frames)
  # values that are no HU show it by their lowest one, which padding must not hide
  array[padding] = max(low, _LOWEST_AIR_HU) if low < _NO_AIR_ABOVE or not scaled else scan_checks.AIR_HU
  return notes


def _doubts(stack: Stack, source: str) -> list[str]:
  """What the headers say that makes values doubtful, whatever they look like."""
  doubts = []
  modality = stack.frames[0].series.modality
  if modality != "CT":
    called = f"Modality is {modality}" if modality else "no Modality is written"
    doubts.append(f"{source}: {called}, not CT: values are no Hounsfield units, and whatever is found may be wrong")
  kinds = sorted({frame.rescale_type for frame in stack.frames} - {"", "HU", "HU_MOD", _UNSPECIFIED})
  if kinds and modality == "CT":
    doubts.append(f"{source}: RescaleType is {', '.join(kinds)}, not HU: values may be no Hounsfield units")
  if any(frame.slope is not None and frame.slope < 0 for frame in stack.frames):
    doubts.append(f"{source}: RescaleSlope is negative: values may be inverted")
  mixed = interleaved(stack.frames)
  if mixed:
    doubts.append(f"{source}: slices of several acquisitions lie between each other, by {mixed}")
  return doubts


def _jumps(array: Float32[np.ndarray, "slice y x"], stack: Stack, source: str) -> list[str]:
  """Neighbours with another scale whose values lie apart: one of the scales is wrong."""
  scales = [(frame.slope, frame.intercept) for frame in stack.frames]
  changes = [i for i, (lower, upper) in enumerate(itertools.pairwise(scales)) if lower != upper]
  apart = [i for i in changes if abs(float(array[i].mean()) - float(array[i + 1].mean())) > _JUMP_HU]
  if not apart:
    return []
  pairs = dicom_folder.names(f"{stack.frames[i].name} and {stack.frames[i + 1].name}" for i in apart)
  return [f"{source}: RescaleSlope or RescaleIntercept change between {pairs}, and the values jump there"]
