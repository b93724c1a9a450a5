"""`medlsam data`, `export`: what they print, and their exit codes."""

import shutil


def test_prepare_and_check_a_list_with_a_bad_scan(medlsam, mini_queries, tmp_path):
  shutil.copy(mini_queries / "q0_ct.nii.gz", tmp_path)
  (tmp_path / "scans.txt").write_text("q0_ct.nii.gz\nmissing_ct.nii.gz\n")
  result = medlsam("data", "prepare", tmp_path / "scans.txt", "--out", tmp_path / "set")
  assert result.code == 1 and "1 scan, 0 of them from before; 1 left out" in result.out
  assert "missing_ct.nii.gz: left out" in result.err
  assert medlsam("data", "check", tmp_path / "set").code == 0
  (tmp_path / "set" / "scans-00000.arrayrecord").unlink()
  result = medlsam("data", "check", tmp_path / "set")
  assert result.code == 2 and "scans-00000" in result.err and "1 problem" in result.err


def test_export_of_an_empty_folder_is_an_error(medlsam, tmp_path):
  result = medlsam("export", tmp_path, tmp_path / "x.safetensors")
  assert result.code == 2 and "no checkpoint" in result.err
