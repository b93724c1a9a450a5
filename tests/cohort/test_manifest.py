"""The manifest: whole lines or none, mended after a kill, refused where it is another version's."""

import json
from pathlib import Path

import pytest

from medlsam_jax.cohort import manifest
from medlsam_jax.cohort.identity import Identity
from medlsam_jax.cohort.lock import Shard
from medlsam_jax.cohort.manifest import Record
from medlsam_jax.errors import InputError, OutputError

MADE_BY = {"seed": 0, "settings": {"steps": 1}}


def record(scan="a", state="done", ended="2026-01-01", **changes):
  body = ((0.0, 1.0, 2.0), (3.0, 4.0, 5.0))
  given = {"input": Identity(10, 1, 5, "ab"), "verdicts": {"liver": "found"}, "doubts": ("thin",), "body_mm": body}
  return Record(scan, f"/scans/{scan}.nii.gz", state, "name", ended=ended, **(given | changes))


def write(folder, *records, shard=None):
  with manifest.writer(folder, shard) as book:
    book.says(MADE_BY)
    for each in records:
      book.add(each)
  return folder / manifest.file_name(shard)


def test_what_was_written_is_read_and_the_last_record_of_a_scan_counts(tmp_path):
  write(tmp_path, record("a", "failed", "1", error="hung"), record("b", ended="2", input=None, body_mm=None))
  write(tmp_path, record("a", ended="3"), shard=Shard(1, 2))
  known = manifest.read_folder(tmp_path)
  assert known.records == {"a": record("a", ended="3"), "b": record("b", ended="2", input=None, body_mm=None)}
  assert known.made_by == {manifest.name_of(MADE_BY): MADE_BY} and not known.damaged


def test_half_a_line_that_a_kill_left_is_told_and_cut_off(tmp_path):
  path = write(tmp_path, record("a"), record("b"))
  whole = path.read_bytes()
  last = len(whole.splitlines()[-1])
  # the last: blocks of a file that were never written, after a power cut
  for left in (whole[:-1], whole[:-40], whole[: -last - 1] + bytes(last)):
    path.write_bytes(left)
    known = manifest.read_folder(tmp_path)
    assert list(known.records) == ["a"] and "not written to its end" in known.damaged[0]
    with manifest.writer(tmp_path, None) as book:
      book.add(record("c"))
    known = manifest.read_folder(tmp_path)
    assert list(known.records) == ["a", "c"] and not known.damaged


def test_a_spoilt_line_in_the_middle_costs_its_scan_alone(tmp_path):
  path = write(tmp_path, record("a"), record("b"), record("c"))
  lines = path.read_text().splitlines()
  spoilt = json.loads(lines[3])
  del spoilt["state"]
  for line in ('{"scan": "b", "pa', "[]", json.dumps(spoilt)):
    path.write_text("\n".join([*lines[:3], line, *lines[4:]]) + "\n")
    known = manifest.read_folder(tmp_path)
    assert list(known.records) == ["a", "c"] and "line 4" in known.damaged[0]


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a\\b", "..", "", "a\0b", 3, None])
def test_a_record_whose_files_would_lie_elsewhere_is_no_record(tmp_path, name):
  path = write(tmp_path, record("a"), record("b"))
  path.write_text(path.read_text().replace('"scan": "b"', f'"scan": {json.dumps(name)}'))
  known = manifest.read_folder(tmp_path)
  assert list(known.records) == ["a"] and "no name of a scan" in known.damaged[0]


def test_another_versions_manifest_and_what_is_none_are_refused(tmp_path):
  path = write(tmp_path, record())
  path.write_text(path.read_text().replace(manifest.FORMAT, "medlsam_jax cohort 7"))
  with pytest.raises(InputError, match=r"another version of medlsam \(medlsam_jax cohort 7"):
    manifest.read_folder(tmp_path)
  for text in ("a letter\n", '{"some": "json"}\n', '{"format": "a box"}\n'):
    path.write_text(text)
    with pytest.raises(InputError, match="not a manifest of medlsam; move it away"):
      manifest.read_folder(tmp_path)


def test_on_a_full_disk_a_line_is_whole_or_not_there(tmp_path, monkeypatch):
  path = write(tmp_path, record("a"))
  before = path.read_bytes()
  real = manifest.os.pwrite

  def half(file, content, at):
    if at > len(before):
      raise OSError(28, "No space left on device")
    return real(file, content[:20], at)

  with manifest.writer(tmp_path, None) as book:
    monkeypatch.setattr(manifest.os, "pwrite", half)
    with pytest.raises(OutputError, match=r"No space left on device.*same command goes on"):
      book.add(record("b"))
    assert path.read_bytes() == before
    monkeypatch.undo()
    book.add(record("b"))
  assert list(manifest.read_folder(tmp_path).records) == ["a", "b"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_from_the_start_is_told(tmp_path):
  (tmp_path / "manifest.jsonl").symlink_to("/dev/full")
  with pytest.raises(OutputError, match="No space left on device"), manifest.writer(tmp_path, None):
    pass


def test_a_kill_after_the_first_bytes_leaves_a_folder_that_can_be_used(tmp_path):
  (tmp_path / "manifest.jsonl").write_text('{"form')
  assert manifest.read_folder(tmp_path).records == {}
  write(tmp_path, record())
  assert list(manifest.read_folder(tmp_path).records) == ["a"]
