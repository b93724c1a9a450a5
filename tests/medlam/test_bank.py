import dataclasses
import warnings

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from medlsam_jax.errors import ConfigError, OutputError, TemplateError, WeightsError
from medlsam_jax.medlam.bank import template_points
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.bank.points import part_points

LIVER = ((3, 4, 5), (16, 12, 14))
KIDNEY = ((20, 8, 4), (23, 12, 9))
SIX = [[1, 5, 5], [2, 4, 5], [2, 5, 4], [9, 5, 5], [2, 9, 5], [2, 5, 9]]


def _plan(templates, interval=4, organs=None):
  return {p.organ: p for p in template_points.plan(templates, organs, "consistent", interval)}


def test_spl_cuts_by_the_shortest_template_and_leaves_low_organs_whole(make_template):
  lower = make_template("b", liver=((3, 4, 5), (12, 12, 14)), kidney=KIDNEY)
  plans = _plan([make_template("a", liver=LIVER, kidney=KIDNEY), lower])
  assert plans["liver"].is_cut and plans["liver"].faces.shape == (2, 6)
  assert not plans["kidney"].is_cut and plans["kidney"].faces.shape == (1, 6)


def test_every_face_keeps_its_point_while_shared_points_are_seen_once(make_template):
  templates = [make_template("a", liver=LIVER), make_template("b", liver=((3, 3, 5), (18, 13, 13)))]
  plan = _plan(templates)["liver"]
  for template in templates:
    expected = part_points(template.labels.array > 0, 3)
    assert np.array_equal(plan.points[template.name][plan.faces], expected)
  assert len(plan.points["a"]) == len(plan.points["b"]) < 18
  assert plan.faces[0, 3] == plan.faces[1, 0]


def test_wpl_keeps_every_organ_whole(make_template):
  plan = _plan([make_template(liver=LIVER)], interval=None)["liver"]
  assert not plan.is_cut and plan.faces.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_templates_without_an_organ_are_left_out_for_it(make_template):
  plans = _plan([make_template("a", liver=LIVER), make_template("b", liver=LIVER, kidney=KIDNEY)])
  assert list(plans["liver"].points) == ["a", "b"]
  assert list(plans["kidney"].points) == ["b"]


def test_an_organ_in_no_template_is_an_error_that_names_it(make_template):
  with pytest.raises(TemplateError, match="spleen"):
    _plan([make_template(liver=LIVER)], organs=["liver", "spleen"])
  with pytest.raises(TemplateError, match="any organ"):
    _plan([])


def test_two_templates_of_one_name_are_refused(make_template):
  with pytest.raises(TemplateError, match="one name"):
    _plan([make_template("a", liver=LIVER), make_template("a", liver=LIVER)])


def test_names_rule_where_templates_number_organs_differently(make_template):
  template, other = make_template("a", liver=LIVER, kidney=KIDNEY), make_template("b", liver=LIVER, kidney=KIDNEY)
  swapped = {2: 1, 1: 2}
  labels = np.vectorize(lambda value: swapped.get(value, 0))(other.labels.array).astype(np.uint8)
  other = dataclasses.replace(
    other, labels=dataclasses.replace(other.labels, array=labels), values={"liver": 2, "kidney": 1}
  )
  with pytest.warns(UserWarning, match="liver is 1 in a and 2 in b; results call it 1"):
    plans = _plan([template, other])
  assert {organ: plan.value for organ, plan in plans.items()} == {"liver": 1, "kidney": 2}
  for plan in plans.values():
    assert np.array_equal(plan.points["a"], plan.points["b"])


def test_points_alone_carry_no_parts_and_it_says_so(make_template):
  templates = [make_template("a", liver=LIVER), make_template("b", points={"liver": SIX})]
  with pytest.warns(UserWarning, match=r"liver: given by six points in b.*WPL"):
    plan = _plan(templates)["liver"]
  assert not plan.is_cut
  assert np.array_equal(plan.points["b"], SIX)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    _plan(templates, interval=None)


def test_points_that_coincide_are_seen_once_and_keep_their_faces(make_template):
  flat = [[5, 5, 2], [5, 2, 5], [5, 5, 2], [5, 5, 9], [5, 9, 5], [5, 5, 9]]
  plan = _plan([make_template("a", points={"liver": flat})], interval=None)["liver"]
  assert len(plan.points["a"]) == 4
  assert np.array_equal(plan.points["a"][plan.faces], [flat])


def _speck(template, make_grid, voxels):
  """A template `b` of half a millimetre whose kidney is these voxels."""
  fine = make_grid((30, 24, 26), "LAS", 0.5)
  labels = np.zeros((30, 24, 26), np.uint8)
  for voxel in voxels:
    labels[voxel] = 2
  scan, seg = (type(template.scan)(array, fine, "b") for array in (template.scan.array, labels))
  return type(template)("b", scan, seg, {"kidney": 2}, {})


