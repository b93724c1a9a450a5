"""Quality of a cohort without labels: what was planted is named, and the page says it safely."""

import csv
import io
import json
import math

import numpy as np
import pytest
from pictures import People
from pictures import mirrored as mirror_image
from self_contained import loaded_by

from medlsam_jax.cohort import page
from medlsam_jax.cohort.identity import Identity
from medlsam_jax.cohort.layout import Layout, layout_of_templates
from medlsam_jax.cohort.manifest import Manifest, Record
from medlsam_jax.cohort.quality import quality_of
from medlsam_jax.cohort.sketch import Sketch
from medlsam_jax.io.templates import read_templates
from medlsam_jax.loading import load
from medlsam_jax.medlam.bank.bank import Bank

# RAS mm (x to the right): of a person whose body's middle is at 0
PLACES = {
  "liver": ((70, 0, 0), (160, 150, 140)),
  "spleen": ((-110, -20, 20), (60, 80, 90)),
  "kidney_right": ((60, -40, -60), (60, 50, 110)),
  "kidney_left": ((-60, -40, -40), (60, 50, 110)),
  "bladder": ((0, 10, -300), (80, 80, 70)),
}
FIELD = (400.0, 300.0, 600.0)


def person(rng, verdicts=(), places=None, scale=1.0):
  """Entries of a boxes file, of a person somewhere in the world."""
  somewhere = rng.uniform(-200, 200, 3)
  organs = {}
  for organ, (middle, edges) in (places or PLACES).items():
    half = np.array(edges) * scale * rng.uniform(0.9, 1.1) / 2
    place = np.array(middle) + somewhere + rng.normal(0, 5, 3)
    similarity = 0.8 + rng.normal(0, 0.02)
    box = [(place - half).tolist(), (place + half).tolist()]
    organs[organ] = {"verdict": "found", "box_world_mm": box, "confidence": {"similarity": similarity}}
  for organ, verdict in dict(verdicts).items():
    organs[organ]["verdict"] = verdict
  low = somewhere - np.array([200, 150, 420])
  affine = np.diag([4.0, 4.0, 4.0, 1.0])
  affine[:3, 3] = low
  shape = [int(edge / 4) for edge in FIELD[::-1]]
  scan = {"source": "x", "shape": shape, "affine": affine.tolist(), "axis_codes": "RAS", "doubts": []}
  body = ((low[0] + 20, *low[1:]), (low[0] + 380, low[1] + 280, low[2] + 600))
  return {"organs": organs, "scan": scan}, tuple(tuple(map(float, row)) for row in body)


@pytest.fixture
def cohort(tmp_path):
  """Writes people into a folder, and gives the manifest."""
  rng = np.random.default_rng(0)
  known = Manifest()

  def add(name, sha256=None, doubts=(), **how):
    said, body = person(rng, **how)
    (tmp_path / f"{name}_boxes.json").write_text(json.dumps(said))
    identity = Identity(1, 1, 1, sha256 or name)
    known.records[name] = Record(name, name, "done", "m", identity, {}, tuple(doubts), body_mm=body)

  for number in range(20):
    add(f"p{number:02}")
  return tmp_path, known, add


def reasons(folder, known, name):
  quality = quality_of(folder, known)
  return next("; ".join(each.reasons) for each in quality.scans if each.record.scan == name)


def mirrored():
  return {organ: ((-x, y, z), edges) for organ, ((x, y, z), edges) in PLACES.items()}


def test_a_plain_cohort_is_left_in_peace(cohort):
  folder, known, _ = cohort
  assert [list(each.reasons) for each in quality_of(folder, known).scans] == [[]] * 20


def test_a_mirrored_scan_is_named_first(cohort):
  folder, known, add = cohort
  add("odd", places=mirrored())
  assert "mirrored: its organs lie right for left" in reasons(folder, known, "odd")
  assert "kidney_left lies to the right of kidney_right" in reasons(folder, known, "odd")
  quality = quality_of(folder, known)
  assert quality.scans[quality.in_order[0]].record.scan == "odd"


