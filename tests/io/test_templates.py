import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from template_files import LABELS, SHAPE, cells, save, six, write_table

from medlsam_jax import working_grid
from medlsam_jax.errors import InputError, TemplateError
from medlsam_jax.geometry import Grid
from medlsam_jax.io import templates
from medlsam_jax.medlam.bank import points

MINI = Path(__file__).parents[1] / "golden" / "mini"


def test_label_maps_get_their_names_from_the_table(tmp_path, add):
  write_table(tmp_path)
  add("b", labels=cells())
  add("a", labels=np.where(cells() == 5, 5, 0).astype(np.uint8))
  first, second = templates.read_templates(tmp_path)
  assert (first.name, second.name) == ("a", "b")
  assert first.values == {"liver": 5}
  assert second.values == {"liver": 5, "spleen": 1}
  assert second.points == second.point_values == {}
  np.testing.assert_array_equal(second.labels.array, cells())
  assert second.labels.grid.is_same(second.scan.grid)
  assert second.scan.array.min() == -1000


def test_label_map_without_a_table_gets_numbered_names(tmp_path, add):
  add("a", labels=cells())
  add("b", labels=cells())
  with pytest.warns(UserWarning, match=r"labels.json is missing: .*\(label_1, label_5\); write") as said:
    assert templates.read_templates(tmp_path)[0].values == {"label_1": 1, "label_5": 5}
  assert len(said) == 1


def test_points_and_masks_of_one_scan_add_up(tmp_path, add, make_grid):
  write_table(tmp_path)
  add(
    "a", labels=np.where(cells() == 1, 1, 0).astype(np.uint8), world={"liver": six(make_grid("LPS", SHAPE, (3, 3, 4)))}
  )
  template = templates.read_templates(tmp_path)[0]
  assert template.values == {"spleen": 1}
  assert template.point_values == {"liver": 5}
  assert template.organs == {"spleen": 1, "liver": 5}


def test_points_without_values_are_numbered_in_order_of_appearance(tmp_path, add, make_grid):
  write_table(tmp_path, {"spleen": 7})
  world = six(make_grid("LPS", SHAPE, (3, 3, 4)))
  add("a", world={"gut": world, "spleen": world})
  add("b", world={"bladder": world, "gut": world})
  first, second = templates.read_templates(tmp_path)
  assert first.point_values == {"gut": 8, "spleen": 7}
  assert second.point_values == {"bladder": 9, "gut": 8}
  assert first.labels is None


def test_points_mark_the_same_faces_as_the_mask_in_every_orientation(tmp_path, add, codes):
  grid = add("a", codes, labels=np.where(cells() == 1, 1, 0).astype(np.uint8))
  (tmp_path / "a_points.json").write_text(json.dumps({"liver": six(grid)}))
  write_table(tmp_path)
  template = templates.read_templates(tmp_path)[0]
  mask = np.where(cells() == 5, 1, 0).astype(np.uint8)
  labels, working = working_grid.labels_to_working_grid(type(template.scan)(mask, template.scan.grid))
  extreme = points.extreme_points(labels == 1)
  found = working.from_scan(template.points["liver"])
  for face in range(6):
    assert abs(found[face, face % 3] - extreme[face, face % 3]) <= 1.0


