"""Files appear whole or not at all, and whoever the umask lets read can read them."""

import os
import stat

import numpy as np
import pytest

from medlsam_jax.errors import OutputError
from medlsam_jax.evaluation.report import write_text
from medlsam_jax.geometry import Grid
from medlsam_jax.io.atomic import made_folder, replacing
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
  with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.txt") as part:
    part.write_text("ne")
    raise KeyboardInterrupt
  assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


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
