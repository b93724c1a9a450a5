"""Results behind an address: records as objects, one run at a time, what a killed one leaves. In a bucket in memory."""

import json

import fsspec
import pytest

from medlsam_jax.cohort import manifest, place
from medlsam_jax.cohort.lock import Shard
from medlsam_jax.cohort.manifest import Record
from medlsam_jax.cohort.place import CLAIM, RECORDS, placed
from medlsam_jax.errors import ConfigError, OutputError


class Killed(BaseException):
  """Ends a run without what it would do at its end."""


@pytest.fixture
def bucket(request):
  """The address of a bucket of this test's own, and its files by name."""
  fs, root = fsspec.filesystem("memory"), f"/{request.node.name}"

  def files():
    return {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in fs.find(root)}

  yield f"memory:/{root}", files
  if fs.exists(root):
    fs.rm(root, recursive=True)


@pytest.fixture
def killed(monkeypatch):
  """Runs a block on a place that then is gone without a word, as by SIGKILL."""

  def run(address, block):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(place.RemotePlace, "close", lambda self: None)
      fs = type(fsspec.filesystem("memory"))
      remove = fs.rm_file
      patch.setattr(fs, "rm_file", lambda self, path: None if path.endswith(CLAIM) else remove(self, path))
      with placed(address, None) as there, manifest.writer(there.folder, None, there.add_line) as book:
        block(there, book)

  return run


def record(name):
  return Record(name, f"/{name}_ct.nii.gz", "done", "x", ended=f"2026-11-27T00:00:{ord(name):02}")


def test_results_and_records_are_there_at_once_and_one_manifest_at_the_end(bucket):
  address, files = bucket
  with placed(address, None) as there, manifest.writer(there.folder, None, there.add_line) as book:
    assert there.has(["a_boxes.json"]) == [False]
    there.write_files({"a_boxes.json": b"{}", "a_preview.png": b"png"})
    book.add(record("a"))
    now = files()
    assert now["a_boxes.json"] == b"{}" and there.has(["a_boxes.json", "b"]) == [True, False]
    assert json.loads(now[f"{RECORDS}/000000002.jsonl"])["scan"] == "a" and CLAIM in now
  assert set(files()) == {"a_boxes.json", "a_preview.png", "manifest.jsonl"}
  with placed(address, None) as there:
    assert set(manifest.read_folder(there.folder).records) == {"a"}


def test_boxes_come_last(bucket, monkeypatch):
  address, files = bucket
  with placed(address, None) as there:
    put = there._put

    def full(name, content, **how):
      if name == "a_preview.png":
        raise OutputError("full")
      put(name, content, **how)

    monkeypatch.setattr(there, "_put", full)
    with pytest.raises(OutputError, match="full"):
      there.write_files({"a_boxes.json": b"{}", "a_boxes.mrk.json": b"{}", "a_preview.png": b"png"})
    assert "a_boxes.json" not in files()
    monkeypatch.undo()


def test_what_a_killed_run_recorded_counts_and_the_next_one_takes_over(bucket, killed):
  address, files = bucket

  def some(there, book):
    book.add(record("a"))
    book.add(record("b"))

  killed(address, some)
  assert CLAIM in files() and "manifest.jsonl" not in files()
  killed(address, lambda there, book: book.add(record("c")))
  with placed(address, None) as there, manifest.writer(there.folder, None, there.add_line) as book:
    assert list(manifest.read_folder(there.folder).records) == ["a", "b", "c"]
    book.add(record("d"))
  lines = [json.loads(line) for line in files()["manifest.jsonl"].splitlines()]
  assert [line["scan"] for line in lines if "scan" in line] == ["a", "b", "c", "d"] and "format" in lines[0]
  assert set(files()) == {"manifest.jsonl"}


def test_a_run_killed_while_it_puts_the_manifest_together_loses_and_doubles_nothing(bucket, monkeypatch):
  address, files = bucket
  with pytest.raises(Killed), placed(address, None) as there:
    with manifest.writer(there.folder, None, there.add_line) as book:
      book.add(record("a"))

    def dies(path):
      raise Killed

    monkeypatch.setattr(there._fs, "rm", dies)
  monkeypatch.undo()
  assert {"manifest.jsonl", f"{RECORDS}/000000002.jsonl"} <= set(files())
  with placed(address, None):
    pass
  assert files()["manifest.jsonl"].count(b'"scan": "a"') == 1


def test_a_second_run_is_refused_whoever_begins_it(bucket):
  address, files = bucket
  with placed(address, None):
    with (
      pytest.raises(OutputError, match=rf"^{address}: another run works on this folder \(process"),
      placed(address, None),
    ):
      pass
    theirs = files()[CLAIM]
  fs, root = fsspec.filesystem("memory"), address.removeprefix("memory:/")
  for content in (theirs.replace(b'"owner": [', b'"owner": ["elsewhere", '), b"", b"[]"):
    fs.pipe_file(f"{root}/{CLAIM}", content)
    with (
      pytest.raises(OutputError, match=rf"was killed on another machine .*remove {address}/{CLAIM}"),
      placed(address, None),
    ):
      pass
    assert files()[CLAIM] == content


def test_a_driver_that_overwrites_is_refused(bucket, monkeypatch):
  address, files = bucket
  fs = type(fsspec.filesystem("memory"))
  put = fs.pipe_file
  monkeypatch.setattr(fs, "pipe_file", lambda self, path, value, mode="overwrite": put(self, path, value))
  with pytest.raises(ConfigError, match="the driver here overwrites"), placed(address, None):
    pass
  assert not files()


def test_two_that_write_in_spite_of_it_do_not_overwrite_each_other_s_records(bucket):
  address, files = bucket
  with placed(address, None) as there:
    fsspec.filesystem("memory").pipe_file(f"{there._root}/{RECORDS}/000000001.jsonl", b"theirs")
    with pytest.raises(OutputError, match="another run writes there"):
      there.add_line("ours")
    assert files()[f"{RECORDS}/000000001.jsonl"] == b"theirs"
    fsspec.filesystem("memory").rm(f"{there._root}/{RECORDS}/000000001.jsonl")


def test_where_runs_cannot_exclude_each_other_none_begins(bucket):
  for address in ("file:///x/y", "az://x/y", "https://x/y"):
    with pytest.raises(ConfigError, match="cannot exclude each other"), placed(address, None):
      pass
  with pytest.raises(ConfigError, match="--shard"), placed(bucket[0], Shard(1, 2)):
    pass