def test_slicer_markups_are_found_beside_the_scan(tmp_path, add):
  grid = add("a")
  lps = np.array(six(grid)) * [-1, -1, 1]
  controls = [{"label": f"liver-{i}", "position": p} for i, p in enumerate(lps.tolist(), 1)]
  markups = {"markups": [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": controls}]}
  (tmp_path / "a.mrk.json").write_text(json.dumps(markups))
  (tmp_path / "a_boxes.mrk.json").write_text("this is a result, not a template")
  template = templates.read_templates(tmp_path)[0]
  world = template.scan.grid.world_from_voxel(template.points["liver"])
  assert sorted(world.round(4).tolist()) == sorted(np.round(six(grid), 4).tolist())


def test_turned_label_map_is_brought_onto_the_scan(tmp_path, add, make_grid):
  write_table(tmp_path)
  grid = add("a")
  turned = make_grid("LPS", SHAPE, (3.0, 3.0, 4.0)).affine.copy()
  turned[:3, 3] = grid.world_from_voxel(np.array([0, SHAPE[1] - 1, 0]))
  turned[:3, 1] *= -1
  nibabel.save(nibabel.Nifti1Image(cells()[:, ::-1].T, turned), tmp_path / "a_seg.nii.gz")
  np.testing.assert_array_equal(templates.read_templates(tmp_path)[0].labels.array, cells())


def test_chosen_organs_leave_out_templates_without_them(tmp_path, add):
  write_table(tmp_path)
  add("a", labels=np.where(cells() == 5, 5, 0).astype(np.uint8))
  add("b", labels=cells())
  found = templates.read_templates(tmp_path, organs=["spleen"])
  assert [t.name for t in found] == ["b"]
  assert found[0].values == found[0].organs == {"spleen": 1}
  assert found[0].unused == {"liver": 5}


def test_organ_in_no_template_and_unknown_organ_are_told_apart(tmp_path, add):
  write_table(tmp_path)
  add("a", labels=cells())
  with pytest.raises(TemplateError, match="'kidney': no voxels in any template; the templates have liver, spleen"):
    templates.read_templates(tmp_path, organs=["liver", "kidney"])
  with pytest.raises(TemplateError, match="'livr': unknown; the templates have liver, spleen"):
    templates.read_templates(tmp_path, organs=["livr"])


def test_value_that_the_table_does_not_name_is_refused_unless_organs_are_chosen(tmp_path, add):
  write_table(tmp_path, {"liver": 5})
  add("a", labels=cells())
  with pytest.raises(InputError, match=r"a_seg.nii.gz: label values \[1\] are not named in labels.json"):
    templates.read_templates(tmp_path)
  assert templates.read_templates(tmp_path, organs=["liver"])[0].values == {"liver": 5}


def test_given_table_goes_before_the_one_beside(tmp_path, add):
  write_table(tmp_path, {"wrong": 5})
  (tmp_path / "other.json").write_text(json.dumps({"background": 0, "hepar": 5, "lien": 1}))
  add("a", labels=cells())
  found = templates.read_templates(tmp_path, labels_file=tmp_path / "other.json")
  assert found[0].values == {"hepar": 5, "lien": 1}


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ('{"liver": 5, "spleen": 5}', "liver and spleen both have the value 5"),
    ('{"liver": "5"}', "liver: '5' is not a label value"),
    ('{"liver": -1}', "liver: -1 is not a label value"),
    ('{"liver": true}', "liver: True is not a label value"),
    ('{"background": 0}', "names no organ"),
    ('{"1": "liver", "2": "liver"}', "liver has the values 1 and 2"),
    ('{"1": "2"}', "numbers on both sides"),
    ('{"labels": {"tumour": [1, 2]}}', "names no organ"),
    ('{"liver": 5', "not valid JSON"),
    ("[5]", "expected a JSON object"),
  ],
)
def test_malformed_tables_are_refused(tmp_path, add, content, message):
  (tmp_path / "labels.json").write_text(content)
  add("a", labels=cells())
  with pytest.raises(InputError, match=f"labels.json: {message}"):
    templates.read_templates(tmp_path)


def test_label_map_on_another_grid_is_refused_naming_both(tmp_path, add, make_grid):
  write_table(tmp_path)
  add("a")
  save(tmp_path / "a_seg.nii.gz", cells(), make_grid("LPS", SHAPE, (3.0, 3.0, 4.4)))
  with pytest.raises(InputError, match=r"a_seg.nii.gz: .*a_ct.nii.gz: 20x22x24 .* against 20x22x24"):
    templates.read_templates(tmp_path)


def test_label_map_cropped_to_its_organs_is_padded_onto_the_scan(tmp_path, add, make_grid):
  write_table(tmp_path)
  grid = add("a")
  cut = (slice(4, 18), slice(3, 15), slice(2, 18))
  affine = grid.affine.copy()
  affine[:3, 3] = grid.world_from_voxel(np.array([4, 3, 2]))
  save(tmp_path / "a_seg.nii.gz", cells()[cut], Grid((14, 12, 16), affine))
  with pytest.warns(UserWarning, match=r"14x12x16 voxels, .*a_ct.nii.gz has 20x22x24; laid where they coincide$"):
    (template,) = templates.read_templates(tmp_path)
  np.testing.assert_array_equal(template.labels.array, cells())