def test_one_organ_on_the_wrong_side_is_named_alone(cohort):
  folder, known, add = cohort
  add("odd", places=PLACES | {"spleen": ((110, -20, 20), (60, 80, 90))})
  said = reasons(folder, known, "odd")
  assert "spleen lies on the other side of the body than in the cohort" in said and "mirrored" not in said
  assert "spleen lies" in said and "liver lies" not in said and "kidney_left lies" not in said


def test_a_missing_kidney_and_one_beyond_the_edge_are_told_apart(cohort):
  folder, known, add = cohort
  add("gone", verdicts={"kidney_left": "outside field of view"})
  assert "not found where most scans show it: kidney_left" in reasons(folder, known, "gone")
  add("doubtful", verdicts={"kidney_left": "uncertain"})
  assert reasons(folder, known, "doubtful") == "not found for certain, as most scans show it: kidney_left"
  quality = quality_of(folder, known)
  assert [quality.scans[row].record.scan for row in quality.to_look_at] == ["gone"]
  assert [quality.scans[row].record.scan for row in quality.noted] == ["doubtful"]
  add("cut", verdicts={"bladder": "outside field of view", "kidney_right": "partly outside"})
  file = folder / "cut_boxes.json"
  said = json.loads(file.read_text())
  said["scan"]["affine"][2][3] += 250  # its feet's end
  said["scan"]["shape"][0] -= 62
  file.write_text(json.dumps(said))
  assert "cut off by the edge of the scan: bladder, kidney_right" in reasons(folder, known, "cut")


def test_another_region_an_odd_size_a_copy_and_a_doubt_are_named(cohort):
  folder, known, add = cohort
  add("head")
  file = folder / "head_boxes.json"
  said = json.loads(file.read_text())
  for entry in said["organs"].values():
    entry["confidence"]["similarity"] = 0.3
    entry["verdict"] = "uncertain"
  file.write_text(json.dumps(said))
  assert "unlike the templates all over" in reasons(folder, known, "head")
  assert "none of its organs is found: another body region" in reasons(folder, known, "head")
  add("large", scale=2.0)
  large = reasons(folder, known, "large")
  assert "liver is " in large and "times larger than usual" in large
  add("copy", sha256="p03")
  assert "the same files as p03" in reasons(folder, known, "copy")
  add("doubtful", doubts=("x: its values are no HU",))
  assert reasons(folder, known, "doubtful") == "its values are no HU"


def with_pictures(folder, known, odd=()):
  """Pictures of all scans of the cohort, `odd` ones by name."""
  for seed, name in enumerate(known.records):
    dict(odd).get(name, People().one(seed)).save(folder, name)


def test_planted_scans_are_named_by_their_pictures_and_no_other_is_to_look_at(cohort):
  folder, known, _ = cohort
  cropped = Sketch(People().one(50).cells, np.array([0.0, 0.9, 0.0, 0.0]))
  odd = {"p03": mirror_image(People().one(3)), "p05": People(seed=9).one(5), "p08": cropped}
  with_pictures(folder, known, odd)
  assert "mirrored: left and right differ the other way round than in the others" in reasons(folder, known, "p03")
  assert "its picture is unlike those of the others" in reasons(folder, known, "p05")
  assert "cropped: its right edge goes through the body (90% of the body's extent there)" in reasons(
    folder, known, "p08"
  )
  quality = quality_of(folder, known)
  assert {quality.scans[row].record.scan for row in quality.to_look_at} == set(odd)
  assert quality.noted == []
  page.write(folder, known)
  text = (folder / page.PAGE).read_text()
  assert "20 scans, 3 to look at" in text and "mirrored: left and right" in text


