"""The folder that templates made in the page are kept in: the files of `io.templates`, written by nobody's hand.

A scan that is marked comes to lie in the folder beside its marks, unless it lies there already, under whatever name and
in whatever format `io.templates` reads there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import filecmp
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Float

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.io import boxes_file, nifti, point_files, scan_folders, scans
from medlsam_jax.io.alignment import align_labels
from medlsam_jax.io.atomic import all_or_none, clear_scratch
from medlsam_jax.io.label_files import label_map_beside
from medlsam_jax.io.label_table import LABELS_FILE, read_label_table, table_beside
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.scan_names import NIFTI_SUFFIXES, SCAN_ENDING, scan_name, stem
from medlsam_jax.io.scans import ListedScan, ReadingOptions
from medlsam_jax.io.templates import POINT_ENDINGS, annotations_beside, holds_masks

POINTS, MASKS = POINT_ENDINGS[0], "_seg.nii.gz"
DECIMALS = 3
"""Of the millimetres that are written: a thousandth of one is a hundredth of any voxel."""


@dataclasses.dataclass(frozen=True, eq=False)
class Marked:
  """What is marked in one scan, and in which file."""

  points: Mapping[str, tuple[Float[np.ndarray, "6 3"], Path]]
  """RAS mm (x, y, z), in the order in which they were marked."""
  masks: Mapping[str, Path]


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
  """Where a scan lies in the folder, or will, and what marks it there."""

  scan: ListedScan
  is_there: bool
  marked: Marked
  points: Path
  """The file that points are added to."""
  masks: Path
  """The label map of the scan, or where one would be."""

  @property
  def table(self) -> Path:
    """Names of the label map."""
    return self.masks.parent / f"{self.scan.name}_{LABELS_FILE}"


@dataclasses.dataclass(frozen=True)
class TemplateFolder:
  """A folder of templates; it need not be there before the first is saved."""

  path: Path
  reading: ReadingOptions = dataclasses.field(default_factory=ReadingOptions)
  """How the page reads its scans. Templates are read without it, so that a scan read otherwise is kept as a copy of
  what was read."""
  _compared: dict[tuple[str, int, int, str], bool] = dataclasses.field(default_factory=dict, compare=False, repr=False)
  """Whether a scan here, in its state of a time, is a scan of the page: what was read to know is not read again."""

  def scans(self) -> dict[str, ListedScan]:
    """The scans in it that have marks, by name.

    Raises:
      InputError: the folder cannot be opened, or no name tells two of its scans apart.
    """
    return {scan.name: scan for scan in self._listed() if _has_marks(scan)}

  def organs(self) -> list[str]:
    """All that is marked in any scan; of marks that cannot be read the bank tells when it is built."""
    names: dict[str, None] = {}
    for scan in self._listed():
      with contextlib.suppress(InputError):
        marked = _marks_of(scan)
        names |= dict.fromkeys((*marked.masks, *marked.points))
    return list(names)

  def name_of(self, scan: ListedScan) -> str:
    """What a scan is called as a template, if it is one; else its own name."""
    here = self._here(scan)
    return scan.name if here is None else here.name

  def marked(self, scan: ListedScan, volume: Volume) -> Marked:
    """What is marked in a scan of the folder; nothing where another scan of its name lies there.

    Raises:
      InputError: a file of marks cannot be read, of another version of ours, say; or as `scans`.
    """
    here = self._here(scan)
    if here is None or not self._is_volume(here, scan, volume):
      return Marked({}, {})
    return _marks_of(here)

  def save_points(self, scan: ListedScan, volume: Volume, points: Mapping[str, Float[np.ndarray, "6 3"]]) -> Path:
    """Adds organs to `NAME_points.json`, or puts others in their place; what else is in the file stays.

    Args:
      points: scan voxels (z, y, x).

    Returns:
      The file.

    Raises:
      InputError: an organ without a name, or that has a mask or is marked in another file there; points outside the
        scan; another scan has its name there; a file that cannot be read, which is left as it is.
      OutputError: the folder cannot be written; it is as it was.
    """
    place = self._place(scan)
    for organ in points:
      self._check_free(organ, place.marked, place.points)
    world = {organ: volume.grid.world_from_voxel(six) for organ, six in points.items()}
    for organ, six in world.items():
      point_files.points_in_scan(six, volume.grid, organ, scan.name)
    clear_scratch(place.points.parent)
    with all_or_none(place.points.parent, last=POINTS) as scratch:
      self._bring(place, scan, volume, scratch)
      _write_points(scratch / place.points.name, _own_points(place) | world)
    return place.points

  def save_masks(self, scan: ListedScan, volume: Volume, labels: LabelMap, organs: Sequence[str]) -> list[str]:
    """Puts masks of organs into `NAME_seg.nii.gz` with a table of their names; points of the same organs go.

    Returns:
      Organs whose points were in the way, since an organ has one mark in a scan.

    Raises:
      InputError: as `save_points`; an organ without a voxel; the scan's masks there are in another format.
      OutputError: as `save_points`.
    """
    place = self._place(scan)
    if place.masks.parent != place.points.parent or not place.masks.name.lower().endswith(NIFTI_SUFFIXES):
      raise InputError(
        f"{place.masks}: masks of {place.scan.name} that this page cannot add to; save them as "
        f"{place.scan.name}{MASKS} beside the scan, and move these away"
      )
    for organ in organs:
      if not labels[organ].any():
        raise InputError(f"{organ}: nothing of it is painted in {scan.name}; segment it first")
      self._check_free(organ, place.marked, place.masks, place.points)
    array, names = _known_masks(place, volume)
    for organ in organs:
      names.setdefault(organ, max(names.values(), default=0) + 1)
      array[array == names[organ]] = 0
      array[labels[organ]] = names[organ]
    moved = [organ for organ in organs if organ in place.marked.points]
    left = {organ: six for organ, six in _own_points(place).items() if organ not in moved}
    clear_scratch(place.points.parent)
    # points come last: an organ marked twice is told and mended, one marked nowhere is lost
    with all_or_none(place.points.parent, last=POINTS) as scratch:
      file_grid = self._bring(place, scan, volume, scratch)
      (scratch / place.table.name).write_text(boxes_file.to_text(names), encoding="utf-8")
      LabelMap(array, volume.grid, names, file_grid).save(scratch / place.masks.name)
      if moved and left:
        _write_points(scratch / place.points.name, left)
    if moved and not left:
      place.points.unlink(missing_ok=True)
    return moved

  def _check_free(self, organ: str, marked: Marked, *own: Path) -> None:
    if not organ.strip() or organ in (point_files.COORDINATE_SYSTEM_KEY, point_files.UNITS_KEY):
      raise InputError(f"{organ!r} is no name for an organ; give one such as liver")
    file = marked.masks.get(organ) or marked.points.get(organ, (None, None))[1]
    if file is not None and file not in own:
      raise InputError(f"{organ} is marked in {file.name} already; delete it there, or mark it there")

  def _listed(self) -> list[ListedScan]:
    """The scans of the folder as a bank that is built from it has them; none where it is not there yet."""
    is_empty = not self.path.is_dir() or not scan_folders.scans_in(self.path)
    return [] if is_empty else scans.list_scans(self.path)

  def _here(self, scan: ListedScan) -> ListedScan | None:
    """The scan as it lies in this folder, if it does: the same file, by whatever link, else one of its name."""
    listed = self._listed()
    same = (each for each in listed if _is_same(each, scan))
    named = (each for each in listed if each.name.casefold() == scan.name.casefold())
    return next(same, None) or next(named, None)

  def _place(self, scan: ListedScan) -> _Place:
    """Where marks of a scan belong.

    Raises:
      InputError: as `marked`; or marks of its name lie there without a scan.
    """
    here = self._here(scan)
    there = here or self._new(scan)
    files = annotations_beside(there)
    if here is None and files:
      raise InputError(f"{files[0]}: marks without their scan; put it beside them, or move them away")
    folder = there.path.parent
    points = next((path for path in files if path.name.endswith(POINTS)), folder / (there.name + POINTS))
    masks = label_map_beside(there.path) or folder / (scan_name(there.path.absolute()) + MASKS)
    return _Place(there, here is not None, _marks_of(there), points, masks)

  def _new(self, scan: ListedScan) -> ListedScan:
    """Where a scan will lie so that it is listed, and hides none that is (`scan_folders.scans_in`)."""
    listed = self._listed()
    is_flat = all(each.path.parent == self.path for each in listed)
    folder = self.path if is_flat else self.path / scan.name
    unnamed = is_flat and any(not each.path.is_dir() and not stem(each.path).endswith(SCAN_ENDING) for each in listed)
    suffix = (_copied_suffix(scan) if self._is_copied(scan) else None) or NIFTI_SUFFIXES[0]
    path = folder / f"{scan.name}{'' if unnamed else SCAN_ENDING}{suffix}"
    return ListedScan(path, scan_name(path.absolute()))

  def _is_copied(self, scan: ListedScan) -> bool:
    """Whether a scan's file is kept as it is."""
    return not scan.address and not self.reading.hu_offset and _copied_suffix(scan) is not None

  def _is_kept_whole(self, here: ListedScan, scan: ListedScan) -> bool:
    """Whether what lies here is read as the page reads the scan: it is its file, or a copy of that."""
    if self.reading != ReadingOptions():
      return False
    with contextlib.suppress(OSError):
      is_copy = here.path.is_file() and not scan.address and filecmp.cmp(here.path, scan.path, shallow=False)
      return is_copy or _is_same(here, scan)
    return False

  def _is_volume(self, here: ListedScan, scan: ListedScan, volume: Volume) -> bool:
    """Whether what lies here is this scan, by its voxels where it is not by its file."""
    if _is_same(here, scan) or self._is_kept_whole(here, scan):
      return True
    told = here.path.stat()
    asked = (str(here.path), told.st_mtime_ns, told.st_size, str(scan))
    if asked not in self._compared:
      try:
        self._compared[asked] = _are_equal(scans.read_volume(here.path), volume)
      except InputError:  # nobody can say that it is, and the bank tells when it is built
        self._compared[asked] = False
    return self._compared[asked]

  def _bring(self, place: _Place, scan: ListedScan, volume: Volume, scratch: Path) -> Grid | None:
    """Writes a scan that is not in the folder yet, which is then whole by itself.

    Returns:
      The grid of its file there, where that is tilted.

    Raises:
      InputError: another scan of that name lies there, or the same that the page reads otherwise than a bank does.
    """
    if place.is_there:
      if self._is_kept_whole(place.scan, scan):
        return volume.file_grid
      there = scans.read_volume(place.scan.path)
      if _are_equal(there, volume):
        return there.file_grid
      if _is_same(place.scan, scan):
        raise InputError(
          f"{place.scan.path}: templates are read without --series and --hu-offset, and this scan is another one then; "
          f"move it out of {self.path} and open it there, so that a copy of what is read comes to lie here"
        )
      raise InputError(f"{place.scan.path}: another scan of this name is a template already; rename one of them")
    # into the scratch folder of the marks, so that all comes or nothing does
    path = scratch / place.scan.path.name
    if self._is_copied(scan):
      shutil.copyfile(scan.path, path)
      return volume.file_grid
    whole = np.rint(volume.array).astype(np.int16)
    array = whole if (whole == volume.array).all() else volume.array
    nibabel.save(nibabel.Nifti1Image(array.T, volume.affine), path)
    return None


