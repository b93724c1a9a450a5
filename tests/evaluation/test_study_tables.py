"""The numbers of each table of a study against those worked out by hand, with a stand-in search and painter."""

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from study_stand_ins import EDGE_MM, VALUES, WIDE, BoxFiller, install, labelled, templates

from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.compared import MEAN
from medlsam_jax.evaluation.study import published, work
from medlsam_jax.evaluation.study.report import Measured
from medlsam_jax.evaluation.study.tables import TABLES, Plan, draws, made
from medlsam_jax.medlam.search.search_settings import PRESETS

BOTH, LIVER = ("liver", "spleen"), ("liver",)
POOL = {"t0": BOTH, "t1": BOTH, "t2": BOTH, "t3": LIVER}
PAINTERS = {"LiteMedSAM": BoxFiller("LiteMedSAM"), "SAM": BoxFiller("SAM", leaves=("spleen",))}
PLAN = Plan(
  tuple(POOL), 3, PRESETS["vote-fast"], (4, 2), counts=(1, 2, 3, 9), repeats=2, intervals_mm=(6.0, 15.0),
  painters=tuple(PAINTERS), missing={"MedSAM": "its weights are not here"},
)  # fmt: skip


FIVE = dataclasses.replace(PLAN, templates=("t0", "t1", "t2", "t2", "t2"), count=5)
"""As many templates as were published: the stand-in is one voxel beside the truth with five, as with three."""


def iou(by):
  return (WIDE - by) / (WIDE + by)


def dice(by):
  return (WIDE - by) / WIDE


def by_setting(bank, scan, settings):
  """One voxel for each template short of four; 2 more without features, 1 more with fewer scales; parts of 6 mm 1."""
  if bank.mode == "SPL":
    return {6.0: 1, 15.0: 2}[bank.interval_mm]
  if scan.array.shape[0] < 40:
    return 0
  count = max(len(organ.templates) for organ in bank.organs.values())
  return 4 - count + {(): 2, (4,): 1}.get(settings.feature_scales, 0)


@pytest.fixture
def measure(monkeypatch):
  install(monkeypatch, work, by_setting)

  def run(name, people=("p", "q"), plan=PLAN, answered=None, beside=published.NOTHING, cut=()):
    table = made(name, plan)
    finder = work.Finder(None, templates(POOL), BOTH)
    values = {"p": VALUES, "q": {"liver": 3}}
    asked = {each: work.Asked(finder, each, *labelled(each, tuple(values[each])), values[each]) for each in people}

    def answers(scan, setting):
      if answered is not None and (scan, setting) not in answered:
        return None
      return asked[scan].rows(setting, PAINTERS.get(setting.painter), lambda *_: None)

    return Measured.of(table, people, answers, cut, beside)

  return run


def means(measured):
  return {line["way"]: line for line in measured.lines() if line["organ"] == MEAN and line.get("labels") == "all"}


def test_localization_has_every_organ_beside_mean_boxes(measure):
  measured = measure("localization")
  lines = {(line["way"], line["organ"]): line for line in measured.lines()}
  liver = lines["MedLAM", "liver"]
  assert (liver["people"], liver["n"], liver["failed"]) == (2, 2, 0)
  assert liver["box_iou"] == pytest.approx(iou(1)) and liver["wall_distance_mm"] == pytest.approx(EDGE_MM / 3)
  assert liver["point_error_mm"] == pytest.approx(EDGE_MM)
  assert liver["box_iou_published"] == pytest.approx((WIDE - 1 - 1) / (WIDE - 1 + 1))  # edges as highest less lowest
  mean = lines["mean boxes, no search", MEAN]
  assert mean["box_iou"] == pytest.approx(1) and mean["box_iou_less_first"] == pytest.approx(1 - iou(1))
  assert mean["box_iou_p"] == pytest.approx(0.5)  # of two people, both for the one


def test_numbers_of_templates_are_means_over_draws_and_what_no_template_has_is_not_found(measure):
  lines = means(measure("templates"))
  two = draws(tuple(POOL), 2, 2)
  assert lines["2 templates, drawn 2 times"]["box_iou"] == pytest.approx(iou(2)) and len(two) == 2
  assert lines["3 templates, drawn 2 times"]["box_iou"] == pytest.approx(iou(1))
  one = draws(tuple(POOL), 1, 2)
  lacking = sum(names == ("t3",) for names in one)
  spleen = iou(3) * (2 - lacking) / 2
  assert lines["1 template, drawn 2 times"]["box_iou"] == pytest.approx((iou(3) + spleen) / 2)
  assert lines["1 template, drawn 2 times"]["failed"] == lacking


def test_draws_are_the_same_ones_and_have_the_first_templates_of_all_tables():
  names = tuple("abcdef")
  assert draws(names, 3, 4) == draws(names, 3, 4) and len(set(draws(names, 3, 4))) == 4
  assert draws(names, 3, 4, ("a", "b", "c"))[0] == ("a", "b", "c")
  assert draws(names, 6, 4) == [names] and len(draws(names, 5, 99)) == 6


