"""Kept rows and the table of `bench.masks`."""

import pytest

masks = pytest.importorskip("bench.masks")
QUESTION = {"set": "tuning", "boxes": "label", "templates": "a,b", "network": "open", "search": "vote"}


def test_rows_of_the_same_question_are_taken_up_again(tmp_path):
  kept = masks.Kept(tmp_path / "rows.jsonl", QUESTION)
  kept.add("p", "templates", {"seconds": 1.0, "dice": {"liver": 0.5}})
  again = masks.Kept(tmp_path / "rows.jsonl", QUESTION | {"network": "tiny"})  # label boxes know no network
  assert again.has("p", "templates") and not again.has("p", "network") and not again.has("q", "templates")
  assert not masks.Kept(tmp_path / "rows.jsonl", QUESTION | {"boxes": "found"}).rows


def test_the_table_takes_whole_labels_and_all_apart(capsys):
  rows = [
    {"scan": scan, "way": "templates", "seconds": 2.0, "dice": {"liver": dice}}
    for scan, dice in (("p", 0.8), ("q", 0.2))
  ]
  masks.print_table(rows, {"p": {"liver": "whole"}, "q": {"liver": "cut"}}, ["liver"])
  assert "| templates | 2 | 0.800 | 0.800 | 0.500 | 2.0 |" in capsys.readouterr().out
