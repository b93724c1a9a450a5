"""The formats that a label map is written in, by name, and what their files are called."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from medlsam_jax import notices
from medlsam_jax.errors import ConfigError, InputError, OutputError
from medlsam_jax.geometry import Volume
from medlsam_jax.installation import install_hint
from medlsam_jax.io.painted import PaintedMap
from medlsam_jax.io.scan_names import VOLUME_SUFFIXES, safe_names

PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Format:
  """A way to write a label map."""

  ending: str
  """Of the file of a scan's result, after its name; where there is one for each organ, `{organ}` stands for it."""
  write: Callable[[PathLike, PaintedMap], None]
  suffixes: tuple[str, ...] = ()
  """Ends of file names that mean this format where none is named."""
  needs: tuple[str, str] = ("", "")
  """Module without which it is not written, and the extra that brings it."""
  of_dicom: bool = False
  """Whether it refers to the images of a DICOM series, so that the scan has to be one."""

  right_angled: bool = False
  """Whether it cannot hold a scan whose axes are not at right angles."""

  @property
  def each(self) -> bool:
    """Whether it writes a file for each organ."""
    return "{organ}" in self.ending


def _nifti(path: PathLike, labels: PaintedMap) -> None:
  from medlsam_jax.io.nifti import write_label_nifti

  write_label_nifti(path, labels.array, labels.grid, organs=labels.organs)


def _seg(path: PathLike, labels: PaintedMap) -> None:
  from medlsam_jax.io.dicom_seg import write_seg

  write_seg(path, labels.array, labels.present, labels.source_images)


def _labelmap_seg(path: PathLike, labels: PaintedMap) -> None:
  from medlsam_jax.io.dicom_seg import write_seg

  write_seg(path, labels.array, labels.present, labels.source_images, "LABELMAP")


def _rtstruct(path: PathLike, labels: PaintedMap) -> None:
  from medlsam_jax.io.rtstruct import write_rtstruct

  write_rtstruct(path, labels)


def _seg_nrrd(path: PathLike, labels: PaintedMap) -> None:
  from medlsam_jax.io.nrrd_file import write_nrrd

  write_nrrd(path, labels, segments=True)


def _nrrd(path: PathLike, labels: PaintedMap) -> None:
  from medlsam_jax.io.nrrd_file import write_nrrd

  write_nrrd(path, labels)


def _mha(path: PathLike, labels: PaintedMap) -> None:
  from medlsam_jax.io.metaimage import write_metaimage

  write_metaimage(path, labels)


def _ctbl(path: PathLike, labels: PaintedMap) -> None:
  from medlsam_jax.io.colour_tables import write_slicer_table

  write_slicer_table(path, labels)


def _itksnap(path: PathLike, labels: PaintedMap) -> None:
  from medlsam_jax.io.colour_tables import write_snap_labels

  write_snap_labels(path, labels)


_PYNRRD = ("nrrd", "nrrd")
_HIGHDICOM = ("highdicom", "dicom")
FORMATS = {
  "nifti": Format("_seg.nii.gz", _nifti, (".nii.gz", ".nii")),
  "nifti-each": Format("_{organ}_mask.nii.gz", _nifti),
  "seg-nrrd": Format(".seg.nrrd", _seg_nrrd, (".seg.nrrd",), _PYNRRD),
  "nrrd": Format("_seg.nrrd", _nrrd, (".nrrd",), _PYNRRD),
  "mha": Format("_seg.mha", _mha, (".mha",), right_angled=True),
  "ctbl": Format("_seg.ctbl", _ctbl, (".ctbl",)),
  "itksnap": Format("_itksnap.txt", _itksnap),
  "dicom-seg": Format("_seg.dcm", _seg, (".dcm",), _HIGHDICOM, of_dicom=True),
  "dicom-seg-labelmap": Format("_seg_labelmap.dcm", _labelmap_seg, (), _HIGHDICOM, of_dicom=True),
  "rtstruct": Format("_rtstruct.dcm", _rtstruct, (), ("pydicom", "dicom"), of_dicom=True),
}
"""By what `--output-type` calls them."""
USUAL = ("nifti",)


def names_of(name: str, kinds: Iterable[str]) -> list[str]:
  """Files of the scan `name` in formats of these kinds, but for those that are one for each organ."""
  return [name + FORMATS[kind].ending for kind in kinds if not FORMATS[kind].each]


