"""Which scans are templates and which queries, in the words of several data sets."""

import json

import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.io.splits import read_split, split_beside


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("split.json", '{"templates": ["b", "a"], "queries": ["c", "d"]}'),
    ("split.json", '{"support": ["b", "a"], "val": ["c", "d"], "note": "mine"}'),
    ("splits_final.json", json.dumps([{"train": ["b", "a"], "val": ["c", "d"]}, {"train": ["c"], "val": ["b"]}])),
    ("meta.csv", "image_id;age;split\nb;60;train\na;50;train\nx;1;val\nc;70;test\nd;71;test\n"),
    ("split.tsv", "name\tsplit\nb\ttemplates\na\ttemplates\nc\tqueries\nd\tqueries\n"),
  ],
)
def test_templates_and_queries_keep_the_order_of_the_file(tmp_path, name, text):
  (tmp_path / name).write_text(text)
  split = read_split(tmp_path / name)
  assert split.templates == ("b", "a") and split.queries == ("c", "d")


def test_without_queries_all_others_are_meant(tmp_path):
  (tmp_path / "split.json").write_text('{"templates": ["b"]}')
  assert read_split(tmp_path / "split.json").queries == ()


@pytest.mark.parametrize(
  ("text", "why"),
  [
    ("{", "not a split"),
    ("[]", "not a split"),
    ('"a"', "not a split"),
    ('{"queries": ["a"]}', "no templates"),
    ('{"train": ["a"], "test": ["a"]}', "a is both"),
  ],
)
def test_a_file_that_is_no_split_is_one_line(tmp_path, text, why):
  (tmp_path / "split.json").write_text(text)
  with pytest.raises(InputError, match=why) as error:
    read_split(tmp_path / "split.json")
  assert "\n" not in str(error.value) and "split.json" in str(error.value)


def test_a_table_without_the_column_is_no_split(tmp_path):
  (tmp_path / "meta.csv").write_text("image_id;age\na;60\n")
  with pytest.raises(InputError, match="name and split"):
    read_split(tmp_path / "meta.csv")
  assert split_beside(tmp_path) is None
  (tmp_path / "meta.csv").write_text("image_id;split\na;train\n")
  assert split_beside(tmp_path) == tmp_path / "meta.csv"
  with pytest.raises(InputError, match="cannot be read"):
    read_split(tmp_path / "gone.json")
