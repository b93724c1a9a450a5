"""What a run does again and what it keeps: by input, settings, and the files that are there."""

import os
from pathlib import Path

import pytest

from medlsam_jax.cohort import manifest
from medlsam_jax.cohort.identity import Identity, glance_at, identity_of
from medlsam_jax.cohort.manifest import Manifest, Record
from medlsam_jax.cohort.place import Place
from medlsam_jax.cohort.plan import plan
from medlsam_jax.errors import InputError
from medlsam_jax.io.scan_result import result_paths
from medlsam_jax.io.scans import ListedScan

MADE_BY = {"seed": 0, "settings": {"steps": 1}}


@pytest.fixture
def case(tmp_path):
  """A scan that is done, and the folder's manifest."""
  scan = ListedScan(tmp_path / "a_ct.nii.gz", "a")
  scan.path.write_bytes(b"a scan")
  out = tmp_path / "out"
  out.mkdir()
  for path in result_paths(out, "a", ()):
    path.touch()
  record = Record("a", str(scan.path), "done", manifest.name_of(MADE_BY), identity_of(scan.path))
  return scan, out, Manifest({"a": record}, {manifest.name_of(MADE_BY): MADE_BY})


def why(case, made_by=MADE_BY, **options):
  scan, out, known = case
  planned = plan([scan], Place(out, str(out)), known, made_by, (), **options)
  assert len(planned.todo) + len(planned.done) + len(planned.failed) == 1
  return next(iter(planned.again)) if planned.todo else ""


def failed(case, **changes):
  scan, out, known = case
  seen = glance_at(scan.path)
  identity = Identity(seen.bytes, seen.files, seen.changed_ns, "")
  given = {"input": identity, "error": "hung"} | changes
  record = Record("a", str(scan.path), "failed", manifest.name_of(MADE_BY), **given)
  return scan, out, Manifest({"a": record}, known.made_by)


def test_the_same_scan_with_the_same_settings_is_kept(case):
  assert why(case) == ""
  os.utime(case[0].path)  # touched, its content being the same
  assert why(case) == ""


def test_other_content_other_settings_and_lost_files_are_done_again(case):
  assert why(case, {"seed": 1, "settings": {"steps": 1}}) == "made with other settings (seed 0, now 1)"
  assert why(case, {"seed": 0, "settings": {"steps": 2, "x": None}}).startswith(
    "made with other settings (settings.steps 1, now 2"
  )
  result_paths(case[1], "a", ())[1].unlink()
  assert why(case) == "their results are not all there"
  case[0].path.write_bytes(b"b scan")
  os.utime(case[0].path, ns=(1, 1))
  assert why(case) == "their files have changed"


def test_a_label_map_belongs_to_what_segment_made(case):
  scan, out, known = case
  assert plan([scan], Place(out, str(out)), known, MADE_BY, ("nifti",)).todo == [scan]


def test_a_failed_scan_is_left_alone_until_asked_for_or_changed(case):
  assert why(failed(case)) == ""
  assert why(failed(case), retry_failed=True) == "tried again"
  assert why(failed(case), {"seed": 1, "settings": {"steps": 1}}) == "they failed with other settings"
  now_there = failed(case, input=None)
  assert why(now_there) == "their files are other ones than those that failed"
  changed = failed(case)
  os.utime(changed[0].path, ns=(1, 1))
  assert why(changed) == "their files are other ones than those that failed"


def test_a_moved_scan_is_kept_and_another_of_its_name_is_refused(case, tmp_path):
  _, out, known = case
  (tmp_path / "b").mkdir()
  moved = ListedScan(tmp_path / "b" / "a_ct.nii.gz", "a")
  moved.path.write_bytes(b"a scan")
  assert why((moved, out, known)) == ""
  moved.path.write_bytes(b"another person")
  with pytest.raises(InputError, match=r"results of another scan of that name, a \(.*choose another --out"):
    why((moved, out, known))


def test_results_that_no_record_speaks_of_are_made_again(case):
  scan, out, _ = case
  assert why((scan, out, Manifest())) == "results that no record speaks of"
  new = plan([ListedScan(Path("n"), "n")], Place(out, str(out)), Manifest(), MADE_BY, ())
  assert [each.name for each in new.todo] == ["n"] and not new.again


def test_a_folder_is_known_by_its_files_and_their_names(tmp_path):
  (tmp_path / "s").mkdir()
  for name in "ab":
    (tmp_path / "s" / f"{name}.dcm").write_text(name)
  whole = identity_of(tmp_path / "s")
  assert (whole.files, whole.bytes) == (2, 2) and identity_of(tmp_path / "s" / "a.dcm") == whole
  (tmp_path / "s" / "a.dcm").rename(tmp_path / "s" / "c.dcm")
  assert identity_of(tmp_path / "s").sha256 != whole.sha256
  with pytest.raises(InputError, match="cannot be opened"):
    identity_of(tmp_path / "none.nii")
