"""One page says what folders of results hold, stands alone, and says in a line what could not be read."""

import base64
import csv
import datetime
import html
import io
import json
import os
import re

import numpy as np
import pytest
from made_results import ORGANS, ORIGIN, write_cohort, write_comparison, write_scan, write_scores
from PIL import Image
from self_contained import loaded_by

from medlsam_jax.cohort.manifest import FORMAT, Record
from medlsam_jax.errors import InputError
from medlsam_jax.io.decisions import Decisions
from medlsam_jax.pages.pictures import PAGE_BYTES
from medlsam_jax.report.report import to_html
from medlsam_jax.report.results import read_results


def page_of(*folders):
  return to_html(read_results(folders), datetime.datetime(2026, 11, 27, 12, 0, tzinfo=datetime.UTC))


def words(text):
  """What a reader sees, in one line."""
  return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(script|style).*?</\1>", " ", text)).split())


def test_a_cohort_s_page_has_everything_and_loads_nothing(tmp_path):
  text = page_of(write_cohort(tmp_path / "results"))
  assert loaded_by(text) == set() and text.count("<img") == 13
  said = words(text)
  assert "Results: results" in said and "2026-11-27 12:00 UTC" in said and "Research use only" in said
  for title in ("Scans to look at", "Organs", "Volumes", "Scans, the oddest first", "Configuration"):
    assert title in said
  assert "spleen: uncertain (spleen is doubtful)" in said and "lens: outside field of view" in said
  assert "liver is 4." in said and "times larger than usual" in said
  assert ("a" * 64) in said and ("b" * 64) in said and "versions: jax 0.12.0" in said
  assert "open.safetensors" in said and "anna" not in text, "folders of files are nobody's business"


def test_volumes_are_in_the_table_and_odd_ones_marked(tmp_path):
  folder = write_cohort(tmp_path / "results")
  text = page_of(folder)
  usual = json.loads((folder / "p003_boxes.json").read_text())["organs"]["lens"]["volume_ml"]
  row = re.search(r'<tr><td[^>]*><a href="#scan-\d+">p003</a></td>(.*?)</tr>', text)[1]
  assert f">{usual:.1f}</td>" in row
  odd = re.findall(r'<tr><td[^>]*><a href="#scan-1">odd</a></td>(.*?)</tr>', text)
  assert any("▲" in each and '<span class="warn">?</span>' in each and ">out<" in each for each in odd)
  assert text.count("▲") == 2 and "▼ " not in words(text.split("cohort_volumes")[0].split("by scan")[1])
  assert "at least 8 scans show the organ" in text and "from 4 on a volume is marked as an outlier" in text
  content = base64.b64decode(re.search(r"data:text/csv;base64,([^\"]+)", text)[1]).decode()
  rows = {each["scan"]: each for each in csv.DictReader(io.StringIO(content))}
  assert len(rows) == 13 and float(rows["p003"]["lens_ml"]) == pytest.approx(usual, rel=1e-3)
  assert float(rows["odd"]["liver_deviation"]) > 4 and rows["odd"]["lens_ml"] == "" == rows["odd"]["spleen_deviation"]
  assert rows["odd"]["lens_verdict"] == "outside field of view"


def test_a_corrected_result_counts_in_place_of_what_was_found_and_is_named(tmp_path):
  folder = write_cohort(tmp_path / "results")
  write_scan(folder / "corrected", "p003", picture=(77, 55), sizes=ORGANS | {"lens": 0.7}, verdicts={"lens": "given"})
  Decisions(folder).decide("p003", "correct")
  scores = write_scores(tmp_path / "scores", ["p003", "p004"])
  results = read_results([folder])
  assert results.preview("p003") == folder / "corrected" / "p003_preview.png"
  assert results.preview("p004") == folder / "p004_preview.png"
  text = page_of(folder)
  corrected = json.loads((folder / "corrected" / "p003_boxes.json").read_text())["organs"]["lens"]["volume_ml"]
  row = re.search(r'<tr><td[^>]*><a href="#scan-\d+">p003</a></td>(.*?)</tr>', text)[1]
  assert f">{corrected:.1f}</td>" in row and corrected > 0.6
  said = words(text)
  assert "corrected by a person: boxes, volumes and the picture are those of the correction" in said
  assert "p003 to correct, corrected" in said and "corrected by a person 1" in said
  assert said.count("boxes, volumes and the picture") == 1 and "scores those of what was scored" not in said
  assert "scores those of what was scored" in words(page_of(scores, folder))


