"""What templates say of an organ: the same voxels whatever the scan's axes, and kept in a file as it was."""

import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import DISPLAY_AXIS_CODES, WORKING_AXIS_CODES, reorient
from medlsam_jax.template_masks.votes import Vote
from medlsam_jax.template_masks.votes_file import FOUND, JITTERED, file_name, read_votes, write_votes


@pytest.mark.parametrize("wanted", [DISPLAY_AXIS_CODES, "LIP", "PIL"])
def test_a_vote_is_shown_where_the_scan_is(make_grid, codes, wanted):
  """A scan of the vote's own values, turned to the working grid's directions and to others, tells where each goes."""
  grid = make_grid(codes)
  scan = np.random.default_rng(0).random(grid.shape, np.float32)
  turned = reorient(scan, grid, WORKING_AXIS_CODES)
  low = (1, 2, 0)
  vote = Vote(low, turned[1:4, 2:5, 0:3])
  shown = vote.shown(grid, wanted)
  np.testing.assert_array_equal(reorient(scan, grid, wanted)[shown.window], shown.share)
  assert shown.share.size == vote.share.size


def test_votes_come_back_from_their_file(tmp_path):
  rng = np.random.default_rng(1)
  votes = {
    FOUND: {"left/lung": Vote((3, 0, 5), rng.random((2, 3, 4)))},
    JITTERED: {"left/lung": Vote((2, 1, 5), rng.random((3, 3, 4))), "heart": Vote((0, 0, 0), rng.random((1, 1, 1)))},
  }
  write_votes(tmp_path / "a.npz", votes, "bank 1")
  read, made_from = read_votes(tmp_path / "a.npz")
  assert made_from == "bank 1" and {kind: set(each) for kind, each in read.items()} == {
    FOUND: {"left/lung"}, JITTERED: {"left/lung", "heart"},
  }  # fmt: skip
  for kind, organs in votes.items():
    for organ, vote in organs.items():
      assert read[kind][organ].low == vote.low
      np.testing.assert_allclose(read[kind][organ].share, vote.share, atol=1e-3)


def test_a_damaged_file_of_votes_is_named(tmp_path):
  write_votes(tmp_path / "a.npz", {FOUND: {"heart": Vote((0, 0, 0), np.ones((4, 4, 4)))}}, "bank 1")
  whole = (tmp_path / "a.npz").read_bytes()
  for kept in (0, 10, len(whole) // 2):
    (tmp_path / "a.npz").write_bytes(whole[:kept])
    with pytest.raises(InputError, match=r"a\.npz: no votes of templates .*delete it"):
      read_votes(tmp_path / "a.npz")
  with pytest.raises(InputError, match="missing"):
    read_votes(tmp_path / "missing.npz")


def test_a_file_goes_with_the_voxels_of_its_scan():
  hu = np.zeros((2, 3, 4), np.int16)
  other = hu.copy()
  other[0, 0, 0] = 1
  assert file_name("a", hu) == file_name("a", hu[:, ::-1][:, ::-1]) != file_name("a", other)
