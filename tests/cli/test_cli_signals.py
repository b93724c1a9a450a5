"""A request to end (SIGTERM, as from a scheduler or `kill`) in the middle of a command: nothing half-written stays."""

import os
import signal

import pytest

ASKED_TO_END = 128 + signal.SIGTERM


def ask_to_end(*_, **__):
  os.kill(os.getpid(), signal.SIGTERM)
  raise AssertionError("went on after SIGTERM")


def ask_to_end_in_a_picture(path, *_):
  path.write_bytes(b"half a picture")
  ask_to_end()


@pytest.fixture(autouse=True)
def handler_is_put_back():
  before = signal.getsignal(signal.SIGTERM)
  yield
  assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("moment", ["in a picture", "before the labels"])
def test_segment_leaves_nothing(medlsam, painter, search, one_query, tmp_path, monkeypatch, moment):
  from medlsam_jax import pipeline
  from medlsam_jax.io import preview

  if moment == "in a picture":
    monkeypatch.setattr(preview, "write_preview", ask_to_end_in_a_picture)
  else:
    monkeypatch.setattr(pipeline, "segment", ask_to_end)
  result = medlsam("segment", *search, "--query", one_query, "--out", tmp_path / "out")
  assert result.code == ASKED_TO_END and "Traceback" not in result.err and "nothing half-written" in result.err
  assert not (tmp_path / "out").exists()


def test_localize_leaves_nothing_and_starts_no_other_scan(medlsam, search, mini_queries, tmp_path, monkeypatch):
  from medlsam_jax.io import preview

  monkeypatch.setattr(preview, "write_preview", ask_to_end_in_a_picture)
  result = medlsam("localize", *search, "--query", mini_queries, "--out", tmp_path / "out")
  assert result.code == ASKED_TO_END and "Traceback" not in result.err
  assert not (tmp_path / "out").exists()


def test_pretrain_leaves_whole_lines_and_no_weights(medlsam, tmp_path, monkeypatch):
  import json

  from medlsam_jax.medlam.pretraining import recipe

  def train(settings, directory, report, *_, **__):
    report(1, {"loss": 2.0})
    ask_to_end()

  monkeypatch.setattr(recipe, "run", train)
  run = tmp_path / "run"
  result = medlsam("pretrain", "--config", "configs/medlam.py:smoke", "--workdir", run, "--data.scans=A")
  assert result.code == ASKED_TO_END and "Traceback" not in result.err
  lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [1]
  assert not list(run.glob("*.safetensors")) and not [p for p in run.iterdir() if p.name.startswith(".")]


def test_signal_that_was_ignored_stays_ignored(medlsam, monkeypatch):
  """`nohup medlsam ...` goes on when the terminal closes."""
  from medlsam_jax.cli import weights

  def closed(*_):
    os.kill(os.getpid(), signal.SIGHUP)
    return 0

  monkeypatch.setattr(weights, "run_list", closed)
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    assert medlsam("weights", "list").code == 0
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup themselves
    assert medlsam("weights", "list").code == 128 + signal.SIGHUP
  finally:
    signal.signal(signal.SIGHUP, before)