def test_an_organ_too_small_for_3_mm_is_placed_by_its_own_voxels(make_template, make_grid):
  template = make_template("a", liver=LIVER)
  with pytest.warns(UserWarning, match="kidney: smaller than the 3 mm voxels in b; placed there by its own"):
    plans = _plan([template, _speck(template, make_grid, [(4, 4, 4), (20, 10, 15)])])
  assert list(plans) == ["liver", "kidney"]
  points = plans["kidney"].points["b"]
  # half a millimetre apart, a working voxel is six of the scan's; the grid of both starts at one corner
  assert points.min(0).tolist() == [0, 0, 0] and points.max(0).tolist() == [3, 1, 2]


def test_a_crumb_of_one_template_is_said_to_keep_an_organ_whole(make_template):
  crumb = make_template("c", liver=((29, 4, 5), (29, 5, 6)))
  with pytest.warns(UserWarning, match=r"liver: only 3 mm high in c, .* as a whole \(WPL\)"):
    plan = _plan([make_template("a", liver=LIVER), make_template("b", liver=LIVER), crumb])["liver"]
  assert not plan.is_cut and list(plan.points) == ["a", "b", "c"]


def test_an_organ_without_voxels_is_left_out_and_an_error_only_where_it_was_asked_for(make_template, make_grid):
  template = make_template("a", liver=LIVER)
  with pytest.warns(UserWarning, match="b: kidney has no voxels"):
    assert list(_plan([template, _speck(template, make_grid, [])])) == ["liver"]
  with pytest.raises(TemplateError, match="kidney has no voxels in any template"):
    _plan([template, _speck(template, make_grid, [])], organs=["liver", "kidney"])
  with pytest.raises(TemplateError, match="no organ has a voxel"):
    _plan([_speck(template, make_grid, [])])


@pytest.mark.parametrize(("asked", "used"), [(12.0, 12.0), (11.0, 12.0), (1.0, 3.0), (7.4, 6.0)])
def test_an_interval_is_rounded_to_whole_slices_with_a_note(asked, used):
  from medlsam_jax.medlam.bank import bank

  with warnings.catch_warnings(record=True) as notes:
    warnings.simplefilter("always")
    assert bank._interval_slices(asked) * 3.0 == used
  assert bool(notes) == (asked != used)
  with pytest.raises(ConfigError):
    bank._interval_slices(0.0)


@pytest.mark.parametrize(
  ("asked", "header", "edge"), [(None, {}, 8), (None, {"template_edge": "16"}, 16), (24, {}, 24)]
)
def test_the_cube_around_a_point_is_as_asked_for_or_as_the_network_says(network, make_template, asked, header, edge):
  given = dataclasses.replace(network, header={**network.header, **header})
  bank = Bank.build(given, [make_template("a", liver=LIVER)], mode="WPL", template_edge=asked)
  assert bank.template_edge == edge
  assert {s: v.shape[2] for s, v in bank.organs["liver"].features.items()} == {
    stride: edge // stride for stride in network.module.feature_scales
  }


@pytest.mark.parametrize("edge", [0, 12, 72, -8])
def test_a_cube_without_a_middle_or_beyond_the_patch_is_refused(network, make_template, edge):
  with pytest.raises(ConfigError, match="template_edge"):
    Bank.build(network, [make_template("a", liver=LIVER)], template_edge=edge)


def test_a_header_whose_cube_is_no_number_is_refused(network, make_template):
  damaged = dataclasses.replace(network, header={**network.header, "template_edge": "wide"})
  with pytest.raises(WeightsError, match="'wide'"):
    Bank.build(damaged, [make_template("a", liver=LIVER)])


def test_unknown_mode_and_convention_are_refused(network, make_template):
  with pytest.raises(ConfigError, match="mode"):
    Bank.build(network, [make_template(liver=LIVER)], mode="XPL")
  with pytest.raises(ConfigError, match="working grid"):
    Bank.build(network, [make_template(liver=LIVER)], convention="other")


@pytest.fixture(scope="module")
def bank(network, make_template) -> Bank:
  return Bank.build(
    network, [make_template("a", liver=LIVER), make_template("b", 1, liver=LIVER, kidney=KIDNEY)], "WPL"
  )


