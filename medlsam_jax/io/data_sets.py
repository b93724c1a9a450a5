"""How published data sets are laid out: which labels belong to a scan there, and where they are named.

- TotalSegmentator (AbdomenAtlas likewise): `s0001/ct.nii.gz`, a mask for each organ in `s0001/segmentations/`;
- nnU-Net: `imagesTr/NAME_0000.nii.gz`, `labelsTr/NAME.nii.gz`, both of any format of one file (`file_ending`), names in
  `dataset.json`; of several channels the first is the scan. The Medical Decathlon and WORD have `imagesTr/NAME.nii.gz`
  instead, WORD also `imagesVal`, `imagesTs`;
- BIDS: `sub-01/ct/sub-01_ct.nii.gz`, and in the same data set or in one of its `derivatives/` a
  `sub-01/.../sub-01_*_dseg.nii.gz`, named by a `*_dseg.tsv` beside it or above;
- StructSeg: `1/data.nii.gz`, `1/label.nii.gz`, which go by the general rules of `io.label_files`.

Only names of files are looked at here, and the few bytes of tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medlsam_jax import display
from medlsam_jax.errors import InputError
from medlsam_jax.io.scan_names import IMAGES, SCAN_ENDING, VOLUME_SUFFIXES, stem

MASKS = "segmentations"
"""Folder beside a scan with a mask for each organ, called after it."""
DSEG = "_dseg"
DATASET_FILE = "dataset.json"
KNOWN = "TotalSegmentator, nnU-Net, BIDS derivatives, StructSeg"
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
_ADDED = ("space", "desc", "label", "atlas", "seg", "res", "den")
"""BIDS entities that a derivative may have besides those of the scan that it was made of."""


def is_mask_folder(path: Path) -> bool:
  """Whether this is the folder with the masks of one scan."""
  return path.name.lower() == MASKS and path.is_dir()


def masks_in(folder: Path) -> dict[str, Path]:
  """The masks of a scan by organ, in order of their names.

  Raises:
    InputError: no mask there.
  """
  masks = {stem(path): path for path in sorted(folder.iterdir()) if _is_volume(path)}
  if not masks:
    raise InputError(f"{folder}: no masks; a mask for each organ was expected, such as liver.nii.gz")
  return masks


def labels_of(scan: Path) -> Iterator[Path]:
  """Label maps, or the folder of masks, that a layout gives a scan.

  Raises:
    InputError: two scans beside one folder of masks, or two label maps of one scan.
  """
  yield from _in_label_folder(scan)
  yield from _of_subject(scan)
  if is_mask_folder(scan.parent / MASKS):
    beside = [path.name for path in sorted(scan.parent.iterdir()) if _may_be_scan(path)]
    if len(beside) > 1:
      raise InputError(f"{scan.parent}: two studies in one folder, {', '.join(beside)}; whose {MASKS}? Keep one scan")
    yield scan.parent / MASKS


def tables_of(annotation: Path) -> Iterator[Path]:
  """Where the organs of a label map may be named: the folder of masks itself, `dseg.tsv`, `dataset.json`."""
  if is_mask_folder(annotation):
    yield annotation
  if stem(annotation).endswith(DSEG):
    yield annotation.with_name(f"{stem(annotation)}.tsv")
    own = _entities(stem(annotation))
    for folder in annotation.parents[:6]:
      tables = sorted(folder.glob("*dseg.tsv"))
      yield from (path for path in tables if _entities(path.stem).items() <= own.items())
  if annotation.parent.name.lower().startswith("labels"):
    yield annotation.parent.parent / DATASET_FILE


def is_other_channel(scan: Path) -> bool:
  """Whether this is another channel of a scan of nnU-Net, whose first is the one that is read."""
  found = _CHANNEL.fullmatch(stem(scan))
  if not found or not IMAGES.fullmatch(scan.parent.name) or found["channel"] == "0000":
    return False
  first = scan.with_name(scan.name.replace(f"_{found['channel']}.", "_0000.", 1))
  return first.is_file() and not _named_in(_label_folder(scan.parent), stem(scan))


def without_scans(folder: Path) -> str:
  """What labels of a data set have no scan, in words; empty where all have one, or it is none."""
  found: dict[Path, list[str]] = {}
  for labels in sorted(folder.glob("labels*")):
    images = folder / labels.name.replace("labels", "images", 1)
    if not labels.is_dir() or not IMAGES.fullmatch(images.name):
      continue
    scans = {stem(path) for path in images.glob("*") if _is_volume(path)}
    bare = scans | {each["case"] for name in scans if (each := _CHANNEL.fullmatch(name))}
    found[labels] = [path.name for path in sorted(labels.iterdir()) if _is_volume(path) and stem(path) not in bare]
  words = [f"{labels}: labels without images: {_some(names)}" for labels, names in found.items() if names]
  cases = [path.parent for path in sorted(folder.glob(f"*/{MASKS}"))]
  lone = [case.name for case in cases if not any(map(_may_be_scan, case.iterdir()))]
  return "; ".join([*words, *([f"{folder}: {MASKS} without a scan: {_some(lone)}"] if lone else [])])


def _in_label_folder(scan: Path) -> Iterator[Path]:
  """Of nnU-Net and the like."""
  if not IMAGES.fullmatch(scan.parent.name):
    return
  labels = _label_folder(scan.parent)
  yield from _named_in(labels, stem(scan))
  if found := _CHANNEL.fullmatch(stem(scan)):
    yield from _named_in(labels, found["case"])


def _label_folder(images: Path) -> Path:
  return images.parent / re.sub("images", "labels", images.name, count=1, flags=re.IGNORECASE)


def _named_in(folder: Path, name: str) -> list[Path]:
  return [path for suffix in VOLUME_SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]


def _of_subject(scan: Path) -> Iterator[Path]:
  """Of BIDS: in the subject's folder, or in that of the same subject in a derivative."""
  subject = next((each for each in scan.parents if _SUBJECT.fullmatch(each.name)), None)
  if subject is None or not stem(scan).startswith(f"{subject.name}_"):
    return
  own = _entities(stem(scan).removesuffix(SCAN_ENDING))
  places = [subject, *sorted(subject.parent.glob(f"derivatives/*/{subject.name}"))]
  maps = [path for place in places for path in sorted(place.rglob(f"*{DSEG}.*"))]
  maps = [path for path in maps if _is_volume(path) and _fits(_entities(stem(path)), own)]
  if len(maps) > 1:
    names = ", ".join(str(path) for path in maps[:3])
    raise InputError(f"{scan}: {len(maps)} label maps of it: {names}; keep one, or name both files in a list")
  yield from maps


def _entities(name: str) -> dict[str, str]:
  """`sub-01_desc-x_dseg` -> `{"sub": "01", "desc": "x"}`."""
  return {key: value for part in name.split("_") if "-" in part for key, _, value in (part.partition("-"),)}


def _fits(labels: dict[str, str], scan: dict[str, str]) -> bool:
  """Whether a label map is of a scan: every entity of the scan, and no other but those that derivatives add."""
  return scan.items() <= labels.items() and not labels.keys() - scan.keys() - set(_ADDED)


def _may_be_scan(path: Path) -> bool:
  """A file of one volume that is not named as labels are: `ct`, but not `combined_labels`."""
  words = re.split(r"[-_]", stem(path).lower())
  return _is_volume(path) and not set(words) & {"labels", "label", "seg", "mask", "dseg"}


def _is_volume(path: Path) -> bool:
  """By its name; hidden files, which some systems pack beside others, are none."""
  return path.name.lower().endswith(VOLUME_SUFFIXES) and not path.name.startswith(".")


def _some(names: list[str]) -> str:
  return display.some(names, 4)
