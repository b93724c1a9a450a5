"""No name from outside leads out of the chosen folder."""

import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.serve.folders import inside


@pytest.fixture
def folder(tmp_path):
  chosen = tmp_path / "chosen"
  (chosen / "deep").mkdir(parents=True)
  (chosen / "deep" / "scan.nii.gz").write_text("")
  (tmp_path / "secret.txt").write_text("")
  (chosen / "out").symlink_to(tmp_path)
  (chosen / "out.txt").symlink_to(tmp_path / "secret.txt")
  (chosen / "gone").symlink_to(tmp_path / "not_there")
  (chosen / "round").symlink_to(chosen / "round")
  (chosen / "near").symlink_to(chosen / "deep")
  return chosen


@pytest.mark.parametrize("name", ["deep/scan.nii.gz", "deep", "new.json", "near/scan.nii.gz"])
def test_names_in_the_folder(folder, name):
  assert inside(folder, name).is_relative_to(folder)


@pytest.mark.parametrize(
  "name",
  ["", ".", "..", "../secret.txt", "deep/../../secret.txt", "deep\\..\\..\\secret.txt", "/etc/passwd", "C:/secret",
   "out/secret.txt", "out.txt", "gone", "gone/x", "round", "a\0b", ".hidden", "deep/.git/config", "deep//scan.nii.gz"],
)  # fmt: skip
def test_names_that_lead_out(folder, name):
  with pytest.raises(InputError, match="folder that this server was given"):
    inside(folder, name)


def test_a_folder_that_is_itself_reached_by_a_link(folder, tmp_path):
  (tmp_path / "alias").symlink_to(folder)
  assert inside(tmp_path / "alias", "deep/scan.nii.gz") == folder.resolve() / "deep" / "scan.nii.gz"
