"""Which scans a path means, and reading one whatever its format."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from medlsam_jax import display, notices
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Volume
from medlsam_jax.io import addresses, dicom, nifti, other_volumes, scan_checks, scan_folders, scan_names
from medlsam_jax.io.dicom_folder import NoSuchSeries
from medlsam_jax.io.scan_names import NIFTI_SUFFIXES, SCAN_ENDING, VOLUME_SUFFIXES, scan_name

__all__ = ["NIFTI_SUFFIXES", "SCAN_ENDING", "ListedScan", "ReadingOptions", "list_scans", "read_lines", "read_volume"]
__all__ += ["scan_name"]


@dataclasses.dataclass(frozen=True)
class ListedScan:
  """One of the scans that a path means; as a string, its path or address."""

  path: Path
  """Of a scan behind an address, what follows `gs:/` there."""
  name: str
  """What its results are called; no other scan of the same list is called so."""
  wrong: str = ""
  """Why it cannot be read, where that is known before it is opened: a line of a list that names nothing."""
  address: str = ""
  """Where it lies if not on this machine: `gs://...`."""

  @classmethod
  def at(cls, address: str) -> ListedScan:
    """A scan behind an address, without a name yet."""
    address = address.rstrip("/")
    return cls(Path("/" + address.partition("://")[2]), "", address=address)

  def __str__(self) -> str:
    return self.address or str(self.path)

  def __fspath__(self) -> str:
    return str(self.path)


@dataclasses.dataclass(frozen=True)
class ReadingOptions:
  """How the scans of one call are read: `series` and `hu_offset` of `read_volume`."""

  series: str | None = None
  hu_offset: float | None = None

  def read(self, scan: ListedScan, alone: bool = True) -> Volume:
    """Reads a listed scan. `series` chooses in those that have it; another scan of a list is read without, and noted.

    Raises:
      InputError: as `read_volume`, and what was `wrong` with the line that lists it.
    """
    if scan.wrong:
      raise InputError(scan.wrong)
    if scan.address:
      with tempfile.TemporaryDirectory(prefix="medlsam-") as folder, CopiedScan.of(scan, folder) as copied:
        return copied.renamed(self.read(copied.scan, alone))
    given = {name: value for name, value in vars(self).items() if value is not None}
    if alone or self.series is None:
      return read_volume(scan.path, **given)
    if scan.path.is_dir() or scan.path.name.upper() == "DICOMDIR":
      with contextlib.suppress(NoSuchSeries):
        return read_volume(scan.path, **given)
    del given["series"]
    note = f"{scan.path}: does not have the series {self.series}; read without choosing one"
    notices.warn(note)
    volume = read_volume(scan.path, **given)
    return dataclasses.replace(volume, notes=(note, *volume.notes))


@dataclasses.dataclass(frozen=True)
class CopiedScan:
  """A scan that lay behind an address, on this machine."""

  scan: ListedScan
  """Where it lies now."""
  address: str

  @classmethod
  @contextlib.contextmanager
  def of(cls, scan: ListedScan, folder: str | os.PathLike[str]) -> Iterator[CopiedScan]:
    """Copies a scan into a folder; in the block errors name the address. A scan of this machine stays where it is.

    Raises:
      InputError: it cannot be copied, or what the block raises as such.
    """
    if not scan.address:
      yield cls(scan, "")
      return
    here = addresses.copy_here(scan.address, Path(folder))
    copied = cls(dataclasses.replace(scan, path=here, address=""), scan.address)
    try:
      yield copied
    except InputError as error:
      raise InputError(copied.said(str(error))) from error

  def said(self, text: str) -> str:
    """A text about the copy, of the address."""
    return text.replace(str(self.scan.path), self.address) if self.address else text

  def renamed(self, volume: Volume) -> Volume:
    """The volume, as read from the address."""
    notes, doubts = (tuple(map(self.said, each)) for each in (volume.notes, volume.doubts))
    return dataclasses.replace(volume, source=self.said(volume.source), notes=notes, doubts=doubts)


def read_volume(path: str | os.PathLike[str], *, series: str | None = None, hu_offset: float | None = None) -> Volume:
  """Reads a CT scan in HU on its own voxels (z, y, x): NIfTI, NRRD, MetaImage; DICOM as `dicom.read_series` finds it.

  Warns of all that had to be settled or left out (`Volume.notes`) and of what makes the scan doubtful
  (`Volume.doubts`): values that are no HU, a thin slab.

  Args:
    path: a file, or a folder with the slices of one scan in it or below it.
    series: the DICOM series to take where there are several: its UID, an ending of it that no other has, or its number.
    hu_offset: added to every value, for files that do not hold HU: -1024 where the rescale intercept was left out.

  Raises:
    InputError: as `nifti.read_nifti` and `dicom.read_series`; `series` for a NIfTI file, an offset that is no number, a
      format that is not read, a path that names nothing.
  """
  path = _existing(path)
  if hu_offset is not None and not math.isfinite(hu_offset):
    raise InputError(f"{path}: an offset of {hu_offset} HU; give a number, such as -1024")
  if path.is_dir():
    volume = _read_folder(path, series)
  elif path.suffix.lower() == ".dcm" or path.name.upper() == "DICOMDIR" or dicom.is_dicom_file(path):
    volume = dicom.read_series(path, series)
  else:
    scan_folders.refuse_format(path)
    if series is not None:
      raise InputError(f"{path}: a NIfTI file, which has no series to choose from; leave series={series} away")
    other = path.name.lower().endswith(other_volumes.SUFFIXES)
    volume = other_volumes.read_scan(path) if other else nifti.read_nifti(path)
  if hu_offset:
    note = f"{volume.source}: {hu_offset:+g} added to every value, as was asked"
    array = volume.array + volume.array.dtype.type(hu_offset)
    volume = dataclasses.replace(volume, array=array, notes=(*volume.notes, note))
  return scan_checks.check_scan(volume)


def list_scans(*paths: str | os.PathLike[str]) -> list[ListedScan]:
  """The scans that paths mean, in order of their names in a folder, else as they are listed.

  - a NIfTI file, a folder of DICOM slices, one such file, or a DICOMDIR: that scan;
  - a `.txt` file: one of these or a folder a line, relative to the list file; empty lines and lines starting with `#`
    are skipped; a line that names nothing is a scan that cannot be read, as long as others can;
  - a folder: see `scan_folders.scans_in`;
  - an address (`gs://`, `s3://`): a list there, whose lines are relative to it; a NIfTI file; a folder, of which all
    NIfTI files are scans, those named `_ct` where there are any, or which is itself one, of DICOM slices.

  The scans themselves are not opened: one that is broken is reported when it is read. What is listed twice, also by
  links, is taken once, with a warning.

  Raises:
    InputError: no such path, no scan in it, no line of a list that names any, scans that no name tells apart.
  """
  scans: list[ListedScan] = []
  for given in paths:
    if addresses.is_address(os.fspath(given)):
      scans += _at(os.fspath(given))
      continue
    path = _existing(given)
    if path.is_dir():
      scans += _in_folder(path)
    elif path.suffix.lower() == ".txt":
      scans += _in_list(path)
    else:
      scans.append(ListedScan(path, ""))
  scans = _once(scans)
  names = scan_names.names_of([scan.path for scan in scans])
  return [dataclasses.replace(scan, name=name) for scan, name in zip(scans, names, strict=True)]


def read_lines(path: Path) -> list[tuple[int, str]]:
  """Line number and text of each line that says something; `#` starts a comment line.

  Raises:
    InputError: not a text file, or nothing in it.
  """
  try:
    text = path.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f"{path}: not a list of paths ({error})") from error
  return _lines(text, str(path))


def _lines(text: str, source: str) -> list[tuple[int, str]]:
  lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
  lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
  if not lines:
    raise InputError(f"{source}: an empty list; write one path a line")
  return lines


def _existing(given: str | os.PathLike[str]) -> Path:
  """A path that is there, `~` being the user's folder."""
  if not os.fspath(given):
    raise InputError("an empty path where a scan was expected; give a file or a folder")
  path = Path(given)
  try:
    if not path.exists() and str(path).startswith("~"):
      path = path.expanduser()
    if path.is_symlink() and not path.exists():
      raise InputError(f"{path}: a link to {os.readlink(path)}, which is not there")
    if not path.exists():
      raise InputError(f"{path}: no such file or folder")
  except (OSError, RuntimeError) as error:  # a folder above that is closed, a name too long, no home for `~name`
    raise InputError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
  if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
    raise InputError(f"{path}: permission denied; ask for the right to read it")
  return path


