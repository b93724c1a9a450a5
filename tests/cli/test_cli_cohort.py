"""`localize LIST` and `segment LIST`: done once, killed and gone on with, and what is said on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from medlsam_jax.cli.cohort import bytes_of
from medlsam_jax.cohort import manifest
from medlsam_jax.cohort.lock import locked
from medlsam_jax.cohort.place import RemotePlace
from medlsam_jax.errors import ConfigError

ROOT = Path(__file__).parents[2]
OWN = {"manifest.jsonl", "throughput.jsonl", "tensorboard"}
"""Files of a cohort beside the scans' results."""


@pytest.fixture
def scans(tmp_path, mini_queries):
  """A folder of three good scans and a bad one."""
  folder = tmp_path / "scans"
  folder.mkdir()
  for source, name in (("q0", "a"), ("q1", "b"), ("q0", "d")):
    shutil.copy(mini_queries / f"{source}_ct.nii.gz", folder / f"{name}_ct.nii.gz")
  (folder / "c_ct.nii.gz").write_text("no scan")
  return folder


def results(folder):
  return {
    path.name: path.read_bytes()
    for path in sorted(folder.iterdir())
    if path.name not in OWN and not path.name.startswith((".", "cohort", "manifest"))
  }


def states(folder):
  return {name: each.state for name, each in manifest.read_folder(folder).records.items()}


def test_a_list_gives_what_the_plain_loop_gives_and_is_not_done_again(medlsam, search, scans, tmp_path):
  plain = medlsam("localize", *search, "--query", scans, "--out", tmp_path / "plain")
  call = ["localize", scans, *search, "--out", tmp_path / "out"]
  first = medlsam(*call)
  assert plain.code == first.code == 1
  assert results(tmp_path / "out") == results(tmp_path / "plain")
  assert states(tmp_path / "out") == {"a": "done", "b": "done", "c": "failed", "d": "done"}
  assert "scans: 3 done, 1 failed" in first.out and "scans a minute" in first.out and "failed: c: not a" in first.err
  assert "of 3 scans to look at, in order" in first.out
  assert "the same files as d" in (tmp_path / "out" / "cohort.html").read_text()
  stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
  again = medlsam(*call)
  assert (
    again.code == 1 and "4 scans: 0 to do, 3 done before" in again.out and "--retry-failed tries again" in again.err
  )
  assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
  (scans / "c_ct.nii.gz").write_bytes((scans / "a_ct.nii.gz").read_bytes())
  mended = medlsam(*call)
  assert mended.code == 0 and "scans: 1 done, 3 done before" in mended.out
  assert json.loads((tmp_path / "out" / "throughput.jsonl").read_text().splitlines()[-1])["scans"] == 1


def test_the_record_says_what_there_is_to_know(medlsam, search, scans, tmp_path):
  medlsam("localize", scans, *search, "--out", tmp_path / "out", "--quiet")
  known = manifest.read_folder(tmp_path / "out")
  good, bad = known.records["a"], known.records["c"]
  assert set(good.verdicts) == {"alpha", "beta"} and set(good.seconds) == {"read", "wait", "device", "write"}
  assert good.input.bytes == (scans / "a_ct.nii.gz").stat().st_size and len(good.input.sha256) == 64
  assert good.path == str(scans / "a_ct.nii.gz") and good.body_mm is not None and good.tries == 1
  assert bad.error.startswith("not a NIfTI") and bad.verdicts == {} and len(bad.input.sha256) == 64
  assert good.input.sha256 == known.records["d"].input.sha256 != known.records["b"].input.sha256


def test_other_settings_do_a_list_again_and_say_so(medlsam, search, scans, tmp_path):
  call = ["localize", scans, *search, "--out", tmp_path / "out"]
  medlsam(*call)
  again = medlsam(*call, "--search.steps", "2")
  assert "3 scans done again (a, b, d): made with other settings (settings.search.steps 1, now 2)" in again.err
  assert "failed with other settings" in again.err
  retried = medlsam(*call, "--steps", "2", "--retry-failed")
  assert "1 scan done again (c): tried again" in retried.err and "scans: 0 done, 3 done before, 1 failed" in retried.out
  assert manifest.read_folder(tmp_path / "out").records["c"].tries == 3


