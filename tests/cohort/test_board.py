"""A cohort's throughput for TensorBoard."""

import contextlib
import importlib.util
import struct

import pytest

from medlsam_jax.cohort.board import Board
from medlsam_jax.errors import OutputError

NUMBERS = {"scans": 3, "later": None, "stage_seconds": {"read": 1.5, "write": 0.25}}


def drawn(folder):
  """What the event files say, by step and name."""
  from tensorboardX.proto.event_pb2 import Event

  said = {}
  for path in sorted((folder / "tensorboard").iterdir()):
    content = path.read_bytes()
    while content:
      (length,) = struct.unpack("<Q", content[:8])  # then a checksum, the event and another checksum
      event, content = Event.FromString(content[12 : 12 + length]), content[16 + length :]
      said |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
  return said


def test_numbers_are_drawn_by_step_and_group_at_once(tmp_path):
  with contextlib.closing(Board(tmp_path)) as board:
    board.add(NUMBERS, 3)
    assert (3, "scans") in drawn(tmp_path)
    board.add({"scans": 7}, 7)
  assert drawn(tmp_path) == {
    (3, "scans"): 3.0, (3, "stage_seconds/read"): 1.5, (3, "stage_seconds/write"): 0.25, (7, "scans"): 7.0,
  }  # fmt: skip


def test_without_the_extra_nothing_is_drawn(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  Board(tmp_path).add(NUMBERS, 3)
  assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
  (tmp_path / "tensorboard").write_text("in the way")
  with pytest.raises(OutputError, match="tensorboard: cannot be written"):
    Board(tmp_path).add(NUMBERS, 3)
