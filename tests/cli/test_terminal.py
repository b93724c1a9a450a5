"""What is printed: tables that fit, numbers that agree with their nouns."""

import re

import pytest

from medlsam_jax.cli import terminal
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.display import count

ROWS = [["organ", *(f"column{n}" for n in range(6))], ["liver", *"123456"], ["a_long_name", *"abcdef"]]


@pytest.mark.parametrize(("number", "text"), [(0, "0 scans"), (1, "1 scan"), (2, "2 scans")])
def test_one_thing_is_singular(number, text):
  assert count(number, "scan") == text


@pytest.fixture
def narrow(monkeypatch):
  """A terminal of 40 columns."""
  monkeypatch.setenv("COLUMNS", "40")
  monkeypatch.setenv("FORCE_COLOR", "1")
  monkeypatch.setenv("TERM", "xterm")


def test_a_wide_table_is_cut_into_tables_that_fit(narrow, capsys):
  Terminal().table(ROWS)
  lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
  assert max(map(len, lines)) <= 40
  assert sum("a_long_name" in line for line in lines) == 2
  words = {word for line in lines for word in line.split()}
  assert words >= {*(f"column{n}" for n in range(6)), *"123456", *"abcdef"}


def test_a_pipe_gets_one_table(capsys):
  Terminal().table(ROWS)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 3 and lines[1].split() == ["liver", *"123456"]


def test_a_column_wider_than_the_terminal_is_printed_whole():
  assert terminal._blocks([10, 50, 50, 5], 30) == [[0, 1], [0, 2], [0, 3]]