def test_segment_takes_a_list(medlsam, painter, search, scans, tmp_path):
  result = medlsam("segment", *search, scans, "--out", tmp_path / "out", "--masks", "network")
  assert result.code == 1 and states(tmp_path / "out")["a"] == "done"
  assert (tmp_path / "out" / "a_seg.nii.gz").exists()
  medlsam("segment", *search, "--query", scans, "--out", tmp_path / "plain", "--masks", "network")
  assert results(tmp_path / "out") == results(tmp_path / "plain")
  again = medlsam("segment", *search, scans, "--out", tmp_path / "out", "--masks", "templates")
  assert "painting.masks network, now templates" in again.err


def test_a_scan_listed_twice_or_not_there_and_one_that_hangs(medlsam, search, scans, tmp_path):
  os.mkfifo(tmp_path / "h_ct.nii.gz")
  lines = [scans / "a_ct.nii.gz", scans / "a_ct.nii.gz", tmp_path / "nowhere_ct.nii.gz", tmp_path / "h_ct.nii.gz"]
  (tmp_path / "list.txt").write_text("\n".join(map(str, lines)))
  result = medlsam("localize", tmp_path / "list.txt", *search, "--out", tmp_path / "out", "--scan-seconds", "3")
  assert "listed twice; taken once" in result.err and "scans: 1 done, 2 failed" in result.out
  assert "nowhere: " in result.err and "line 3" in result.err and "h: reading it took longer than 3 s" in result.err
  assert states(tmp_path / "out") == {"a": "done", "nowhere": "failed", "h": "failed"}


def test_two_scans_of_one_name_are_refused(medlsam, search, scans, tmp_path):
  (tmp_path / "x").mkdir()
  shutil.copy(scans / "b_ct.nii.gz", tmp_path / "x" / "a_ct.nii.gz")
  (tmp_path / "list.txt").write_text(f"{scans / 'a.nii.gz'}\n{scans / 'a.nii'}")
  for name in ("a.nii", "a.nii.gz"):
    shutil.copy(scans / "a_ct.nii.gz", scans / name)
  alike = medlsam("localize", tmp_path / "list.txt", *search, "--out", tmp_path / "out")
  assert alike.code == 2 and "would both be called a; rename one" in alike.err and not (tmp_path / "out").exists()
  (tmp_path / "list.txt").write_text(str(scans / "a_ct.nii.gz"))
  assert medlsam("localize", tmp_path / "list.txt", *search, "--out", tmp_path / "out").code == 0
  (tmp_path / "list.txt").write_text(str(tmp_path / "x" / "a_ct.nii.gz"))
  other = medlsam("localize", tmp_path / "list.txt", *search, "--out", tmp_path / "out")
  assert other.code == 2 and "results of another scan of that name, a (" in other.err


def test_shards_share_a_list_and_a_folder(medlsam, search, scans, tmp_path):
  call = ["localize", scans, *search, "--out", tmp_path / "out"]
  one, two = (medlsam(*call, "--shard", f"{number}/2") for number in (1, 2))
  assert "2 scans, part 1/2 of 4: 2 to do" in one.out and "2 scans, part 2/2 of 4: 2 to do" in two.out
  assert {path.name for path in (tmp_path / "out").glob("manifest*")} == {
    "manifest-1-of-2.jsonl", "manifest-2-of-2.jsonl",
  }  # fmt: skip
  assert states(tmp_path / "out") == {"a": "done", "b": "done", "c": "failed", "d": "done"}
  whole = medlsam(*call)
  assert "4 scans: 0 to do, 3 done before" in whole.out


def test_a_second_run_and_another_versions_manifest_are_refused_before_anything_is_loaded(
  medlsam, search, scans, tmp_path, monkeypatch
):
  from medlsam_jax.cli.search import Search

  monkeypatch.setattr(Search, "prepare", lambda *_: pytest.fail("loaded"))
  (tmp_path / "out").mkdir()
  call = ["localize", scans, *search, "--out", tmp_path / "out"]
  with locked(tmp_path / "out"):
    refused = medlsam(*call)
  assert refused.code == 2 and f"another run works on this folder (process {os.getpid()} on " in refused.err
  (tmp_path / "out" / "manifest.jsonl").write_text('{"format": "medlsam_jax cohort 99"}\n')
  assert "another version of medlsam (medlsam_jax cohort 99" in medlsam(*call).err


