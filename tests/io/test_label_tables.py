"""Names of organs rule over the numbers that label maps give them."""

import json

import numpy as np
import pytest
from template_files import cells, six, write_table

from medlsam_jax.io import templates


@pytest.fixture
def two_sets(tmp_path, add):
  """Two folders with a template each, `a` and `b`, listed in one file; gives the tables their content."""

  def write(first, second, own_name=False):
    for name, table in (("a", first), ("b", second)):
      add(name, labels=cells())
      (tmp_path / name).mkdir()
      for path in tmp_path.glob(f"{name}_*"):
        path.rename(tmp_path / name / path.name)
      (tmp_path / name / (f"{name}_labels.json" if own_name else "labels.json")).write_text(json.dumps(table))
    (tmp_path / "list.txt").write_text("a/a_ct.nii.gz\nb/b_ct.nii.gz\n")
    return tmp_path / "list.txt"

  return write


def test_names_rule_where_two_sets_number_the_same_organs_differently(two_sets):
  path = two_sets({"liver": 5, "spleen": 1}, {"liver": 1, "spleen": 5})
  with pytest.warns(UserWarning, match=r"liver is 5 in .*a/labels.json and 1 in .*b/labels.json; results call it 5"):
    first, second = templates.read_templates(path)
  assert first.values == {"liver": 5, "spleen": 1} and second.values == {"liver": 1, "spleen": 5}
  assert first.organs == second.organs == {"liver": 5, "spleen": 1}
  np.testing.assert_array_equal(first.labels.array, second.labels.array)


def test_value_of_two_organs_gives_each_its_own_mask_and_its_own_number(two_sets):
  path = two_sets({"liver": 5, "spleen": 1}, {"gut": 5, "spleen": 1, "unseen": 6})
  with pytest.warns(UserWarning, match="gut is 5 in .*, also that of liver; results call it 7") as said:
    first, second = templates.read_templates(path)
  assert first.organs == {"liver": 5, "spleen": 1} and second.organs == {"gut": 7, "spleen": 1}
  assert second.values == {"gut": 5, "spleen": 1}
  assert not any("unseen" in str(each.message) for each in said)


def test_organ_not_asked_for_is_not_talked_about(two_sets, recwarn):
  path = two_sets({"liver": 5, "spleen": 1}, {"liver": 1, "spleen": 5, "gut": 7})
  with pytest.warns(UserWarning, match="liver is 5") as said:
    templates.read_templates(path, organs=["liver"])
  assert not any("spleen" in str(each.message) for each in said)


def test_table_of_one_scan_goes_before_that_of_its_folder(two_sets, tmp_path):
  path = two_sets({"liver": 5, "spleen": 1}, {"hepar": 5, "lien": 1}, own_name=True)
  (tmp_path / "b" / "labels.json").write_text(json.dumps({"wrong": 5, "too": 1}))
  with pytest.warns(UserWarning, match="hepar is 5 in .*b_labels.json, also that of liver"):
    first, second = templates.read_templates(path)
  assert first.values == {"liver": 5, "spleen": 1}
  assert second.values == {"hepar": 5, "lien": 1}
  assert len(set(first.organs.values()) | set(second.organs.values())) == 4


def test_points_take_a_number_that_no_mask_has(two_sets, tmp_path):
  path = two_sets({"liver": 5, "spleen": 1}, {"liver": 1, "spleen": 9})
  grid = templates.scans.read_volume(tmp_path / "b" / "b_ct.nii.gz").grid
  (tmp_path / "b" / "b_seg.nii.gz").unlink()
  (tmp_path / "b" / "b_points.json").write_text(json.dumps({"spleen": six(grid), "gut": six(grid)}))
  with pytest.warns(UserWarning, match="spleen is 1 in"):
    first, second = templates.read_templates(path)
  assert first.organs == {"liver": 5, "spleen": 1} and second.organs == {"spleen": 1, "gut": 6}


@pytest.mark.parametrize(
  "content",
  [
    {"0": "background", "1": "spleen", "5": "liver"},
    {"name": "mine", "labels": {"background": 0, "spleen": 1, "liver": 5}, "numTraining": 7},
    {"labels": {"0": "background", "1": "spleen", "5": "liver"}},
    {"spleen": 1.0, "liver": 5.0},
  ],
  ids=["class map", "nnU-Net 2", "nnU-Net 1", "whole floats"],
)
def test_tables_that_other_programs_write_are_read(tmp_path, add, content):
  write_table(tmp_path, content)
  add("a", labels=cells())
  assert templates.read_templates(tmp_path)[0].values == {"spleen": 1, "liver": 5}
