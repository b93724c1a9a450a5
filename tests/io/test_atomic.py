"""Files appear whole or not at all, and whoever the umask lets read can read them."""

import os
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

from medlsam_jax.errors import OutputError
from medlsam_jax.geometry import Grid
from medlsam_jax.io.atomic import all_or_none, atomically, clear_scratch, made_folder, require_writable, write_text
from medlsam_jax.io.nifti import write_label_nifti
from medlsam_jax.io.weights.weights_file import write_weights
from medlsam_jax.medlam.bank import bank_file


def write_labels(path):
  write_label_nifti(path, np.zeros((2, 3, 4), np.uint8), Grid((2, 3, 4), np.eye(4)))


WRITERS = {
  "organs.bank.safetensors": lambda path: bank_file.write(path, {"a": np.zeros(3)}, {"mode": "SPL"}),
  "net.safetensors": lambda path: write_weights(path, {"params": {"a": np.zeros(3, np.float32)}}, {"kind": "medlam"}),
  "a_seg.nii.gz": write_labels,
  "scores.csv": lambda path: write_text(path, "organ,dice\n"),
}


@pytest.fixture
def umask(request):
  before = os.umask(request.param)
  yield request.param
  os.umask(before)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002], indirect=True, ids=oct)
@pytest.mark.parametrize("name", WRITERS)
def test_results_have_the_rights_that_the_umask_gives(tmp_path, name, umask):
  WRITERS[name](tmp_path / name)
  assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask
  assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_is_not_there_is_an_output_error_and_is_not_made(tmp_path, name):
  with pytest.raises(OutputError, match=name):
    WRITERS[name](tmp_path / "gone" / name)
  assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
  (tmp_path / "a.txt").write_text("old")
  with pytest.raises(KeyboardInterrupt), atomically(tmp_path / "a.txt") as part:
    part.write_text("ne")
    raise KeyboardInterrupt
  assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_what_keeps_a_file_from_being_written_is_said_of_that_file(tmp_path):
  with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(no space left"), atomically(tmp_path / "a.txt"):
    raise OSError("no space left on device")
  assert not list(tmp_path.iterdir())


def test_a_name_as_long_as_file_systems_take_can_be_written(tmp_path):
  path = tmp_path / ("a" * 248 + ".nii.gz")
  write_labels(path)
  assert path.is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left on device")])
def test_folders_made_for_files_that_never_came_are_removed_and_others_stay(tmp_path, error):
  (tmp_path / "there").mkdir()
  with pytest.raises(error if isinstance(error, type) else OSError), made_folder(tmp_path / "there" / "a" / "b"):
    raise error
  assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
  with made_folder(tmp_path / "there" / "a" / "b") as folder:
    (folder / "file").touch()
  assert (tmp_path / "there" / "a" / "b" / "file").is_file()


def test_files_appear_when_the_block_ends(tmp_path):
  with all_or_none(tmp_path / "new" / "folder", last="_b") as scratch:
    (scratch / "x_b").write_text("2")
    (scratch / "x_c").write_text("1")
    assert not (tmp_path / "new" / "folder" / "x_b").exists()
  assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["x_b", "x_c"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_appears_when_the_block_is_left_by_an_error(tmp_path, error):
  with pytest.raises(error), all_or_none(tmp_path) as scratch:
    (scratch / "half").write_text("half")
    raise error
  assert list(tmp_path.iterdir()) == []


def test_last_file_moves_last(tmp_path, monkeypatch):
  import os

  moved = []
  original = os.replace
  monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(b.name), original(a, b)))
  with all_or_none(tmp_path, last="_a") as scratch:
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
  with pytest.raises(KeyboardInterrupt), all_or_none(tmp_path / "a" / "b"):
    raise KeyboardInterrupt
  assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path):
  (tmp_path / "out").mkdir()
  with pytest.raises(OutputError), all_or_none(tmp_path / "out"):
    raise OSError("no space left on device")
  assert (tmp_path / "out").is_dir()


def test_what_a_kill_left_is_cleared_when_it_is_old(tmp_path):
  for name, age in ((".medlsam-old", 3600), (".medlsam-young", 5), ("medlsam-results", 3600)):
    (tmp_path / name).mkdir()
    (tmp_path / name / "half").touch()
    os.utime(tmp_path / name, (time.time() - age,) * 2)
  clear_scratch(tmp_path)
  assert {path.name for path in tmp_path.iterdir()} == {".medlsam-young", "medlsam-results"}


def test_text_is_utf_8_in_a_locale_that_is_not(tmp_path):
  words = "from medlsam_jax.io.atomic import write_text; write_text('a.html', chr(0x25b2) + chr(0xfc))"
  plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
  subprocess.run([sys.executable, "-c", words], cwd=tmp_path, env={**os.environ, **plain}, check=True)
  assert (tmp_path / "a.html").read_bytes() == "\u25b2\u00fc".encode()
