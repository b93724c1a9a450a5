"""Data sets as others lay them out are templates, queries with truth, and training folders as they are."""

import argparse
import shutil

import data_set_files
import numpy as np
import pytest
from data_set_files import LAYOUTS, NAMES, labels, put, scan

from medlsam_jax.errors import InputError, TemplateError
from medlsam_jax.evaluation.comparison import Truth
from medlsam_jax.evaluation.truth_names import own_tables
from medlsam_jax.io import label_files, scans
from medlsam_jax.io.label_maps import read_label_map
from medlsam_jax.io.templates import read_templates


@pytest.fixture(params=LAYOUTS)
def data_set(request, tmp_path):
  """Folder and names of its scans."""
  return tmp_path, LAYOUTS[request.param](tmp_path)


def test_templates_are_the_scans_with_their_organs(data_set):
  root, names = data_set
  for path in list(root.rglob("*.nii.gz")):  # as one system packs beside every file
    path.with_name(f"._{path.name}").write_bytes(b"not a scan")
  read = read_templates(root)
  assert [each.name for each in read] == names
  for number, template in enumerate(read, 1):
    np.testing.assert_array_equal(template.scan.array, scan(number))
    assert template.values.keys() == set(NAMES.values())
    for value, organ in NAMES.items():
      np.testing.assert_array_equal(template.labels.array == template.values[organ], labels(number) == value)


def test_organs_that_are_asked_for_alone_are_the_same(data_set):
  root, _ = data_set
  first, second = read_templates(root, ["liver"])
  assert first.values.keys() == second.values.keys() == {"liver"}
  np.testing.assert_array_equal(second.labels.array == second.values["liver"], labels(2) == 5)
  with pytest.raises(TemplateError, match="'heart'"):
    read_templates(root, ["heart"])


def test_evaluation_finds_truth_and_what_it_calls_its_organs(data_set):
  from medlsam_jax.cli.cases import cases_of

  root, names = data_set
  cases = cases_of(argparse.Namespace(query=str(root), truth=None, predictions=None, templates=None))
  assert [case.name for case in cases] == names
  tables, broken = own_tables({case.name: case.truth for case in cases}, None)
  assert tables.keys() == set(names) and not broken
  where = np.argwhere(labels(2) == 1)
  case = cases[1]
  truth = Truth.read(case.truth, case.name, tables[case.name], scans.read_volume(case.scan.path))
  np.testing.assert_array_equal(truth.boxes()["spleen"].box.array(), [where.min(0), where.max(0)])


def test_training_reads_scans_and_no_label_map(data_set):
  root, names = data_set
  assert [each.name for each in scans.list_scans(root)] == names


def test_truth_in_a_folder_of_its_own(tmp_path):
  data_set_files.nnunet(tmp_path / "a")
  assert list(label_files.label_maps_in(tmp_path / "a" / "labelsTr")) == ["case_1", "case_2"]
  data_set_files.totalsegmentator(tmp_path / "b")
  assert list(label_files.label_maps_in(tmp_path / "b")) == ["s0001", "s0002"]
  moved = tmp_path / "scans" / "s0002_ct.nii.gz"
  put(moved, scan(2))
  assert label_files.label_map_for(moved, "s0002", tmp_path / "b") == tmp_path / "b" / "s0002" / "segmentations"


def test_a_list_may_name_a_folder_of_masks(tmp_path):
  data_set_files.totalsegmentator(tmp_path)
  (tmp_path / "list.txt").write_text("s0001/ct.nii.gz s0001/segmentations\n")
  (template,) = read_templates(tmp_path / "list.txt")
  assert template.name == "s0001" and template.values.keys() == set(NAMES.values())


def test_masks_that_overlap_are_told(tmp_path):
  data_set_files.totalsegmentator(tmp_path)
  put(tmp_path / "s0001" / "segmentations" / "aorta.nii.gz", (labels(1) == 5).astype(np.uint8))
  with pytest.warns(UserWarning, match=r"masks overlap \(liver\)"):
    whole = read_label_map(tmp_path / "s0001" / "segmentations")
  assert set(np.unique(whole.array)) == {0, 2, 3, 4}


def test_masks_on_another_grid_are_refused(tmp_path):
  data_set_files.totalsegmentator(tmp_path)
  put(tmp_path / "s0001" / "segmentations" / "zygoma.nii.gz", labels()[:-2])
  with pytest.raises(InputError, match=r"zygoma.*another grid"):
    read_label_map(tmp_path / "s0001" / "segmentations")


def test_two_studies_in_one_folder_are_left_out_by_name(tmp_path):
  data_set_files.totalsegmentator(tmp_path)
  put(tmp_path / "s0001" / "ct_later.nii.gz", scan(4))
  with pytest.warns(UserWarning, match="s0001: two studies in one folder, ct.nii.gz, ct_later.nii.gz"):
    read = read_templates(tmp_path)
  assert [each.name for each in read] == ["s0002"]