def _read_folder(path: Path, series: str | None) -> Volume:
  """DICOM in a folder, or the one scan of any kind in it and below."""
  if dicom.is_dicom_folder(path):
    return dicom.read_series(path, series)
  scans = _in_folder(path)
  if all(scan.path.is_dir() for scan in scans):
    return dicom.read_series(path, series)
  if len(scans) > 1:
    raise InputError(f"{path}: {len(scans)} scans in this folder, {_some(scans, path)}; give one of them")
  return read_volume(scans[0].path, series=series)


def _in_list(path: Path) -> list[ListedScan]:
  def of(line: str) -> list[ListedScan]:
    if addresses.is_address(line):
      return _at(line)
    scan = _existing(Path(line) if line.startswith("~") else path.parent / line)
    return _in_folder(scan) if scan.is_dir() else [ListedScan(scan, "")]

  return _each_line(read_lines(path), str(path), of, path.parent)


def _at(address: str) -> list[ListedScan]:
  """The scans that an address means. A NIfTI file is not looked for: reading it says so if it is not there."""
  lower = address.lower()
  if lower.endswith(".txt"):
    folder = address.rpartition("/")[0]
    lines = _lines(addresses.read_text(address), address)
    return _each_line(
      lines, address, lambda line: _at(line if addresses.is_address(line) else addresses.join(folder, line)), Path("/")
    )
  if lower.endswith(VOLUME_SUFFIXES):
    return [ListedScan.at(address)]
  names = addresses.names_below(address)
  if not names:
    raise InputError(f"{address}: no such file or folder")
  scans = scan_folders.nifti_of([Path(name) for name in names])
  return [ListedScan.at(addresses.join(address, str(name))) for name in scans] or [ListedScan.at(address)]