def test_of_half_a_body_no_side_is_told(cohort):
  folder, known, add = cohort
  add("half", places=mirrored())
  assert "mirrored" in reasons(folder, known, "half")
  with_pictures(folder, known, {"half": Sketch(People().one(0).cells, np.array([0.95, 0, 0, 0]))})
  said = reasons(folder, known, "half")
  assert "mirrored" not in said and "other side of the body" not in said and "cropped: its left edge" in said


def test_axes_that_run_like_a_mirror_image_of_the_others_are_noted(cohort):
  folder, known, add = cohort
  for name, codes in (("turned", "LPS"), ("flipped", "LAS")):
    add(name)
    file = folder / f"{name}_boxes.json"
    said = json.loads(file.read_text())
    said["scan"]["axis_codes"] = codes
    file.write_text(json.dumps(said))
  assert reasons(folder, known, "turned") == ""
  hint = "its axes run LAS, those of most others RAS: mirrored, if its header alone was changed"
  assert reasons(folder, known, "flipped") == hint
  assert quality_of(folder, known).to_look_at == []
  for number in range(3):
    add(f"more{number}")
    file = folder / f"more{number}_boxes.json"
    file.write_text(file.read_text().replace('"RAS"', '"LAS"'))
  assert reasons(folder, known, "flipped") == "", "both ways are usual here"


def test_what_the_search_doubts_of_the_whole_scan_is_named(cohort):
  folder, known, add = cohort
  add("turned")
  file = folder / "turned_boxes.json"
  said = json.loads(file.read_text())
  for number, entry in enumerate(said["organs"].values()):
    entry["doubts"] = ["the scan seems to be upside down: turned, ...", f"own doubt {number}", "all have this"]
  file.write_text(json.dumps(said))
  assert reasons(folder, known, "turned") == "the scan seems to be upside down: turned, ..."
  assert len(quality_of(folder, known).to_look_at) == 1


def test_an_uncertain_organ_s_place_counts_for_nothing(cohort):
  folder, known, add = cohort
  add("odd", places=PLACES | {"spleen": ((110, -20, 20), (60, 80, 90))}, verdicts={"spleen": "uncertain"})
  assert reasons(folder, known, "odd") == "not found for certain, as most scans show it: spleen"


def test_the_templates_layout_is_that_of_their_labels(mini_templates, small_network_file):
  templates = read_templates(mini_templates)
  bank = Bank.build(load(small_network_file), templates, "WPL")
  layout = layout_of_templates(bank, ["alpha", "beta", "none"])
  apart = []
  for template in templates:
    middles = {}
    for organ in ("alpha", "beta"):
      voxels = np.argwhere(template.labels.array == template.values[organ])
      middles[organ] = template.labels.grid.world_from_voxel((voxels.min(0) + voxels.max(0)) / 2)
    apart.append(middles["alpha"] - middles["beta"])
  assert layout.middles_mm[0] - layout.middles_mm[1] == pytest.approx(np.mean(apart, 0), abs=6)
  assert np.isnan(layout.middles_mm[2]).all() and (layout.spread_mm[:2] >= 25).all()


def test_few_scans_are_held_against_the_templates(cohort):
  folder, known, add = cohort
  for name in list(known.records)[3:]:
    del known.records[name]
  middles = np.array([PLACES[organ][0] for organ in PLACES], float)
  log_ml = np.log([np.prod(PLACES[organ][1]) / 1000 for organ in PLACES])
  templates = Layout(middles, np.full((5, 3), 25.0), log_ml, np.full(5, 0.35))
  add("odd", places=mirrored())
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("medlsam_jax.cohort.quality.layout_of_templates", lambda bank, organs: templates)
    quality = quality_of(folder, known, bank=object.__new__(Bank))
  said = {each.record.scan: "; ".join(each.reasons) for each in quality.scans}
  assert said.pop("odd").startswith("mirrored") and set(said.values()) == {""}


