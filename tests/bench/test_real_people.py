"""Tables of searches in labelled scans: failures count, people are drawn as people, and a cut run goes on."""

import json
import types

import numpy as np
import pytest
from PIL import Image
from template_files import SHAPE, cells, save, write_table

from bench import people_curves, people_search, people_tables, real_people
from medlsam_jax.evaluation.labelled import LabelledScan
from medlsam_jax.finding import FOUND, Finding
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.medlam.search.search_settings import SearchSettings

GRID = Grid(SHAPE, np.diag([-4.0, 4.0, 5.0, 1.0]))


def row(organ, iou, whole=True, wall=3.0, failed=False):
  return {
    "organ": organ, "whole": whole, "verdict": "found", "failed": failed, "swapped": False, "box_iou": iou,
    "wall_distance_mm": wall, "point_error_mm": 5.0, "baseline_box_iou": 0.25, "baseline_wall_distance_mm": 9.0,
  }  # fmt: skip


def result(query, *rows, seconds=1.0):
  return {"query": query, "seconds": seconds, "rows": list(rows)}


def test_means_are_over_whole_labels_and_over_all_of_them_apart():
  results = [result("a", row("x", 0.8), row("y", 0.0, failed=True)), result("b", row("x", 0.4, whole=False))]
  table = people_tables.by_organ("t", results, ["x", "y"])
  mean = table.figures["mean"]
  assert mean["whole"]["box_iou"] == pytest.approx(0.4) and mean["whole"]["labels"] == 2
  assert mean["all"]["box_iou"] == pytest.approx(0.4) and mean["all"]["labels"] == 3
  assert table.figures["x"]["all"]["box_iou"] == pytest.approx(0.6) and mean["whole"]["failed"] == 1
  assert "| x | 1 | 0.800 | " in table.markdown() and "**mean** |" in table.markdown()  # of one person no interval


def test_an_organ_that_nobody_has_whole_says_so():
  table = people_tables.by_organ("t", [result("a", row("x", 0.4, whole=False))], ["x"])
  assert table.rows[0] == ["x", "0", "-", "-", "-", "-", "-", "0.400, 3.0 (1)"]


def test_intervals_draw_people_and_not_labels():
  """Twenty labels of two people say as little as two labels."""
  one = people_tables.interval([[0.2], [0.8]])
  assert one == pytest.approx((0.2, 0.8))
  assert people_tables.interval([[0.2] * 10, [0.8] * 10]) == pytest.approx(one)
  assert people_tables.interval([[0.5]] * 4) == (0.5, 0.5)


def test_differences_are_of_the_same_people_and_labels():
  before = [result("a", row("x", 0.5)), result("c", row("x", 0.9))]
  after = [result("a", row("x", 0.6), row("y", 0.1)), result("b", row("x", 0.0))]
  assert people_tables.difference(after, before)[0] == pytest.approx(0.1)
  assert people_tables.difference(after, [result("d", row("x", 0.1))]) is None


def test_a_label_that_was_searched_several_times_counts_with_its_mean():
  before = people_tables.merged([[result("a", row("x", 0.1))], [result("a", row("x", 0.5))]])
  after = people_tables.merged([[result("a", row("x", 0.7))], [result("a", row("x", 0.3))]])
  assert people_tables.difference(after, before)[0] == pytest.approx(0.2)
  assert people_tables.difference([result("a", row("x", 0.9))], before)[0] == pytest.approx(0.6)


def test_the_curve_over_templates_is_drawn_from_the_figures_of_its_table(tmp_path):
  found = {count: [result("a", row("x", 0.1 * count)), result("b", row("x", 0.5))] for count in (1, 3)}
  lines = {f"{count} (drawn once)": results for count, results in found.items()}
  figures = people_tables.compared("t", lines).figures
  people_curves.draw(figures, "tuning", "exact", tmp_path / "curve.png")
  with Image.open(tmp_path / "curve.png") as picture:
    assert picture.width > 500 and len(picture.convert("RGB").getcolors(10**6)) > 20


def test_repeats_of_one_person_stay_one_person():
  both = people_tables.merged([[result("a", row("x", 0.2))], [result("a", row("x", 0.4), seconds=3.0)]])
  assert [each["query"] for each in both] == ["a"] and both[0]["seconds"] == 2
  assert people_tables.figures(both)["people"] == 1 and people_tables.figures(both)["box_iou"] == pytest.approx(0.3)


def test_templates_are_drawn_the_same_way_each_time():
  names = [f"kbp_{number:03d}" for number in (4, 13, 17, 31, 34, 59, 60, 61)]
  assert real_people.draws(names, 5, 3)[0] == real_people.FIVE
  assert real_people.draws(names, 3, 3) == real_people.draws(names, 3, 3)
  assert len(set(real_people.draws(names, 3, 3))) == 3 and real_people.draws(names, 8, 3) == [tuple(names)]


