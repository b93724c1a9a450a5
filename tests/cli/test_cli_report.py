"""`medlsam report`: a page of what other commands wrote."""

import json

import pytest
from self_contained import loaded_by


def test_the_page_of_results_and_of_their_scores(medlsam, painter, search, mini_queries, tmp_path):
  made, page = tmp_path / "made", tmp_path / "pages" / "report.html"
  assert medlsam("evaluate", *search, "--query", mini_queries, "--out", made).code == 0
  result = medlsam("report", made, "--out", page)
  assert result.code == 0 and f"wrote {page}" in result.out and "MB)" in result.out
  text = page.read_text()
  assert loaded_by(text) == set() and text.count("<img") == 2
  for said in (
    "Scores against truth",
    "q0",
    "q1",
    "alpha",
    "box IoU",
    "Configuration",
    "versions: jax",
    "ours less true",
  ):
    assert said in text
  assert json.loads((made / "q0_boxes.json").read_text())["provenance"]["bank"]["sha256"] in text
  scores = tmp_path / "scores"
  assert medlsam("evaluate", "--predictions", made, "--truth", mini_queries, "--out", scores).code == 0
  kept = json.loads((scores / "evaluation.json").read_text())["made_with"]
  assert [each["scans"] for each in kept] == [["q0", "q1"]] and kept[0]["provenance"]["bank"]["sha256"] in text
  assert str(tmp_path) not in text, "whoever gets the page need not know the folders of its maker"


def test_what_cannot_be_read_is_warned_of_and_the_page_made(medlsam, tmp_path):
  (tmp_path / "evaluation.json").write_text('{"rows": [')
  result = medlsam("report", tmp_path, "--out", tmp_path / "r.html")
  assert result.code == 0 and "evaluation.json: has no row that can be read" in result.err
  assert "What could not be read" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("folder", ["none", "empty"])
def test_a_folder_without_results_is_named(medlsam, tmp_path, folder):
  (tmp_path / "empty").mkdir()
  result = medlsam("report", tmp_path / folder, "--out", tmp_path / "new" / "r.html")
  assert result.code == 2 and folder in result.err and len(result.err.splitlines()) == 1
  assert not (tmp_path / "new").exists()


def test_a_page_that_cannot_be_written_is_an_error_of_one_line(medlsam, tmp_path):
  (tmp_path / "evaluation.json").write_text("{}")
  (tmp_path / "file").write_text("")
  result = medlsam("report", tmp_path, "--out", tmp_path / "file" / "r.html")
  assert result.code == 2 and "cannot be written" in result.err.splitlines()[-1]