def test_organ_that_lies_beyond_the_scan_is_left_out_with_a_word(tmp_path, add, make_grid):
  write_table(tmp_path)
  grid = add("a")
  padded = np.pad(cells(), ((0, 3), (0, 0), (0, 0)))
  padded[21:, 5:9, 5:9] = 2
  save(tmp_path / "a_seg.nii.gz", padded, Grid(padded.shape, grid.affine))
  with pytest.warns(UserWarning, match="cut away"), pytest.warns(UserWarning, match="kidney: no voxel of it lies in"):
    (template,) = templates.read_templates(tmp_path)
  assert list(template.values) == ["liver", "spleen"]


def test_points_outside_the_scan_name_file_and_organ(tmp_path, add, make_grid):
  add("a", world={"liver": six(make_grid("LPS", SHAPE, (3, 3, 4)), shift=500)})
  with pytest.raises(InputError, match=r"a_points.json: liver: point 1 .* outside the scan"):
    templates.read_templates(tmp_path)


def test_organ_marked_twice_is_refused(tmp_path, add, make_grid):
  write_table(tmp_path)
  add("a", labels=cells(), world={"liver": six(make_grid("LPS", SHAPE, (3, 3, 4)))})
  with pytest.raises(InputError, match="liver: both a mask and points"):
    templates.read_templates(tmp_path)


def test_scan_without_annotation_is_left_out_with_a_note(tmp_path, add):
  write_table(tmp_path)
  add("a", labels=cells())
  add("b")
  with pytest.warns(UserWarning, match=r"no annotation beside them: b_ct.nii.gz"):
    found = templates.read_templates(tmp_path)
  assert [t.name for t in found] == ["a"]
  assert len(found.left_out) == 1 and "b_ct.nii.gz" in found.left_out[0]


def test_empty_label_map_is_left_out_with_a_note(tmp_path, add):
  write_table(tmp_path)
  add("a", labels=np.zeros(SHAPE, np.uint8))
  add("b", labels=cells())
  with pytest.warns(UserWarning, match="a_ct.nii.gz: no organ is marked"):
    assert [t.name for t in templates.read_templates(tmp_path)] == ["b"]


def test_nothing_marked_anywhere_is_refused(tmp_path, add):
  add("a")
  with pytest.raises(TemplateError, match=r"no annotations; each scan NAME needs one of NAME_seg.nii.gz"):
    templates.read_templates(tmp_path)
  add("a", labels=np.zeros(SHAPE, np.uint8))
  with pytest.raises(TemplateError, match="no organ is marked in any template"):
    templates.read_templates(tmp_path)


@pytest.mark.parametrize(
  "line",
  [
    "sub/a_ct.nii.gz, sub/a_seg.nii.gz",
    "sub/a_ct.nii.gz\tsub/a_seg.nii.gz",
    "sub/a_ct.nii.gz 'sub/a_seg.nii.gz'",
    "sub/a_ct.nii.gz",
  ],
)
def test_list_file_pairs_scans_and_annotations(tmp_path, add, line):
  add("a", labels=cells())
  (tmp_path / "sub").mkdir()
  for path in tmp_path.glob("a_*"):
    path.rename(tmp_path / "sub" / path.name)
  (tmp_path / "sub" / "labels.json").write_text(json.dumps(LABELS))
  (tmp_path / "list.txt").write_text(f"# scan, labels\n{line}\n")
  assert templates.read_templates(tmp_path / "list.txt")[0].values == {"liver": 5, "spleen": 1}


def test_list_file_names_the_wrong_line(tmp_path, add):
  add("a", labels=cells())
  (tmp_path / "list.txt").write_text("a_ct.nii.gz, gone.json\n")
  with pytest.raises(InputError, match=r"list.txt, line 1: no such file or folder: .*gone.json"):
    templates.read_templates(tmp_path / "list.txt")
  (tmp_path / "list.txt").write_text("a_ct.nii.gz 'a_seg\n")
  with pytest.raises(InputError, match=r"list.txt, line 1: No closing quotation"):
    templates.read_templates(tmp_path / "list.txt")
  (tmp_path / "list.txt").write_text("a_ct.nii.gz list.txt\n")
  with pytest.raises(InputError, match=r"list.txt: not an annotation"):
    templates.read_templates(tmp_path / "list.txt")


