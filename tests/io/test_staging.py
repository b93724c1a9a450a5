"""Result files appear together and whole, or not at all."""

import pytest

from medlsam_jax.errors import OutputError
from medlsam_jax.io.staging import require_writable, staged


def test_files_appear_when_the_block_ends(tmp_path):
  with staged(tmp_path / "new" / "folder", last="_b") as scratch:
    (scratch / "x_b").write_text("2")
    (scratch / "x_c").write_text("1")
    assert not (tmp_path / "new" / "folder" / "x_b").exists()
  assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["x_b", "x_c"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_appears_when_the_block_is_left_by_an_error(tmp_path, error):
  with pytest.raises(error), staged(tmp_path) as scratch:
    (scratch / "half").write_text("half")
    raise error
  assert list(tmp_path.iterdir()) == []


def test_last_file_moves_last(tmp_path, monkeypatch):
  import os

  moved = []
  original = os.replace
  monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(b.name), original(a, b)))
  with staged(tmp_path, last="_a") as scratch:
    for name in ("x_a", "x_b", "x_c"):
      (scratch / name).write_text("")
  assert moved == ["x_b", "x_c", "x_a"]


def test_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OutputError, match=r"file/out: cannot be written"):
    require_writable(tmp_path / "file" / "out")


def test_checking_leaves_no_folder(tmp_path):
  require_writable(tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_folders_made_for_results_that_never_came_are_removed(tmp_path):
  with pytest.raises(KeyboardInterrupt), staged(tmp_path / "a" / "b"):
    raise KeyboardInterrupt
  assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path):
  (tmp_path / "out").mkdir()
  with pytest.raises(OutputError), staged(tmp_path / "out"):
    raise OSError("no space left on device")
  assert (tmp_path / "out").is_dir()
