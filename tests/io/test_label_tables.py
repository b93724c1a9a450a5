"""Names of organs rule over the numbers that label maps give them."""

import json

import nrrd
import numpy as np
import pytest
from data_set_files import GRID, put, scan
from template_files import cells, save, six, write_table

from medlsam_jax.evaluation.truth_names import own_tables
from medlsam_jax.io import templates
from medlsam_jax.io.labels import LabelMap


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


BESIDE = {"spleen": 1, "kidney": 2, "liver": 5}
"""Of other label maps of the folder."""
DRAWN = {"liver": 1, "spleen": 2, "kidney": 5}
"""In the order in which somebody made the segments."""


def drawn(path, kind, grid):
  """Writes labels that name themselves, numbered as `DRAWN`."""
  array = np.zeros(grid.shape, np.uint8)
  for place, value in enumerate(DRAWN.values()):
    array[6 + 2 * place : 8 + 2 * place, 4:8, 4:8] = value
  if kind == "masks":
    path = path / "segmentations"
    path.mkdir()
    for organ, value in DRAWN.items():
      save(path / f"{organ}.nii.gz", (array == value).astype(np.uint8), grid)
  elif kind == "segments":
    path = path / "b.seg.nrrd"
    LabelMap(array, grid, DRAWN).save(path)
  else:  # every segment in a layer of its own, each with the value 1
    path = path / "b.seg.nrrd"
    lps = grid.affine * np.array([[-1], [-1], [1], [1]])
    header = {"space": "left-posterior-superior", "space origin": lps[:3, 3], "kinds": ["list", *["domain"] * 3]}
    header["space directions"] = np.vstack([[np.nan] * 3, lps[:3, :3].T])
    for number, organ in enumerate(DRAWN):
      of_segment = {"Name": organ, "LabelValue": "1", "Layer": str(number)}
      header |= {f"Segment{number}_{key}": value for key, value in of_segment.items()}
    nrrd.write(str(path), np.stack([(array == value).T for value in DRAWN.values()]).astype(np.uint8), header)
  return path, {organ: array == value for organ, value in DRAWN.items()}


@pytest.mark.parametrize("way", ["beside", "given"])
@pytest.mark.parametrize("kind", ["segments", "layers", "masks"])
def test_labels_that_draw_organs_by_name_are_what_they_say_whatever_table_there_is(tmp_path, kind, way):
  put(tmp_path / "b_ct.nii.gz", scan())
  path, masks = drawn(tmp_path, kind, GRID)
  write_table(tmp_path, BESIDE)
  given = tmp_path / "labels.json" if way == "given" else None
  (template,) = templates.read_templates(tmp_path, labels_file=given)
  tables, wrong = own_tables({"b": path}, given)
  assert template.values == tables["b"] and not wrong
  for organ, mask in masks.items():
    assert np.array_equal(template.labels.array == template.values[organ], mask)