def _has_marks(scan: ListedScan) -> bool:
  try:
    return bool(annotations_beside(scan))
  except InputError:  # more than one may be meant: it has marks, and the bank tells when it is built
    return True


def _marks_of(scan: ListedScan) -> Marked:
  points: dict[str, tuple[np.ndarray, Path]] = {}
  masks: dict[str, Path] = {}
  for path in annotations_beside(scan):
    if holds_masks(path):
      table = table_beside(path, scan.name)
      masks |= dict.fromkeys(read_label_table(table) if table else (), path)
    else:
      points |= {organ: (six, path) for organ, six in point_files.read_points(path, scan.name).items()}
  return Marked(points, masks)


def _own_points(place: _Place) -> dict[str, Float[np.ndarray, "6 3"]]:
  """Those in the file that points are added to."""
  return {organ: six for organ, (six, file) in place.marked.points.items() if file == place.points}


def _known_masks(place: _Place, volume: Volume) -> tuple[np.ndarray, dict[str, int]]:
  path = place.masks
  if not path.is_file():
    return np.zeros(volume.grid.shape, np.uint32), {}
  table = table_beside(path, place.scan.name)
  if table is None:
    raise InputError(f"{path}: a label map without names; write {place.table.name} beside it, then add organs")
  labels = align_labels(nifti.read_label_nifti(path), volume.grid, volume.source, volume.file_grid)
  return labels.array.astype(np.uint32), read_label_table(table)


def _write_points(path: Path, points: Mapping[str, Float[np.ndarray, "6 3"]]) -> None:
  """A file of points, read back before it takes the place of an old one."""
  content = {organ: _rounded(six) for organ, six in points.items()}
  text = boxes_file.to_text({point_files.COORDINATE_SYSTEM_KEY: "RAS", **content})
  path.write_text(text, encoding="utf-8")
  point_files.read_points(path)


def _rounded(six: Iterable) -> list[list[float]]:
  return (np.round(np.asarray(six, float), DECIMALS) + 0.0).tolist()


def _copied_suffix(scan: ListedScan) -> str | None:
  """Ending of a NIfTI file's name; None of any other scan."""
  return next((suffix for suffix in NIFTI_SUFFIXES if scan.path.name.lower().endswith(suffix)), None)


def _are_equal(there: Volume, volume: Volume) -> bool:
  return there.grid.is_same(volume.grid) and np.array_equal(there.array, volume.array)


def _is_same(here: ListedScan, scan: ListedScan) -> bool:
  """Whether both are one file or folder, by whatever link."""
  try:
    return not scan.address and os.path.samefile(here.path, scan.path)
  except OSError:
    return False