def write(path: PathLike, labels: PaintedMap, kind: str | None = None) -> None:
  """Writes one file.

  Args:
    kind: a name of `FORMATS`; None goes by the ending of the path.

  Raises:
    ConfigError: an unknown kind, or one of several files.
    OutputError: the file cannot be written, or no kind is given and the ending is of none.
    InputError: as `labels.LabelMap.save`.
  """
  if kind is not None:
    check([kind])
  format = _by_ending(path) if kind is None else FORMATS[kind]
  if format.each:
    raise ConfigError(f"{kind} is a file for each organ; `--output-type` writes these")
  format.write(path, labels)


def write_result(
  folder: Path, name: str, labels: PaintedMap, kinds: Sequence[str]
) -> tuple[list[Path], dict[str, InputError]]:
  """Writes the label map of the scan `name` in several formats.

  Returns:
    The files, and why formats could not be written after all.

  Raises:
    OutputError: the folder cannot be written.
  """
  files: list[Path] = []
  failed: dict[str, InputError] = {}
  for kind in kinds:
    if FORMATS[kind].of_dicom and not labels.present:
      notices.warn(f"{name}: nothing was painted, and {kind} cannot be empty; not written")
      continue
    try:
      files += _written(folder, name, labels, FORMATS[kind])
    except InputError as error:
      failed[kind] = error
  return files, failed


def _written(folder: Path, name: str, labels: PaintedMap, format: Format) -> list[Path]:
  if not format.each:
    path = folder / (name + format.ending)
    format.write(path, labels)
    return [path]
  names = mask_names(name, [each.organ for each in labels.organs], format)
  files = {each.value: folder / names[each.organ] for each in labels.organs}
  for each in labels.organs:
    format.write(files[each.value], labels.alone(each))
  return list(files.values())


def mask_names(name: str, organs: Sequence[str], format: Format = FORMATS["nifti-each"]) -> dict[str, str]:
  """By organ the file of the scan `name` in a format that is one for each organ."""
  return {organ: name + format.ending.format(organ=stem) for organ, stem in safe_names(organs).items()}


def find_result(folder: Path, name: str) -> Path | None:
  """The label map of the scan `name` among its result files, whichever format holds all organs; NIfTI first."""
  named = [name + each.ending for each in FORMATS.values() if not each.each]
  files = (folder / file for file in named if file.endswith((*VOLUME_SUFFIXES, ".dcm")))
  return next((file for file in files if file.is_file()), None)


def check(kinds: Iterable[str]) -> None:
  """Refuses formats that cannot be written, before any work.

  Raises:
    ConfigError: a kind that is none.
    InputError: the package for it is not installed.
  """
  for kind in kinds:
    if kind not in FORMATS:
      raise ConfigError(f"output type {kind!r} is unknown; choose of {', '.join(FORMATS)}")
    module, extra = FORMATS[kind].needs
    if module and importlib.util.find_spec(module) is None:
      raise InputError(f"writing {kind} needs {module}: {install_hint(extra)}")


def check_scan(scan: Volume, kinds: Iterable[str]) -> Volume:
  """The scan, if results of it can be written so: said when it was read, not after the search.

  Raises:
    InputError: a format refers to a DICOM series, and the scan is of none, or cannot hold the scan's tilted axes.
  """
  from medlsam_jax.io import metaimage

  kinds = list(kinds)
  if not scan.source_images and (referring := [kind for kind in kinds if FORMATS[kind].of_dicom]):
    raise InputError(
      f"{scan.source}: {', '.join(referring)} refers to the images of a DICOM series, and this scan is of none; "
      "choose another --output-type, such as nifti"
    )
  upright = [kind for kind in kinds if FORMATS[kind].right_angled]
  if upright and not metaimage.can_say(scan.file_grid or scan.grid):
    raise InputError(
      f"{scan.source}: its axes are not at right angles (a tilted gantry), which {', '.join(upright)} cannot hold; "
      "choose another --output-type, such as nrrd"
    )
  return scan


def _by_ending(path: PathLike) -> Format:
  name = os.fspath(path).lower()
  for format in FORMATS.values():
    if format.suffixes and name.endswith(format.suffixes):
      return format
  endings = ", ".join(suffix for format in FORMATS.values() for suffix in format.suffixes)
  raise OutputError(f"{path}: the ending is of no format of label maps ({endings}); change the name")
