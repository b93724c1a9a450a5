"""Decisions are on the disk, whole, before anybody hears of them."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from filelock import FileLock

from medlsam_jax.errors import InputError, OutputError
from medlsam_jax.io import decisions
from medlsam_jax.io.decisions import FILE, Decisions


def test_what_was_decided_is_there_for_the_next_program(tmp_path):
  first = Decisions(tmp_path / "results")
  first.decide("case_1", "accept")
  first.decide("case_2", "reject", "motion")
  first.decide("case_1", "correct")
  second = Decisions(tmp_path / "results")
  assert second.of("case_1")["decision"] == "correct" and second.of("case_2")["note"] == "motion"
  second.decide("case_2", None)
  assert Decisions(tmp_path / "results").of("case_2") == {}


def test_a_write_that_breaks_off_leaves_the_file_as_it_was(tmp_path, monkeypatch):
  kept = Decisions(tmp_path)
  kept.decide("case_1", "accept")
  before = (tmp_path / FILE).read_bytes()

  def broken(path, text):
    path.with_suffix(".part").write_text(text[:10])
    raise OutputError("the disk is full")

  monkeypatch.setattr(decisions, "write_text", broken)
  with pytest.raises(OutputError):
    kept.decide("case_1", "reject")
  assert (tmp_path / FILE).read_bytes() == before and kept.of("case_1")["decision"] == "accept"


@pytest.mark.parametrize(("decision", "note"), [("maybe", ""), (3, ""), ("accept", "x" * 3000), ("accept", None)])
def test_what_is_no_decision_is_refused(tmp_path, decision, note):
  with pytest.raises(InputError):
    Decisions(tmp_path).decide("case_1", decision, note)
  assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
  ("text", "said"),
  [
    (json.dumps({"format": "medlsam_jax decisions 9", "scans": {}}), "another version"),
    (json.dumps({"format": decisions.FORMAT, "scans": {"a": {"decision": "perhaps"}}}), "not as this program"),
    (json.dumps({"format": decisions.FORMAT}), "not as this program"),
    ('{"format": "medlsam_jax dec', "not valid JSON"),
  ],
)
def test_a_file_of_another_kind_is_named_and_left_alone(tmp_path, text, said):
  (tmp_path / FILE).write_text(text)
  with pytest.raises(InputError, match=said):
    Decisions(tmp_path)
  assert (tmp_path / FILE).read_text() == text


def test_programs_that_decide_in_one_folder_see_and_keep_each_other_s(tmp_path):
  first, second = Decisions(tmp_path), Decisions(tmp_path)
  first.decide("a", "accept")
  assert second.of("a")["decision"] == "accept"
  second.decide("b", "reject")
  first.decide("a", None)
  assert set(Decisions(tmp_path).all) == set(second.all) == {"b"}


def test_decisions_of_two_programs_at_once_are_both_kept(tmp_path, monkeypatch):
  write = decisions.write_text

  def slow(path, text):
    time.sleep(0.05)
    write(path, text)

  monkeypatch.setattr(decisions, "write_text", slow)
  with ThreadPoolExecutor() as threads:
    list(threads.map(lambda name: Decisions(tmp_path).decide(name, "accept"), "abcd"))
  assert set(Decisions(tmp_path).all) == set("abcd")


def test_a_folder_that_stays_locked_is_told_and_left_alone(tmp_path, monkeypatch):
  monkeypatch.setattr(decisions, "PATIENCE_S", 0.1)
  mine = Decisions(tmp_path)
  mine.decide("a", "accept")
  with FileLock(tmp_path / ".decisions.json.lock"), pytest.raises(OutputError, match="cannot be locked"):
    mine.decide("b", "accept")
  assert set(mine.all) == {"a"}
