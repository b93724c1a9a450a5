"""The folder that templates made in the page are kept in: the files of `io.templates`, written by nobody's hand.

A scan that is marked comes to lie in the folder beside its marks, as `NAME_ct.nii.gz`, unless it lies there already.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Float

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Volume
from medlsam_jax.io import boxes_file, nifti, point_files, scans
from medlsam_jax.io.alignment import align_labels
from medlsam_jax.io.atomic import atomically, folder_for
from medlsam_jax.io.label_table import LABELS_FILE, read_label_table, table_beside
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.scan_names import NIFTI_SUFFIXES, SCAN_ENDING
from medlsam_jax.io.scans import ListedScan
from medlsam_jax.io.templates import POINT_ENDINGS, annotations_beside

POINTS, MASKS = POINT_ENDINGS[0], "_seg.nii.gz"
DECIMALS = 3
"""Of the millimetres that are written: a thousandth of one is a hundredth of any voxel."""


@dataclasses.dataclass(frozen=True, eq=False)
class Marked:
  """What is marked in one scan, and in which file."""

  points: Mapping[str, tuple[Float[np.ndarray, "6 3"], Path]]
  """RAS mm (x, y, z), in the order in which they were marked."""
  masks: Mapping[str, Path]


@dataclasses.dataclass(frozen=True)
class TemplateFolder:
  """A folder of templates; it need not be there before the first is saved."""

  path: Path

  def scans(self) -> dict[str, ListedScan]:
    """The scans in it that have marks, by name."""
    if not self.path.is_dir():
      return {}
    try:
      listed = scans.list_scans(self.path)
    except InputError:  # nothing in it that is a scan
      return {}
    return {scan.name: scan for scan in listed if annotations_beside(scan)}

  def marked(self, scan: ListedScan) -> Marked:
    """What is marked in a scan of the folder.

    Raises:
      InputError: a file of marks cannot be read, of another version of ours, say.
    """
    here = self._here(scan)
    points: dict[str, tuple[np.ndarray, Path]] = {}
    masks: dict[str, Path] = {}
    for path in [] if here is None else annotations_beside(here):
      if path.name.lower().endswith(NIFTI_SUFFIXES):
        table = table_beside(path, scan.name)
        masks |= dict.fromkeys(read_label_table(table) if table else (), path)
      else:
        points |= {organ: (six, path) for organ, six in point_files.read_points(path, scan.name).items()}
    return Marked(points, masks)

  def save_points(self, scan: ListedScan, volume: Volume, points: Mapping[str, Float[np.ndarray, "6 3"]]) -> Path:
    """Adds organs to `NAME_points.json`, or puts others in their place; what else is in the file stays.

    Args:
      points: scan voxels (z, y, x).

    Returns:
      The file.

    Raises:
      InputError: an organ without a name, or that has a mask or is marked in another file there; points outside the
        scan; another scan has its name there; a file that cannot be read, which is left as it is.
      OutputError: the folder cannot be written.
    """
    marked, path = self.marked(scan), self._beside(scan, POINTS)
    for organ in points:
      self._check_free(organ, marked, path)
    known = {organ: six for organ, (six, file) in marked.points.items() if file == path}
    world = {organ: volume.grid.world_from_voxel(six) for organ, six in points.items()}
    for organ, six in world.items():
      point_files.points_in_scan(six, volume.grid, organ, scan.name)
    with folder_for(self.path):
      self._bring(scan, volume)
      self._write_points(path, known | world)
    return path

  def save_masks(self, scan: ListedScan, volume: Volume, labels: LabelMap, organs: Sequence[str]) -> list[str]:
    """Puts masks of organs into `NAME_seg.nii.gz` with a table of their names; points of the same organs go.

    Returns:
      Organs whose points were in the way, since an organ has one mark in a scan.

    Raises:
      InputError: as `save_points`; an organ without a voxel.
      OutputError: the folder cannot be written.
    """
    marked, path, table = self.marked(scan), self._beside(scan, MASKS), self._beside(scan, f"_{LABELS_FILE}")
    points = self._beside(scan, POINTS)
    for organ in organs:
      if not labels[organ].any():
        raise InputError(f"{organ}: nothing of it is painted in {scan.name}; segment it first")
      self._check_free(organ, marked, path, points)
    array, names = self._known_masks(path, table, volume)
    for organ in organs:
      names.setdefault(organ, max(names.values(), default=0) + 1)
      array[array == names[organ]] = 0
      array[labels[organ]] = names[organ]
    moved = [organ for organ in organs if organ in marked.points]
    with folder_for(self.path):
      self._bring(scan, volume)
      if moved:
        left = {organ: six for organ, (six, file) in marked.points.items() if file == points and organ not in moved}
        self._write_points(points, left)
      # the table first: a name without a voxel is nothing, a voxel without a name is an error
      with atomically(table) as part:
        part.write_text(boxes_file.to_text(names))
      LabelMap(array, volume.grid, names, volume.file_grid).save(path)
    return moved

  def _known_masks(self, path: Path, table: Path, volume: Volume) -> tuple[np.ndarray, dict[str, int]]:
    if not path.is_file():
      return np.zeros(volume.grid.shape, np.uint32), {}
    beside = table if table.is_file() else table_beside(path, path.name.removesuffix(MASKS))
    if beside is None:
      raise InputError(f"{path}: a label map without names; write {table.name} beside it, then add organs")
    labels = align_labels(nifti.read_label_nifti(path), volume.grid, volume.source, volume.file_grid)
    return labels.array.astype(np.uint32), read_label_table(beside)

  def _check_free(self, organ: str, marked: Marked, *own: Path) -> None:
    if not organ.strip() or organ in (point_files.COORDINATE_SYSTEM_KEY, point_files.UNITS_KEY):
      raise InputError(f"{organ!r} is no name for an organ; give one such as liver")
    file = marked.masks.get(organ) or marked.points.get(organ, (None, None))[1]
    if file is not None and file not in own:
      raise InputError(f"{organ} is marked in {file.name} already; delete it there, or mark it there")

  def _beside(self, scan: ListedScan, ending: str) -> Path:
    """A file of marks, in the folder of the scan's own if that lies in this one."""
    here = self._here(scan)
    return (self.path if here is None else here.path.parent) / (scan.name + ending)

  def _here(self, scan: ListedScan) -> ListedScan | None:
    """The scan as it lies in this folder, if it does."""
    if scan.path.resolve().is_relative_to(self.path.resolve()):
      return scan
    files = [self.path / f"{scan.name}{SCAN_ENDING}{suffix}" for suffix in NIFTI_SUFFIXES]
    return next((ListedScan(path, scan.name) for path in files if path.is_file()), None)

  def _bring(self, scan: ListedScan, volume: Volume) -> None:
    """Copies a scan into the folder, which is then whole by itself.

    Raises:
      InputError: another scan of that name lies there.
    """
    here = self._here(scan)
    if here is not None:
      if not _same_file(here.path, scan.path):
        _refuse_another(scans.read_volume(here.path), volume, here)
      return
    ending = next((suffix for suffix in NIFTI_SUFFIXES if scan.path.name.lower().endswith(suffix)), None)
    if ending is not None:
      with atomically(self.path / f"{scan.name}{SCAN_ENDING}{ending}") as part:
        shutil.copyfile(scan.path, part)
      return
    whole = np.rint(volume.array).astype(np.int16)
    array = whole if (whole == volume.array).all() else volume.array
    with atomically(self.path / f"{scan.name}{SCAN_ENDING}.nii.gz", ".nii.gz") as part:
      nibabel.save(nibabel.Nifti1Image(array.T, volume.affine), part)

  def _write_points(self, path: Path, points: Mapping[str, Float[np.ndarray, "6 3"]]) -> None:
    """The file of points, read back before it takes the place of the old one; without any, no file."""
    if not points:
      path.unlink(missing_ok=True)
      return
    content = {organ: _rounded(six) for organ, six in points.items()}
    with atomically(path) as part:
      part.write_text(boxes_file.to_text({point_files.COORDINATE_SYSTEM_KEY: "RAS", **content}), encoding="utf-8")
      point_files.read_points(part)


def _rounded(six: Iterable) -> list[list[float]]:
  return (np.round(np.asarray(six, float), DECIMALS) + 0.0).tolist()


def _same_file(first: Path, second: Path) -> bool:
  try:
    return os.path.samefile(first, second)
  except OSError:
    return False


def _refuse_another(there: Volume, volume: Volume, here: ListedScan) -> None:
  if not there.grid.is_same(volume.grid) or not np.array_equal(there.array, volume.array):
    raise InputError(f"{here.path}: another scan of this name is a template already; rename one of them")