def test_scales_set_head_and_features_apart(measure):
  lines = means(measure("scales"))
  both = "head and features at a quarter and half resolution"
  assert lines[both]["box_iou"] == pytest.approx(iou(1))
  assert lines["position head alone"]["box_iou"] == pytest.approx(iou(3))
  assert lines["features alone, from mean boxes on"]["box_iou"] == pytest.approx(iou(5))
  assert lines["head and features at a quarter resolution"]["box_iou"] == pytest.approx(iou(2))
  missing = [line["way"] for line in measure("scales").lines() if "missing" in line]
  assert missing == ["head and features at full resolution"]


def test_parts_are_scored_by_their_boxes_and_by_what_is_painted_in_them(measure):
  lines = means(measure("intervals"))
  assert lines["WPL"]["box_iou"] == pytest.approx(iou(1)) and lines["WPL"]["dice"] == pytest.approx(dice(1))
  assert lines["SPL, 6 mm"]["dice"] == pytest.approx(dice(1)) and lines["SPL, 15 mm"]["dice"] == pytest.approx(dice(2))
  assert lines["SPL, 15 mm"]["dice_less_first"] == pytest.approx(-0.1)


def test_painters_that_are_here_and_those_that_are_not(measure):
  measured = measure("models", beside=published.Beside("WORD"), plan=FIVE)
  lines = means(measured)
  assert lines["LiteMedSAM"]["dice"] == pytest.approx(dice(1)) and lines["LiteMedSAM"]["failed"] == 0
  assert lines["SAM"]["dice"] == pytest.approx(dice(1) / 2) and lines["SAM"]["failed"] == 1  # p's spleen is empty
  assert lines["SAM"]["published"] == {"dice": 0.495}
  last = measured.means()[-1]
  assert last[0] == "MedSAM (not measured: its weights are not here)" and last[-1] == "Dice 0.405"
  assert len({len(row) for row in measured.means()}) == 1


def test_found_boxes_against_those_of_the_labels(measure):
  lines = means(measure("boxes", people=("p",)))
  assert lines["LiteMedSAM, boxes found"]["dice"] == pytest.approx(dice(1))
  assert lines["LiteMedSAM, boxes of labels"]["dice"] == lines["LiteMedSAM, box of each slice"]["dice"] == 1
  assert "box_iou" not in lines["LiteMedSAM, boxes of labels"]