def test_a_full_disk_ends_the_run_which_goes_on_later(medlsam, search, scans, tmp_path, monkeypatch):
  from medlsam_jax.io import preview

  call = ["localize", scans, *search, "--out", tmp_path / "out"]
  original = preview.write_preview

  def full(path, name, *rest):
    if name == "b":
      raise OSError(28, "No space left on device")
    return original(path, name, *rest)

  monkeypatch.setattr(preview, "write_preview", full)
  ended = medlsam(*call)
  assert ended.code == 2 and "No space left on device" in ended.err and "goes on from here" in ended.err
  assert states(tmp_path / "out").get("b") is None and not list((tmp_path / "out").glob("b_*"))
  monkeypatch.undo()
  assert medlsam(*call).code == 1
  assert states(tmp_path / "out") == {"a": "done", "b": "done", "c": "failed", "d": "done"}


def test_a_signal_ends_a_run_in_words_and_it_goes_on(medlsam, search, scans, tmp_path, monkeypatch):
  from medlsam_jax.io import preview

  original = preview.write_preview

  def ask(path, name, *rest):
    if name == "b":
      os.kill(os.getpid(), signal.SIGTERM)
    return original(path, name, *rest)

  monkeypatch.setattr(preview, "write_preview", ask)
  call = ["localize", scans, *search, "--out", tmp_path / "out"]
  ended = medlsam(*call)
  assert ended.code == 128 + signal.SIGTERM and "stopped" in ended.err and "Traceback" not in ended.err
  monkeypatch.undo()
  assert medlsam(*call).code == 1
  assert set(states(tmp_path / "out")) == set("abcd")


HANGS = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from medlsam_jax import pipeline
from medlsam_jax.cli.main import main
from medlsam_jax.cohort import stages
localize, calls = pipeline.localize, []
def hang(*given, **options):
  calls.append(1)
  if len(calls) == 2:  # in a thread that Python would wait for at its end
    ThreadPoolExecutor(1).submit(threading.Event().wait).result()
  return localize(*given, **options)
stages.PATIENCE_S, stages._LEAVE_S, pipeline.localize = 10.0, 1.0, hang
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_scan_that_hangs_on_its_device_ends_the_process_and_the_next_run_leaves_it_alone(
  medlsam, search, scans, tmp_path
):
  (scans / "c_ct.nii.gz").unlink()
  call = [str(word) for word in ("localize", scans, *search, "--out", tmp_path / "out", "--scan-seconds", "5")]
  environment = os.environ | {"PYTHONPATH": str(ROOT)}
  words = [sys.executable, "-c", HANGS, *call]
  run = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
  assert run.returncode == 3, run.stderr
  assert "b: its search or painting does not end; " in run.stderr and "the same command goes on" in run.stderr
  assert states(tmp_path / "out") == {"a": "done", "b": "failed"}
  rest = medlsam(*call)
  assert rest.code == 1 and "3 scans: 1 to do, 1 done before" in rest.out and "failed: b: its search" in rest.err
  assert states(tmp_path / "out") == {"a": "done", "b": "failed", "d": "done"}


def test_a_scan_that_takes_too_long_on_its_device_fails_alone(medlsam, search, scans, tmp_path, monkeypatch):
  from medlsam_jax import pipeline
  from medlsam_jax.cohort import stages
  from medlsam_jax.progress import within_limit

  def slow(scan, *_, **__):
    tell = within_limit(None)
    for step in range(1000 if Path(scan.source).name == "b_ct.nii.gz" else 0):
      time.sleep(0.01)
      tell(step, 1000)
    return original(scan, *_, **__)

  original = pipeline.scan_checks.check_scan
  monkeypatch.setattr(pipeline.scan_checks, "check_scan", slow)
  monkeypatch.setattr(stages, "PATIENCE_S", 60.0)
  result = medlsam("localize", scans, *search, "--out", tmp_path / "out", "--scan-seconds", "6")
  assert result.code == 1 and "b: took longer than 6 s (--scan-seconds) and was ended" in result.err
  assert states(tmp_path / "out") == {"a": "done", "b": "failed", "c": "failed", "d": "done"}


