"""One scan's result is one value: its files appear together, and its volumes are counted once."""

import dataclasses

import numpy as np
import pytest

from medlsam_jax.errors import InputError, OutputError
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io import label_formats, labels, scan_result
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.scan_result import PartlyWritten, ScanResult, result_paths

GRID = Grid((12, 16, 16), np.diag([-2.0, -2.0, 2.0, 1.0]))


def made(painted, outputs=("nifti",)):
  array = np.zeros(GRID.shape, np.uint8)
  array[2:6, 4:10, 4:10] = 5
  scan = Volume(np.where(array > 0, 50, -1000).astype(np.float32), GRID, "a_ct.nii.gz")
  findings = {"liver": Finding.of_boxes("liver", 5, [Box((2, 4, 4), (5, 9, 9))], "found")}
  return ScanResult("a", scan, findings, LabelMap(array, GRID, {"liver": 5}) if painted else None, outputs)


@pytest.mark.parametrize("painted", [True, False])
def test_writes_what_it_says(tmp_path, painted):
  files = made(painted).write(tmp_path / "out", {"seed": 1})
  assert files == result_paths(tmp_path / "out", "a", ("nifti",) if painted else ())
  assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in files}
  assert (tmp_path / "out" / "a_seg.nii.gz").is_file() == painted


def test_volumes_are_counted_once_and_are_those_of_the_file(tmp_path, monkeypatch):
  counted = []
  original = labels.count_labels
  monkeypatch.setattr(labels, "count_labels", lambda array: counted.append(1) or original(array))
  result = made(True)
  assert result.volumes_ml == {"liver": pytest.approx(4 * 6 * 6 * 8 / 1000)}
  result.write(tmp_path, {})
  assert len(counted) == 1 and '"volume_ml": 1.152' in (tmp_path / "a_boxes.json").read_text()
  assert made(False).volumes_ml is None


def test_a_picture_that_cannot_be_drawn_leaves_nothing(tmp_path, monkeypatch):
  def refuse(*_):
    raise OSError("no space left on device")

  monkeypatch.setattr(scan_result.preview, "write_preview", refuse)
  with pytest.raises(OutputError, match="no space left"):
    made(True).write(tmp_path / "out", {})
  assert not (tmp_path / "out").exists()


def test_a_format_that_cannot_be_written_after_all_leaves_the_others(tmp_path, monkeypatch):
  def refuse(path, labels):
    raise InputError(f"{path}: an odd header")

  monkeypatch.setitem(label_formats.FORMATS, "mha", dataclasses.replace(label_formats.FORMATS["mha"], write=refuse))
  result = made(True, ("mha", "nifti", "ctbl"))
  with pytest.raises(PartlyWritten, match=r"^not written: mha: a_seg\.mha: an odd header \(all other files") as said:
    result.write(tmp_path / "out", {})
  expected = {path.name for path in result_paths(tmp_path, "a", ("nifti", "ctbl"))}
  assert {path.name for path in said.value.files} == {path.name for path in (tmp_path / "out").iterdir()} == expected
  files, wrong = result.files({})
  assert files.keys() == expected and wrong == str(said.value)
  assert made(True).files({})[1] == ""
