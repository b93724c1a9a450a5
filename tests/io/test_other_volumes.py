"""Scans and label maps in NRRD and MetaImage are used where NIfTI is."""

import warnings

import nrrd
import numpy as np
import pytest

from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.io import scans
from medlsam_jax.io.label_files import is_label_map
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.templates import read_templates

GRID = Grid((30, 34, 38), np.diag([-3.0, -3.0, 4.0, 1.0]))
NAMES = {"liver": 5, "spleen": 2}


def write_scan(path):
  hu = np.random.default_rng(0).normal(40, 20, GRID.shape)
  hu[:, :4] = -1000
  lps = np.abs(GRID.affine[:3, :3])
  header = {"space": "left-posterior-superior", "space directions": lps, "space origin": [0.0, 0, 0]}
  nrrd.write(str(path), hu.astype(np.int16).T, {**header, "kinds": ["domain"] * 3})
  return hu.astype(np.int16)


def labels():
  array = np.zeros(GRID.shape, np.uint8)
  array[5:15, 10:20, 8:20], array[18:25, 12:20, 25:33] = 5, 2
  return LabelMap(array, GRID, NAMES)


@pytest.mark.parametrize("ending", [".seg.nrrd", "_seg.nrrd", "_seg.mha", "_seg.nii.gz"])
def test_templates_of_nrrd_scans(tmp_path, ending):
  hu = write_scan(tmp_path / "a_ct.nrrd")
  labels().save(tmp_path / f"a{ending}")
  if ending in ("_seg.nrrd", "_seg.mha"):  # which hold no names
    (tmp_path / "labels.json").write_text('{"liver": 5, "spleen": 2}')
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    (template,) = read_templates(tmp_path)
  assert template.name == "a" and template.organs == NAMES
  assert np.array_equal(template.scan.array, hu) and template.scan.grid.is_same(GRID)
  assert np.array_equal(template.labels.array, labels().array)


def test_a_label_map_is_no_scan():
  assert is_label_map("a.seg.nrrd") and is_label_map("a_seg.mha") and not is_label_map("a_ct.nrrd")


def test_a_metaimage_is_a_scan_too(tmp_path):
  LabelMap(np.full(GRID.shape, 7, np.uint8), GRID, {"a": 7}).save(tmp_path / "case_ct.mha")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    (listed,) = scans.list_scans(tmp_path)
    volume = scans.read_volume(listed.path)
  assert listed.name == "case" and isinstance(volume, Volume) and volume.grid.is_same(GRID)
  assert volume.array.dtype == np.float32 and (volume.array == 7).all()