def test_a_bank_keeps_what_every_template_gave(bank):
  liver = bank.organs["liver"]
  assert liver.templates == ("a", "b") and bank.organs["kidney"].templates == ("b",)
  assert liver.positions.shape == (2, 6, 3)
  assert {s: v.shape for s, v in liver.features.items()} == {s: (2, 6, *(8 // s,) * 3, 8) for s in (4, 2, 1)}
  assert not np.allclose(liver.positions[0], liver.positions[1])
  norms = np.linalg.norm(liver.features[1], axis=-1)
  assert np.all(np.isclose(norms, 1, atol=1e-5) | (norms == 0))
  assert np.allclose(liver.mean_positions, liver.positions.mean(0), atol=1e-6)


def test_a_bank_comes_back_from_its_file(bank, network, tmp_path):
  path = tmp_path / "torso.safetensors"
  bank.save(path)
  again = Bank.load(path)
  again.check_network(network)
  assert again.info() == bank.info()
  assert (again.mode, again.interval_mm, again.convention, again.versions) == ("WPL", 12.0, "published", bank.versions)
  for name, organ in bank.organs.items():
    assert np.array_equal(again.organs[name].faces, organ.faces)
    assert np.array_equal(again.organs[name].positions, organ.positions)
    assert np.array_equal(again.organs[name].places, organ.places)
    assert all(np.array_equal(again.organs[name].features[s], v) for s, v in organ.features.items())
  assert [p.name for p in tmp_path.iterdir()] == ["torso.safetensors"]


def test_a_bank_says_what_its_products_were_and_an_older_file_does_not(bank, tmp_path):
  bank.save(tmp_path / "new.safetensors")
  assert Bank.load(tmp_path / "new.safetensors").operands == "float32"
  with safe_open(tmp_path / "new.safetensors", framework="numpy") as file:
    header = {name: value for name, value in file.metadata().items() if name != "operands"}
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
  save_file(tensors, tmp_path / "old.safetensors", metadata=header)
  assert Bank.load(tmp_path / "old.safetensors").operands == ""


@pytest.mark.parametrize(
  ("made", "search", "platform", "said"),
  [
    ("float32", "float32", "gpu", None),
    ("float32", "bfloat16", "gpu", "made with float32 operands, and is searched with bfloat16"),
    ("", "float32", "gpu", "does not say with what precision it was made"),
    ("", "float32", "cpu", None),
  ],
)
def test_mixed_precision_is_said(bank, made, search, platform, said):
  text = dataclasses.replace(bank, operands=made).mixed_with(search, platform)
  assert said in text if said else text == ""


def test_info_lists_organs_and_the_templates_used(bank):
  assert bank.info()[1] == {
    "organ": "kidney", "value": 2, "mode": "WPL", "parts": 1, "points": 6, "templates": ["b"]
  }  # fmt: skip


def test_the_bank_of_another_network_is_refused(bank, other_network):
  with pytest.raises(TemplateError, match=r"another network.*other\.safetensors"):
    bank.check_network(other_network)


def test_leaving_a_template_out_leaves_its_own_organs_out(bank):
  left = bank.without("b")
  assert list(left.organs) == ["liver"]
  assert left.organs["liver"].templates == ("a",)
  assert np.array_equal(left.organs["liver"].mean_positions, bank.organs["liver"].positions[0])
  assert np.array_equal(left.organs["liver"].places, bank.organs["liver"].places[:1])


def test_a_subset_keeps_the_order_asked_for_and_names_what_is_missing(bank):
  assert list(bank.subset(["kidney", "liver"]).organs) == ["kidney", "liver"]
  with pytest.raises(TemplateError, match=r"'spleen' is not in the bank; it has liver, kidney"):
    bank.subset(["spleen"])


def test_files_that_are_no_bank_are_refused_by_name(bank, tmp_path):
  path = tmp_path / "bank.safetensors"
  with pytest.raises(TemplateError, match=r"bank\.safetensors: no such bank"):
    Bank.load(path)
  bank.save(path)
  whole = path.read_bytes()
  for content in (whole[: len(whole) // 2], b"", b"not a bank", whole[:4]):
    path.write_bytes(content)
    with pytest.raises(TemplateError, match=r"bank\.safetensors: truncated"):
      Bank.load(path)
  save_file({"weight": np.zeros(3)}, path)
  with pytest.raises(TemplateError, match="not a template bank"):
    Bank.load(path)


def test_a_bank_without_the_arrays_it_lists_is_refused(bank, tmp_path, monkeypatch):
  path = tmp_path / "bank.safetensors"
  monkeypatch.setattr(type(bank.organs["liver"]), "arrays", lambda self: {"faces": self.faces})
  bank.save(path)
  with pytest.raises(TemplateError, match="damaged"):
    Bank.load(path)


@pytest.mark.parametrize("field", ["mode", "convention"])
def test_a_bank_of_an_unknown_mode_or_grid_is_refused(bank, tmp_path, field):
  path = tmp_path / "bank.safetensors"
  dataclasses.replace(bank, **{field: "other"}).save(path)
  with pytest.raises(TemplateError, match="'other' is none of"):
    Bank.load(path)


def test_a_bank_that_cannot_be_written_leaves_nothing(bank, tmp_path):
  with pytest.raises(OutputError, match="nowhere"):
    bank.save(tmp_path / "nowhere" / "bank.safetensors")
  (tmp_path / "taken.safetensors").mkdir()
  with pytest.raises(OutputError, match="taken"):
    bank.save(tmp_path / "taken.safetensors")
  assert [p.name for p in tmp_path.iterdir()] == ["taken.safetensors"]


def test_doubts_of_a_templates_scan_stay_with_the_bank(network, make_template, tmp_path):
  sound, doubtful = make_template("a", liver=LIVER), make_template("b", 1, liver=LIVER)
  doubtful = dataclasses.replace(doubtful, scan=dataclasses.replace(doubtful.scan, doubts=("its values are no HU",)))
  built = Bank.build(network, [sound, doubtful], "WPL")
  built.save(tmp_path / "bank.safetensors")
  for bank in (built, Bank.load(tmp_path / "bank.safetensors")):
    assert "template b: its values are no HU" in bank.notes and not any("template a" in note for note in bank.notes)
    assert "1 note" in repr(bank)