def test_painted_sizes_of_few_scans_are_not_held_against_the_templates_boxes(cohort):
  """A mask fills a tenth of the box of a long organ."""
  folder, known, _ = cohort
  for name in list(known.records)[3:]:
    del known.records[name]
  for name in known.records:
    file = folder / f"{name}_boxes.json"
    said = json.loads(file.read_text())
    for organ, entry in said["organs"].items():
      entry["volume_ml"] = np.prod(PLACES[organ][1]) / 10_000
    file.write_text(json.dumps(said))
  middles = np.array([PLACES[organ][0] for organ in PLACES], float)
  log_ml = np.log([np.prod(PLACES[organ][1]) / 1000 for organ in PLACES])
  templates = Layout(middles, np.full((5, 3), 25.0), log_ml, np.full(5, 0.35))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("medlsam_jax.cohort.quality.layout_of_templates", lambda bank, organs: templates)
    quality = quality_of(folder, known, bank=object.__new__(Bank))
  assert quality.is_painted and [list(each.reasons) for each in quality.scans] == [[]] * 3
  assert math.exp(quality.layout.log_ml[0]) == pytest.approx(np.prod(PLACES["liver"][1]) / 10_000)


@pytest.mark.parametrize("spoilt", [
  {"organs": {"liver": {"verdict": "found"}}}, {"organs": {"liver": 3}}, {"organs": []}, {"scan": {}}, {"scan": None},
  {"organs": {"liver": {"verdict": "found", "box_world_mm": [[0, 0, float("nan")], [1, 1, 1]]}}},
  {"organs": {"liver": {"verdict": "found", "box_world_mm": [[0, 0, 0], [1, 1, 1]], "volume_ml": "much"}}},
])  # fmt: skip
def test_a_boxes_file_that_lacks_something_is_left_out(cohort, spoilt):
  folder, known, _ = cohort
  file = folder / "p03_boxes.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | spoilt))
  quality = quality_of(folder, known)
  assert len(quality.scans) == 19 and "p03" not in {each.record.scan for each in quality.scans}


def test_handedness_of_a_layout():
  middles = np.array([[80.0, 0, 0], [-90, 0, 0], [50, 0, 0], [-60, 0, 0]])
  layout = Layout(middles, np.full((4, 3), 8.0), np.zeros(4), np.ones(4))
  mirror = middles * (-1, 1, 1) + 40
  few = np.where(np.arange(4)[:, None] < 2, middles, np.nan)
  slopes = layout.handedness(np.stack([middles * 1.1 - 30, mirror, few]))
  assert slopes[:2] == pytest.approx([1.1, -1]) and np.isnan(slopes[2])


def test_page_and_table_show_names_safely_and_need_no_other_file(cohort):
  folder, known, add = cohort
  add("<script>alert(1)<script>", places=mirrored())
  add("=HYPERLINK(1)", places=mirrored())
  known.records["bad"] = Record("bad", "bad", "failed", "m", error="hung <b>")
  page.write(folder, known)
  text = (folder / page.PAGE).read_text()
  assert text.count("<script") == 1 and "&lt;script&gt;alert(1)" in text and "hung &lt;b&gt;" in text
  assert loaded_by(text) == set() and "22 scans, 2 to look at, 1 failed" in text
  rows = list(csv.DictReader(io.StringIO((folder / page.TABLE).read_text())))
  assert len(rows) == 22 * 5 + 1 and {row["scan"] for row in rows[:10]} == {
    "<script>alert(1)<script>", "'=HYPERLINK(1)",
  }  # fmt: skip
  assert rows[0]["rank"] == "1" and rows[0]["reasons"] and rows[-1]["state"] == "failed"


def test_nothing_and_damaged_results_make_a_page_too(tmp_path):
  page.write(tmp_path, Manifest())
  assert "0 scans, 0 to look at" in (tmp_path / page.PAGE).read_text()
  (tmp_path / "a_boxes.json").write_text("{")
  page.write(tmp_path, Manifest({"a": Record("a", "a", "done", "m")}))
  assert "0 scans" in (tmp_path / page.PAGE).read_text()