def _each_line(
  lines: Sequence[tuple[int, str]], source: str, of: Callable[[str], list[ListedScan]], folder: Path
) -> list[ListedScan]:
  """The scans of a list's lines; a line that names nothing is one that cannot be read, as long as others can."""
  scans = []
  for number, line in lines:
    try:
      scans += of(line)
    except InputError as error:
      scans.append(ListedScan(folder / line, "", f"{source}, line {number}: {error}"))
  wrong = [scan.wrong for scan in scans if scan.wrong]
  if len(wrong) == len(scans):
    raise InputError(wrong[0] + (f" (and none of the other {len(wrong) - 1} lines)" if len(wrong) > 1 else ""))
  return scans


def _in_folder(path: Path) -> list[ListedScan]:
  """The scans of a folder by name; the folder itself where its slices are broken, so that reading says how."""
  scans = scan_folders.scans_in(path)
  if not scans and not dicom.is_dicom_folder(path):
    raise InputError(f"{path}: {scan_folders.why_none(path)}")
  ordered = sorted(scans or [path], key=lambda scan: (scan_name(scan), scan.parts))
  return [ListedScan(scan, "") for scan in ordered]


def _once(scans: Sequence[ListedScan]) -> list[ListedScan]:
  kept: dict[Path | str, ListedScan] = {}
  for scan in scans:
    place = scan.address or scan.path.resolve()
    if place not in kept:
      kept[place] = scan
    elif kept[place].path == scan.path:
      notices.warn(f"{scan}: listed twice; taken once")
    else:
      notices.warn(f"{scan} is the same as {kept[place].path}; taken once")
  return list(kept.values())


def _some(scans: Sequence[ListedScan], folder: Path) -> str:
  return display.some((str(scan.path.relative_to(folder)) for scan in scans), 4)
