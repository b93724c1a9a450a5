"""Tiny data sets in the layouts that others publish theirs in: two scans with liver, spleen and kidney."""

import json

import numpy as np
from template_files import SHAPE, cells, save

from medlsam_jax.geometry import Grid
from medlsam_jax.io.labels import LabelMap

NAMES = {1: "spleen", 2: "kidney", 5: "liver"}
GRID = Grid(SHAPE, np.diag([-4.0, -4.0, 5.0, 1.0]))


def scan(seed=0):
  """A body in air, with noise."""
  array = np.full(SHAPE, -1000, np.int16)
  array[:, 2:-2, 2:-2] = 40 + np.random.default_rng(seed).integers(-20, 20, (SHAPE[0], SHAPE[1] - 4, SHAPE[2] - 4))
  return array


def labels(shift=0):
  """The cells of `template_files`, and a kidney."""
  array = cells()
  array[12:16, 12:16, 14:19] = 2
  return np.roll(array, shift, axis=2)


def put(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.name.endswith(".nii.gz"):
    save(path, array, GRID)
  else:
    LabelMap(array, GRID, {}).save(path)


def totalsegmentator(root):
  for number in (1, 2):
    put(root / f"s000{number}" / "ct.nii.gz", scan(number))
    for value, organ in NAMES.items():
      mask = (labels(number) == value).astype(np.uint8)
      put(root / f"s000{number}" / "segmentations" / f"{organ}.nii.gz", mask)
  (root / "meta.csv").write_text("image_id;age;split\ns0001;60;train\ns0002;70;test\n")
  return ["s0001", "s0002"]


def nnunet(root, ending=".nii.gz", **regions):
  for number in (1, 2):
    put(root / "imagesTr" / f"case_{number}_0000{ending}", scan(number))
    put(root / "imagesTr" / f"case_{number}_0001{ending}", scan(number + 7))
    put(root / "labelsTr" / f"case_{number}{ending}", labels(number))
  table = {"background": 0} | {organ: value for value, organ in NAMES.items()} | regions
  table = {organ: value for organ, value in table.items() if value is not None}
  said = {"channel_names": {"0": "CT", "1": "PET"}, "labels": table, "file_ending": ending}
  (root / "dataset.json").write_text(json.dumps(said))
  return ["case_1", "case_2"]


def nnunet_nrrd(root):
  return nnunet(root, ".nrrd")


def nnunet_mha(root):
  return nnunet(root, ".mha")


def word(root):
  for number, part in ((1, "Tr"), (2, "Val")):
    put(root / f"images{part}" / f"word_000{number}.nii.gz", scan(number))
    put(root / f"labels{part}" / f"word_000{number}.nii.gz", labels(number))
  (root / "dataset.json").write_text(json.dumps({"labels": {str(v): organ for v, organ in NAMES.items()}}))
  return ["word_0001", "word_0002"]


def bids(root):
  derivative = root / "derivatives" / "by-hand"
  for number in (1, 2):
    put(root / f"sub-0{number}" / "ct" / f"sub-0{number}_ct.nii.gz", scan(number))
    put(derivative / f"sub-0{number}" / "ct" / f"sub-0{number}_desc-three_dseg.nii.gz", labels(number))
  rows = "".join(f"{value}\t{organ}\n" for value, organ in NAMES.items())
  (derivative / "desc-three_dseg.tsv").write_text(f"index\tname\n{rows}")
  (derivative / "desc-other_dseg.tsv").write_text("index\tname\n1\twrong\n")
  return ["sub-01", "sub-02"]


def structseg(root):
  for number in (1, 2):
    put(root / str(number) / "data.nii.gz", scan(number))
    put(root / str(number) / "label.nii.gz", labels(number))
  (root / "labels.json").write_text(json.dumps({organ: value for value, organ in NAMES.items()}))
  return ["1", "2"]


LAYOUTS = {each.__name__: each for each in (totalsegmentator, nnunet, nnunet_nrrd, nnunet_mha, word, bids, structseg)}
