"""`medlsam probe`: one network gives JSON, several a line each; options that say nothing are refused."""

import json

import pytest

from medlsam_jax.evaluation.probe import Probe


@pytest.fixture
def asked(monkeypatch):
  """Stands in for the search; what it was asked for."""
  seen = {}

  def probe(network, parts):
    return {"probe_box_iou": 0.123456, "parts": float(parts)}

  def of_folders(templates, queries, organs, **options):
    seen.update(options, templates=templates, queries=queries, organs=organs)
    return probe

  monkeypatch.setattr(Probe, "of_folders", of_folders)
  monkeypatch.setattr(Probe, "of_phantoms", lambda: probe)
  return seen


def test_several_networks_are_a_line_each_with_their_steps(medlsam, asked, small_network_file):
  words = ["--templates", "T", "--queries", "Q", "--organs", "liver", "--count", "4", "--take", "a,b", "--parts"]
  result = medlsam("probe", "tiny", small_network_file, *words, "--quiet")
  assert result.code == 0, result.err
  lines = [json.loads(line) for line in result.out.splitlines()]
  assert [line["network"] for line in lines] == ["tiny", str(small_network_file)]
  assert lines[0]["probe_box_iou"] == 0.1235 and lines[0]["parts"] == 1
  assert lines[0]["step"] > 0 and "step" not in lines[1], "the header says how long it was trained, if it does"
  assert asked == {
    "templates": "T", "queries": "Q", "organs": ["liver"], "count": 4, "template_names": ["a", "b"], "search": "exact"
  }  # fmt: skip


def test_one_network_is_one_object(medlsam, asked):
  result = medlsam("probe", "tiny", "--quiet")
  assert json.loads(result.out) == {"probe_box_iou": 0.1235, "parts": 0.0} and not asked


@pytest.mark.parametrize(
  ("words", "said"),
  [
    (["--templates", "T"], "--templates and --queries together"),
    (["--count", "3"], "--count is about scans of one's own"),
    (["--search", "best-of-all"], "--search best-of-all: choose exact or"),
  ],
)
def test_options_that_say_nothing_are_refused(medlsam, asked, words, said):
  result = medlsam("probe", "tiny", *words)
  assert result.code == 2 and said in result.err


def test_the_callback_of_a_run_reads_its_folders_before_the_first_step(asked):
  from medlsam_jax.cli import probe
  from medlsam_jax.medlam.pretraining.settings import ProbeSettings

  probe.callback(ProbeSettings(templates="T", queries="Q", count=2))
  assert asked == {"templates": "T", "queries": "Q", "organs": None, "template_names": None, "count": 2}
  asked.clear()
  probe.callback(ProbeSettings())
  assert not asked