def test_a_scan_that_failed_and_was_segmented_by_hand_since_is_in_the_tables(tmp_path):
  folder = write_cohort(tmp_path / "results", 2)
  lines = [json.dumps({"format": FORMAT}), Record("bad", "bad.nii.gz", "failed", "", error="no room").line()]
  (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
  assert "no room" in words(page_of(folder))
  write_scan(folder / "corrected", "bad", verdicts={"lens": "given"})
  said = words(page_of(folder))
  assert "no room" not in said and "bad corrected" in said


def test_of_few_scans_nothing_is_called_an_outlier(tmp_path):
  text = page_of(write_cohort(tmp_path / "results", 4))
  assert "Too few scans show an organ" in text and text.count("▲") == 1, "in the legend alone"


def test_scores_come_first_and_the_worst_scan_s_picture_too(tmp_path):
  folder = write_cohort(tmp_path / "results")
  scores = write_scores(tmp_path / "scores", [f"p{number:03}" for number in (7, 3, 5)])
  text = page_of(scores, folder)
  assert loaded_by(text) == set()
  said = words(text)
  assert said.index("Scores against truth") < said.index("Scans to look at")
  assert "1. gone" in said and "2. p007" in said and "3. p003" in said and "4. p005" in said
  assert "No picture: gone_preview.png is not there." in said and "gone: no <file>" not in text
  assert "gone: no &lt;file&gt;" in text and "Failed scans (1): gone." in said
  assert "0.475" in said, "a failure counts as 0"
  assert "ours less true" in said and "These are figures of these scans alone" in said
  assert "true volume, ml" in said


def test_made_up_scans_are_said_to_be_so(tmp_path):
  assert "no evidence of clinical accuracy" in page_of(write_scores(tmp_path, ["a"], made_up=True))
  assert "no evidence of clinical accuracy" not in page_of(write_scores(tmp_path, ["a"]))


def test_an_older_evaluation_has_no_true_volumes_and_a_page_all_the_same(tmp_path):
  write_scores(tmp_path, ["a", "b"])
  file = tmp_path / "evaluation.json"
  said = json.loads(file.read_text())
  for row in said["rows"]:
    del row["true_ml"]
  file.write_text(json.dumps(said))
  text = page_of(tmp_path)
  assert "Scores against truth" in text and "ours less true" not in text and "could not be read" not in text


def test_ways_to_paint_stand_beside_each_other(tmp_path):
  text = page_of(write_comparison(tmp_path))
  said = words(text)
  assert loaded_by(text) == set() and "boxes that MedLAM found" in said and "liver, volume" in said
  assert "volume: mean over organs" in said and ("d" * 64) in said and "+0.100" in said
  both = page_of(write_comparison(tmp_path, "labels"))
  assert both.count("<h2>Ways to paint:") == 2 and "<h2>Configuration" not in both, "each says its own"


def test_other_configurations_say_what_is_different(tmp_path):
  folder = write_cohort(tmp_path / "results", 3)
  write_scan(folder, "late", 5, origin=ORIGIN | {"seed": 7, "versions": {"jax": "0.12.1"}})
  said = words(page_of(folder))
  assert "Otherwise in 1 scan: late" in said
  assert said.split("Otherwise in")[1].split("Research use")[0].split() == (
    ["1", "scan:", "late", "what", "value", "seed", "7", "versions:", "jax", "0.12.1"]
  )


@pytest.mark.parametrize("name", ["evaluation.json", "p003_boxes.json", "p003_preview.png", "comparison_found.json",
                                  "manifest.jsonl"])  # fmt: skip
@pytest.mark.parametrize("content", [b"", b'{"rows": [', b"\xff\xfe\x00", b"[]", b"null", b'{"rows": 3, "organs": 4}',
                                     b'{"rows": [3, {"scan": 4}, null], "boxes": "x", "seconds": {}}'])  # fmt: skip
def test_a_damaged_file_is_a_line_and_the_rest_is_shown(tmp_path, name, content):
  folder = write_cohort(tmp_path / "results")
  write_scores(folder, ["p003", "p001"])
  write_comparison(folder)
  (folder / name).write_bytes(content)
  text = page_of(folder)
  said = words(text)
  assert loaded_by(text) == set() and "Scans, the worst first" in said and "Scores against truth" in said
  shown = name.split(".")[0]
  if name == "p003_preview.png":
    assert "No picture: p003_preview.png cannot be read." in said
  elif not (name == "manifest.jsonl" and content == b""):
    assert "What could not be read" in said and shown in said.split("What could not be read")[2].split("Scores")[0]
  if name == "evaluation.json":
    assert "has no row that can be read; evaluation.csv is taken" in said


def test_scores_alone_say_what_was_scored(tmp_path):
  write_scores(tmp_path, ["a", "b"])
  assert "do not say what they were made with" in page_of(tmp_path)
  file = tmp_path / "evaluation.json"
  said = json.loads(file.read_text())
  said |= {
    "made_with": [{"provenance": ORIGIN, "scans": ["a", "b"]}, {"provenance": 3}],
    "scored_with": {"numpy": "9.9"},
  }
  file.write_text(json.dumps(said))
  assert ("a" * 64) in page_of(tmp_path) and "Scored with what value numpy 9.9" in words(page_of(tmp_path))


def test_scans_that_failed_or_lost_their_files_are_rows_of_their_own(tmp_path):
  folder = write_cohort(tmp_path / "results", 9)
  lines = [json.dumps({"format": FORMAT})]
  lines += [Record(f"p{number:03}", "x", "done", "m").line() for number in range(9)]
  lines += [Record("lost", "x", "done", "m").line(), Record("bad", "x", "failed", "m", error="hung <b>").line()]
  (folder / "manifest.jsonl").write_text("\n".join(lines) + '\n{"scan": "half')
  (folder / "p004_preview.png").unlink()
  said = words(page_of(folder))
  assert "lost_boxes.json: is not there any more; the scan is in no table" in said
  assert "hung &lt;b&gt;" in said and "manifest.jsonl: its last line was not written to its end" in said
  assert "No picture: p004_preview.png is not there." in said
  assert "scans 10 organs 3 to look at" in said, "the odd one, which no manifest names, is shown too"


def test_what_a_person_decided_is_told(tmp_path):
  folder = write_cohort(tmp_path / "results", 9)
  decided = Decisions(folder)
  decided.decide("p003", "reject", "a <metal> artefact")
  decided.decide("p004", "accept")
  decided.decide("p005", "accept")
  text = page_of(folder)
  said = words(text)
  assert "accepted by a person 2" in said and "rejected by a person 1" in said and "to correct by" not in said
  assert "a person's decision: reject" in html.unescape(said) and "a &lt;metal&gt; artefact" in text
  (folder / "decisions.json").write_text('{"format": "medlsam_jax decisions 1", "scans": {"p003": {"decision": "x"}}}')
  assert "decisions.json: not as this program writes it" in words(page_of(folder))


def test_nothing_to_report_is_an_error_that_says_what_to_give(tmp_path):
  for folder, words in ((tmp_path, "no results here"), (tmp_path / "none", "no folder")):
    with pytest.raises(InputError, match=words):
      read_results([folder])
  for name in "ab":
    write_scan(tmp_path / name, "s")
  with pytest.raises(InputError, match="as another folder"):
    read_results([tmp_path / "a", tmp_path / "b"])


def test_scans_that_all_failed_have_a_page(tmp_path):
  lines = [json.dumps({"format": FORMAT}), Record("bad", "x", "failed", "m", error="no scan").line()]
  (tmp_path / "manifest.jsonl").write_text("\n".join(lines) + "\n")
  said = words(page_of(tmp_path))
  assert "Scans that failed" in said and "no scan" in said


def test_names_are_said_as_text(tmp_path):
  write_scan(tmp_path / "r", '<b onclick="x">', 3)
  write_scan(tmp_path / "r", "=HYPERLINK(1)", 4)
  text = page_of(tmp_path / "r")
  assert loaded_by(text) == set() and '<b onclick="x">' not in text and "&lt;b onclick=" in text
  content = base64.b64decode(re.search(r"data:text/csv;base64,([^\"]+)", text)[1]).decode()
  assert "'=HYPERLINK(1)" in content


def test_two_hundred_scans_of_thirty_organs_stay_under_20_mb(tmp_path):
  """Previews of the size of real ones (1578 x 1279 pixels) and more grain for some (1.4 MB as PNG, not 0.7); for the
  others, to be quick, noise that takes as much of the page as a picture may."""
  rng = np.random.default_rng(0)
  coarse = Image.fromarray(rng.integers(0, 256, (160, 198), np.uint8))
  coarse.resize((1578, 1279), Image.Resampling.BICUBIC).convert("RGB").save(tmp_path / "real.png")
  Image.fromarray(rng.integers(0, 256, (300, 370, 3), np.uint8)).save(tmp_path / "noise.png")
  organs = {f"organ_{number:02}": 10.0 * number + 10 for number in range(30)}
  folder, names = tmp_path / "results", [f"patient_{number:03}" for number in range(200)]
  for seed, name in enumerate(names):
    write_scan(folder, name, seed, picture=None, sizes=organs)
    os.link(tmp_path / ("noise.png" if seed % 20 else "real.png"), folder / f"{name}_preview.png")
  write_scores(folder, names)
  text = page_of(folder)
  pictures = re.findall(r'<img [^>]*width="(\d+)"[^>]*src="([^"]+)"', text)
  assert len(pictures) == 199, "and a scan that failed"
  assert 10e6 < len(text.encode()) < 20e6
  assert all(int(width) >= 600 for width, _ in pictures if width != "370"), "still to be recognised"
  rest = len(text.encode()) - sum(len(source) for _, source in pictures)
  assert rest + PAGE_BYTES < 20e6, "if all took as much as they may"