@pytest.mark.slow
def test_a_run_killed_at_any_time_and_gone_on_with_gives_what_an_undisturbed_one_gives(
  medlsam, search, scans, mini_queries, tmp_path
):
  for number in range(6):
    shutil.copy(mini_queries / f"q{number % 2}_ct.nii.gz", scans / f"more{number}_ct.nii.gz")
  medlsam("localize", scans, *search, "--out", tmp_path / "whole", "--quiet")
  words = [str(word) for word in ("localize", scans, *search, "--out", tmp_path / "out", "--quiet")]
  environment = os.environ | {"PYTHONPATH": str(ROOT)}
  for enough in (1, 3, 6):
    with subprocess.Popen([sys.executable, "-m", "medlsam_jax.cli.main", *words], env=environment) as run:
      deadline = time.monotonic() + 120
      while len(manifest.read_folder(tmp_path / "out").records) < enough and time.monotonic() < deadline:
        time.sleep(0.02)
      assert run.poll() is None, "it ended before it was killed"
      run.send_signal(signal.SIGKILL)
  assert medlsam("localize", scans, *search, "--out", tmp_path / "out").code == 1
  assert results(tmp_path / "out") == results(tmp_path / "whole")
  assert states(tmp_path / "out") == states(tmp_path / "whole") and len(states(tmp_path / "out")) == 10
  lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
  names = [each["scan"] for each in map(json.loads, lines) if "scan" in each]
  assert len(names) == len(set(names)) == 10


@pytest.mark.parametrize(
  ("words", "said"),
  [
    (["l", "--query", "q"], "unknown argument 'l'"),
    (["l", "m"], "unknown argument 'm'"),
    ([], "--query"),
    (["--query", "q", "--shard", "1/2"], "--shard is for many scans"),
    (["--query", "q", "--retry-failed"], "--retry-failed is for many scans"),
    (["l", "--skip-existing"], "--skip-existing is for --query"),
  ],
)
def test_words_that_do_not_go_together(medlsam, words, said):
  for command in ("localize", "segment"):
    result = medlsam(command, *words, "--bank", "b")
    assert result.code == 2 and said in result.err


def test_limits_that_are_none(medlsam, scans, search, tmp_path):
  call = ["localize", scans, *search, "--out", tmp_path / "out"]
  assert "give a number above 0" in medlsam(*call, "--scan-seconds", "-1").err
  assert "give which part" in medlsam(*call, "--shard", "3/2").err
  assert "such as 8GB" in medlsam(*call, "--scan-memory", "much").err
  assert not (tmp_path / "out").exists()


def test_sizes():
  assert [bytes_of(text) for text in ("8GB", "1.5 GiB", "500mb", "2KiB")] == [8 * 10**9, 3 << 29, 5 * 10**8, 2048]
  for text in ("8", "GB", "-1GB", "1e9GB", "0GB", "nanGB"):
    with pytest.raises(ConfigError):
      bytes_of(text)


def test_lists_scans_and_results_behind_addresses(medlsam, search, scans, tmp_path, monkeypatch):
  """Scans in a folder behind `file://`, which a reader sees too, and results in a bucket in memory."""
  fs, out = fsspec.filesystem("memory"), "memory://test_lists_scans_and_results"
  (scans / "list.txt").write_text("\n".join(f"{name}_ct.nii.gz" for name in "abcd"))
  call = ["localize", f"file://{scans}/list.txt", *search, "--out", out]

  def die(self, name, content, **how):
    put(self, name, content, **how)
    if name == "b_boxes.json":
      raise KeyboardInterrupt

  put = RemotePlace._put
  with monkeypatch.context() as patch:
    patch.setattr(RemotePlace, "_put", die)
    assert medlsam(*call).code == 130
  result = medlsam(*call)
  assert result.code == 1 and f"in order: {out}/cohort.html" in result.out and "done before" in result.out
  assert "results that no record speaks of" in result.err
  assert f"failed: c: {scans}" not in result.err and "failed: c: not a NIfTI" in result.err
  fs.get(out, str(tmp_path / "there"), recursive=True)
  plain = medlsam("localize", *search, "--query", scans, "--out", tmp_path / "plain")
  there = {name: content.replace(b"file://", b"") for name, content in results(tmp_path / "there").items()}
  assert plain.code == 1 and there == results(tmp_path / "plain")
  assert states(tmp_path / "there") == {"a": "done", "b": "done", "c": "failed", "d": "done"}
  assert manifest.read_folder(tmp_path / "there").records["a"].path == f"file://{scans}/a_ct.nii.gz"
  assert "the same files as d" in (tmp_path / "there" / "cohort.html").read_text()
  again = medlsam(*call)
  assert again.code == 1 and "4 scans: 0 to do, 3 done before" in again.out
  alone = medlsam("localize", *search, "--query", scans, "--out", out)
  assert alone.code == 2 and "only the results of a LIST" in alone.err
  fs.rm(out, recursive=True)