def test_two_label_maps_of_one_subject_are_left_out_by_name(tmp_path):
  data_set_files.bids(tmp_path)
  where = tmp_path / "derivatives" / "by-machine" / "sub-01" / "ct"
  put(where / "sub-01_desc-other_dseg.nii.gz", labels(3))
  with pytest.warns(UserWarning, match=r"sub-01_ct\.nii\.gz: 2 label maps of it"):
    assert [each.name for each in read_templates(tmp_path)] == ["sub-02"]


def test_sessions_and_runs_keep_to_their_own_labels(tmp_path):
  for session in (1, 2):
    name = f"sub-01_ses-{session}"
    put(tmp_path / "sub-01" / f"ses-{session}" / "ct" / f"{name}_ct.nii.gz", scan(session))
    put(tmp_path / "derivatives" / "x" / "sub-01" / f"ses-{session}" / f"{name}_space-own_dseg.nii.gz", labels(session))
  with pytest.warns(UserWarning, match=r"labels\.json is missing"):
    first, second = read_templates(tmp_path)
  np.testing.assert_array_equal(first.labels.array, labels(1))
  np.testing.assert_array_equal(second.labels.array, labels(2))


def test_labels_without_images_are_told(tmp_path):
  data_set_files.nnunet(tmp_path / "a")
  (tmp_path / "a" / "imagesTr" / "case_2_0000.nii.gz").unlink()
  (tmp_path / "a" / "imagesTr" / "case_2_0001.nii.gz").unlink()
  with pytest.warns(UserWarning, match=r"labelsTr: labels without images: case_2\.nii\.gz"):
    assert [each.name for each in read_templates(tmp_path / "a")] == ["case_1"]
  shutil.rmtree(tmp_path / "a" / "imagesTr")
  with pytest.raises(InputError, match="labels without images: case_1"):
    read_templates(tmp_path / "a")
  data_set_files.totalsegmentator(tmp_path / "b")
  for number in (1, 2):
    (tmp_path / "b" / f"s000{number}" / "ct.nii.gz").unlink()
  with pytest.raises(InputError, match="segmentations without a scan: s0001, s0002"):
    read_templates(tmp_path / "b")


def test_a_folder_that_is_no_data_set_is_told_what_would_be_one(tmp_path):
  (tmp_path / "holiday.jpg").touch()
  with pytest.raises(InputError, match="laid out as TotalSegmentator, nnU-Net, BIDS"):
    read_templates(tmp_path)


@pytest.mark.parametrize("text", ["index\tlabel\n1\tliver\n", "index\tname\nx\tliver\n", ""])
def test_a_damaged_table_of_bids_is_one_line(tmp_path, text):
  data_set_files.bids(tmp_path)
  (tmp_path / "derivatives" / "by-hand" / "desc-three_dseg.tsv").write_text(text)
  with pytest.raises(InputError, match=r"desc-three_dseg\.tsv"):
    read_templates(tmp_path)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_labels_without_images_are_told_in_every_format(tmp_path, ending):
  data_set_files.nnunet(tmp_path, ending)
  for channel in (0, 1):
    (tmp_path / "imagesTr" / f"case_2_000{channel}{ending}").unlink()
  with pytest.warns(UserWarning, match=rf"labelsTr: labels without images: case_2\{ending}"):
    assert [each.name for each in read_templates(tmp_path)] == ["case_1"]


def test_masks_of_a_folder_may_be_of_other_formats(tmp_path):
  put(tmp_path / "s0001" / "ct.nii.gz", scan(1))
  for value, organ in NAMES.items():
    put(tmp_path / "s0001" / "segmentations" / f"{organ}.nrrd", (labels(1) == value).astype(np.uint8))
  (template,) = read_templates(tmp_path)
  for value, organ in NAMES.items():
    assert np.array_equal(template.labels.array == template.values[organ], labels(1) == value)


@pytest.mark.parametrize(
  ("regions", "expected"),
  [
    ({"whole": [1, 2, 5]}, {"spleen": 1, "kidney": 2, "liver": 5}),
    ({"spleen": None, "whole": [1, 2, 5], "kidney": [2]}, {"kidney": 2, "liver": 5}),
  ],
)
def test_regions_of_several_values_are_left_out_and_the_other_organs_are_read(tmp_path, regions, expected):
  data_set_files.nnunet(tmp_path, **regions)
  with pytest.warns(UserWarning, match=r"dataset\.json: whole: regions of several values, left out"):
    first, _ = read_templates(tmp_path)
  assert first.values == expected
  with pytest.warns(UserWarning, match="left out"):
    tables, wrong = own_tables({"a": tmp_path / "labelsTr" / "case_1.nii.gz"}, None)
  assert tables == {"a": expected} and not wrong


@pytest.mark.parametrize("value", [[], [1, "x"], [1.5, 2], [[1]], "5", -1])
def test_what_is_neither_a_value_nor_a_region_is_refused(tmp_path, value):
  data_set_files.nnunet(tmp_path, odd=value)
  with pytest.raises(InputError, match=r"dataset\.json: odd: .* is not a label value"):
    read_templates(tmp_path)