def boxed(low, high):
  """A finding whose faces are those of a box."""
  low, high = np.array(low, float), np.array(high, float)
  points = np.tile((low + high) / 2, (6, 1))
  for face in range(6):
    points[face, face % 3] = (low, high)[face // 3][face % 3]
  return Finding("kidney", 1, points[None], FOUND)


def query():
  labels = Volume(cells(), GRID, "q")
  return LabelledScan(
    "q", Volume(np.zeros(SHAPE, np.float32), GRID, "q"), labels, {"kidney_left": 5, "kidney_right": 1}
  )


def test_sides_that_are_exchanged_are_swapped():
  left, right = boxed((4, 5, 6), (11, 14, 17)), boxed((14, 3, 2), (17, 6, 7))
  assert set(people_search.swaps({"kidney_left": right, "kidney_right": left}, query())) == {
    "kidney_left",
    "kidney_right",
  }
  assert not set(people_search.swaps({"kidney_left": left, "kidney_right": right}, query()))
  assert (
    people_search.other_side("gluteus_left_part") == "gluteus_right_part"
    and people_search.other_side("cleft") == "cleft"
  )


@pytest.fixture
def labelled(tmp_path):
  for place, names in (("templates", "ab"), ("queries", "pq")):
    (tmp_path / place).mkdir()
    write_table(tmp_path / place, {"liver": 5, "spleen": 1})
    for name in names:
      scan = np.random.default_rng(ord(name)).integers(-900, 300, SHAPE, np.int16)
      save(tmp_path / place / f"{name}_ct.nii.gz", scan, GRID)
      save(tmp_path / place / f"{name}_seg.nii.gz", cells(), GRID)
  (tmp_path / "queries" / "sound.json").write_text(json.dumps({"p": {"liver": "whole", "spleen": "cut"}}))
  return people_search.Labelled.read("t", tmp_path / "templates", tmp_path / "queries")


def test_a_cut_run_goes_on_where_it_was(monkeypatch, tmp_path, labelled):
  network, searched = types.SimpleNamespace(sha256="n"), []
  monkeypatch.setattr(people_search.Bank, "build", lambda *_, **__: None)

  def search(network, bank, scan, key, settings):
    searched.append(key)
    return {"liver": boxed((4, 5, 6), (11, 14, 17))}

  monkeypatch.setattr(people_search.pipeline, "localize", search)
  monkeypatch.setattr(people_search.MeanBoxes, "place", lambda self, scan: {})
  task = people_search.Task(("a", "b"))
  study = people_search.Study(network, SearchSettings(), tmp_path / "kept", seconds=0.0)
  assert study.one(labelled, task, "p") is None and study.missing == 1, "no time is left"
  study = people_search.Study(network, SearchSettings(), tmp_path / "kept")
  first = study.one(labelled, task, "p")
  assert [(each["organ"], each["whole"], each["box_iou"], each["failed"]) for each in first["rows"]] == [
    ("liver", True, 1.0, False), ("spleen", False, 0.0, True)
  ]  # fmt: skip
  again = people_search.Study(network, SearchSettings(), tmp_path / "kept", seconds=0.0)
  assert again.one(labelled, task, "p") == first and searched == [0]
  other = people_search.Study(network, SearchSettings(steps=2), tmp_path / "kept")
  assert other.one(labelled, task, "q") and other.one(labelled, task, "p") != first and searched == [0, 1, 0]


def test_corrected_people_are_templates_of_their_whole_labels_and_no_queries(monkeypatch, tmp_path, labelled):
  asked = []

  class Searched:
    def one(self, data, task, query):
      asked.append((task.templates, query, {name: set(data.templates[name].organs) for name in task.templates}))
      return result(query, row("liver", 0.1 * len(task.templates)))

  (tmp_path / "headneck").mkdir()
  (tmp_path / "queries").rename(tmp_path / "headneck" / "queries")
  monkeypatch.setattr(real_people, "FIVE", ("a", "b"))
  monkeypatch.setattr(real_people, "CORRECTED", 1)
  parts = real_people.Parts(Searched(), tmp_path, "queries", None, 1)
  parts._read["headneck"] = labelled
  one, both = parts.corrected()
  two = {name: {"liver", "spleen"} for name in "ab"}
  assert asked[2:] == [(("a", "b"), "q", two), (("a", "b", "p"), "q", two | {"p": {"liver"}})]
  assert [set(templates) for templates, _, _ in asked[:2]] == [{"a"}, {"a", "p"}]
  assert "| and p, corrected |" in both.markdown() and one.figures["and p, corrected"]["whole"]["people"] == 1


def test_missing_data_ends_in_words(tmp_path):
  with pytest.raises(SystemExit, match="not part of the repository"):
    real_people.main(["--data", str(tmp_path / "nowhere")])