@pytest.mark.parametrize("harm", ["truncated", "other grid", "unnamed value", "no such scan", "points outside"])
def test_one_template_that_cannot_be_used_is_left_out_and_the_others_go_on(tmp_path, add, make_grid, harm):
  write_table(tmp_path)
  lines = ["a_ct.nii.gz", "b_ct.nii.gz", "c_ct.nii.gz"]
  for name in "abc":
    grid = add(name, labels=cells())
  path = tmp_path / "b_seg.nii.gz"
  if harm == "truncated":
    path.write_bytes(path.read_bytes()[:200])
  elif harm == "other grid":
    save(path, cells(), make_grid("LPS", SHAPE, (5.0, 3.0, 4.0)))
  elif harm == "unnamed value":
    save(path, cells() + np.uint8(1) * (cells() == 5), grid)
  elif harm == "no such scan":
    lines[1] = "gone_ct.nii.gz"
  else:
    path.unlink()
    (tmp_path / "b_points.json").write_text(json.dumps({"liver": six(grid, shift=900)}))
  (tmp_path / "list.txt").write_text("\n".join(lines))
  with pytest.warns(UserWarning, match="left out of the templates: .*(b_|gone_)") as said:
    found = templates.read_templates(tmp_path / "list.txt")
  assert [t.name for t in found] == ["a", "c"]
  assert len(said) == len(found.left_out) == 1
  (tmp_path / "list.txt").write_text(lines[1])
  with pytest.raises(InputError, match=r"b_|gone_"):
    templates.read_templates(tmp_path / "list.txt")


def test_organ_that_only_a_left_out_template_has_is_an_error_that_says_so(tmp_path, add):
  write_table(tmp_path)
  add("a", labels=np.where(cells() == 5, 5, 0).astype(np.uint8))
  add("b", labels=cells())
  path = tmp_path / "b_ct.nii.gz"
  path.write_bytes(path.read_bytes()[:200])
  with (
    pytest.warns(UserWarning, match="left out"),
    pytest.raises(TemplateError, match=r"spleen: only in .*b_ct.nii.gz"),
  ):
    templates.read_templates(tmp_path, organs=["liver", "spleen"])


def test_one_scan_with_its_annotation_is_a_template(tmp_path, add):
  write_table(tmp_path)
  add("a", labels=cells())
  assert templates.read_templates(tmp_path / "a_ct.nii.gz")[0].name == "a"


def test_mini_fixtures_are_read_as_templates():
  found = templates.read_templates(MINI, organs=["label_1", "label_3"])
  assert [t.name for t in found] == ["q0", "q1", "t0", "t1"]
  assert all(t.values == {"label_1": 1, "label_3": 3} for t in found)
  assert [t.scan.grid.axis_codes for t in found] == ["RPI", "LAS", "LPS", "RAS"]


def test_case_folders_are_templates_called_after_their_folders(tmp_path, add):
  cases = tmp_path / "kits"
  for case in ("case_00000", "case_00001"):
    (cases / case).mkdir(parents=True)
    add(f"kits/{case}/imaging", labels=cells(), suffix=".nii.gz")
    (cases / case / "imaging_seg.nii.gz").rename(cases / case / "segmentation.nii.gz")
  write_table(cases)
  read = templates.read_templates(cases)
  assert [t.name for t in read] == ["case_00000", "case_00001"]
  assert all(t.values == {"liver": 5, "spleen": 1} and np.array_equal(t.labels.array, cells()) for t in read)


def test_listed_templates_of_one_file_name_are_told_apart(tmp_path, add):
  for hospital in ("a", "b"):
    (tmp_path / hospital).mkdir()
    add(f"{hospital}/p1", labels=cells())
    write_table(tmp_path / hospital)
  (tmp_path / "list.txt").write_text("a/p1_ct.nii.gz\nb/p1_ct.nii.gz b/p1_seg.nii.gz\n")
  assert [t.name for t in templates.read_templates(tmp_path / "list.txt")] == ["a_p1", "b_p1"]


def test_templates_that_were_stored_with_an_offset_are_read_in_hounsfield_units(tmp_path, add):
  write_table(tmp_path)
  add("a", labels=cells())
  (read,) = templates.read_templates(tmp_path, hu_offset=-24)
  assert set(np.unique(read.scan.array)) == {-1024, 26}