def test_a_cut_scan_is_searched_and_scored_on_its_own_voxels(measure):
  lines = means(measure("crops"))
  assert lines["whole scans"]["box_iou"] == pytest.approx(iou(1))
  cropped = lines["cut to the labels and 30 mm around"]
  assert cropped["box_iou"] == pytest.approx(1) and cropped["point_error_mm"] == pytest.approx(0)
  scan, labels = labelled("p")
  asked = work.Asked(work.Finder(None, {}, BOTH), "p", scan, labels, VALUES)
  cut = asked._cropped._scan
  margin = -(-int(work.MARGIN_MM) // int(EDGE_MM))
  assert cut.array.shape[0] == 3 + 4 + 2 * margin and cut.grid.spacing_mm == pytest.approx([EDGE_MM] * 3)
  first, same = cut.grid.world_from_voxel(np.zeros((1, 3))), np.array([[18.0 - margin, 0, 0]])
  np.testing.assert_allclose(first, scan.grid.world_from_voxel(same))
  with pytest.raises(InputError, match="nothing to cut it to"):
    _ = work.Asked(work.Finder(None, {}, BOTH), "p", scan, labels, {"heart": 9})._cropped


def test_a_scan_that_failed_counts_with_the_worst_scores(measure):
  asked = work.Asked(work.Finder(None, {}, BOTH), "p", *labelled("p"), VALUES)
  (liver, spleen) = asked.failed(TABLES["models"](PLAN).settings[0], "no memory")
  assert (liver.failure, liver.box_iou, liver.dice) == ("no memory", 0, 0)
  assert spleen.wall_distance_mm == pytest.approx(float((sum((n * EDGE_MM) ** 2 for n in (40, 24, 30))) ** 0.5))
  (liver, _) = asked.failed(TABLES["boxes"](PLAN).settings[1], "no memory")
  assert liver.box_iou is None and liver.dice == 0


def test_scans_without_every_setting_wait(measure):
  settings = TABLES["crops"](PLAN).settings
  measured = measure("crops", answered={("p", settings[0]), ("p", settings[1]), ("q", settings[0])})
  assert {row.scan for row in measured.rows} == {"p"} and measured.waiting == 1
  assert measured.notes()[-1] == "1 scan left for want of time: the same command goes on."


def test_whole_labels_stand_before_all(measure):
  table = measure("localization", cut={("p", "liver"), ("x", "liver")}).means()
  assert [row[0] for row in table[1:]] == [
    "MedLAM", "mean boxes, no search", "MedLAM, all labels", "mean boxes, no search, all labels",
  ]  # fmt: skip
  assert [row[2] for row in table[1:]] == ["2", "2", "3", "3"]


def test_of_one_person_no_interval_is_told(measure):
  measured = measure("localization", people=("p",))
  assert all("[" not in cell for row in measured.means()[1:] + measured.by_organ()[1:] for cell in row)
  read = list(csv.DictReader(io.StringIO(measured.csv())))
  assert {row["box_iou_low"] for row in read} == {""} and read[0]["box_iou"]


def test_the_csv_says_what_the_lines_say(measure):
  measured = measure("localization", beside=published.Beside("WORD"), plan=FIVE)
  read = list(csv.DictReader(io.StringIO(measured.csv())))
  mean = next(row for row in read if (row["line"], row["organ"]) == ("MedLAM", MEAN))
  assert float(mean["box_iou"]) == pytest.approx(iou(1), abs=1e-5)
  assert (mean["table"], mean["people"], mean["n"], mean["published_point_error_mm"]) == (
    "localization",
    "2",
    "3",
    "17.5",
  )
  assert not any(
    "published" in line for line in measure("localization", beside=published.Beside("WORD")).lines()
  )  # of three
  models = list(csv.DictReader(io.StringIO(measure("models").csv())))
  assert models[-1]["line"] == "MedSAM" and models[-1]["missing"] == "its weights are not here"


WORD = (
  "liver", "Spleen", "left_kidney", "kidney_r", "stomach", "gall bladder", "oesophagus", "pancreas", "duodenum",
  "colon", "small_bowel", "adrenal", "rectum", "urinary_bladder", "Head_of_femur_L", "femoral head right",
)  # fmt: skip
HEAD = (
  "BrainStem", "Eye_L", "Eye_R", "Lens_L", "Lens_R", "OpticNerve_L", "OpticNerve_R", "optical chiasma",
  "pituitary gland", "left temporal lobes", "right temporal lobes", "spinal_cord", "Parotid_L", "parotid gland right",
  "left inner ear", "right inner ear", "mid_ear_left", "middle ear right", "TMJ_L", "TM_joint_R", "mandible_l",
  "mandible_r",
)  # fmt: skip


def test_data_sets_with_published_numbers_are_known_by_all_their_names_and_by_their_organs():
  word = [f"word_{number:04d}" for number in range(1, 151)]
  numbers = [str(number) for number in range(1, 51)]
  assert published.data_set_of(word, lambda: WORD) == "WORD"
  assert published.data_set_of(word, lambda: WORD[:8]) == "WORD" and published.data_set_of(word, lambda: WORD[:7]) == ""
  assert published.data_set_of(numbers, lambda: HEAD) == "StructSeg"
  assert published.data_set_of(numbers, lambda: WORD) == "" == published.data_set_of(word, lambda: HEAD)
  unasked = lambda: pytest.fail("read")  # noqa: E731
  assert published.data_set_of([*word, "mine"], unasked) == published.data_set_of([], unasked) == ""


def test_published_numbers_are_of_the_same_templates_queries_and_organs():
  here = {"2": Path("2/label.nii.gz"), "3": Path("3/label.nii.gz")}
  templates = ("13", "1", "10", "12", "11")
  same = published.beside("StructSeg", templates, here, HEAD)
  assert same.numbers("five")["point_error_mm"] == 4.3 and "ours are of 2 queries" in same.note(["five"])
  assert same.numbers("templates 3") == {} and same.note(["templates 3", ""]) == ""
  for other, why in (
    ((templates[:4], here, HEAD), "the split differs, published are the templates 1, 10, 11, 12, 13"),
    ((templates, here | {"13": Path()}, HEAD), "the split differs"),
    (
      (templates, here, tuple(organ for organ in HEAD if "Eye" not in organ)),
      "published means have eye left, eye right too",
    ),
    ((templates, here, (*HEAD, "larynx")), "published means are without larynx"),
  ):
    differs = published.beside("StructSeg", *other)
    assert differs.numbers("five") == {} and why in differs.note(["five"])
  assert published.beside("", templates, here, HEAD) == published.NOTHING


def test_why_no_published_number_stands_there_is_told_under_tables_that_would_have_one(measure):
  beside = published.Beside("WORD", "the split differs")
  told = "The numbers published for WORD do not stand beside ours: the split differs."
  assert measure("localization", beside=beside, plan=FIVE).notes()[-1] == told
  assert not any("published" in line for line in measure("localization", beside=beside, plan=FIVE).lines())
  assert told not in measure("crops", beside=beside, plan=FIVE).notes()
  assert told not in measure("localization", beside=beside).notes()  # of three templates none is published
