"""A cohort from Python, as the page shows it, and what a run meets."""

import gc
import os
import re
import shutil
import signal
import tracemalloc
from pathlib import Path

import pytest

import medlsam_jax as ml
from medlsam_jax.cohort import manifest, run
from medlsam_jax.cohort.at_work import AtWork
from medlsam_jax.cohort.reader import Reader
from medlsam_jax.cohort.run import CohortOptions, opened
from medlsam_jax.cohort.sketch import Sketch
from medlsam_jax.errors import InputError, OutputError
from medlsam_jax.io import preview
from medlsam_jax.io.scan_result import ScanResult
from medlsam_jax.io.scans import list_scans

PAGE = Path(__file__).parents[2] / "docs" / "cohorts.md"


def test_the_page_s_lines_run_and_a_second_time_keep_what_is_done(
  tmp_path, mini_queries, mini_templates, small_network_file, monkeypatch
):
  code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)[1]
  network = ml.load(small_network_file)
  bank = ml.Bank.build(network, ml.read_templates(mini_templates), "WPL", organs=["alpha"])
  monkeypatch.setattr(ml, "load", lambda name: network)
  monkeypatch.chdir(tmp_path)
  bank.save("organs.safetensors")
  (tmp_path / "scans").mkdir()
  for name in ("q0", "q1"):
    shutil.copy(mini_queries / f"{name}_ct.nii.gz", tmp_path / "scans")
  (tmp_path / "scans" / "bad_ct.nii.gz").write_text("a letter")
  (tmp_path / "scans.txt").write_text("scans\n")
  first, second = {}, {}
  exec(code, first)
  assert sorted(first["report"].done) == ["q0", "q1"] and list(first["report"].failed) == ["bad"]
  assert first["report"].throughput.scans == 3 and (tmp_path / "results" / "q0_boxes.json").exists()
  exec(code, second)
  assert sorted(second["report"].kept) == ["q0", "q1"] and not second["report"].done
  assert second["report"].failed == first["report"].failed and second["report"].throughput is None
  assert manifest.read_folder(tmp_path / "results").records["q0"].verdicts.keys() == {"alpha"}
  assert Sketch.load(tmp_path / "results", "q0").cells.any() and Sketch.load(tmp_path / "results", "bad") is None


def test_what_fails_in_make_is_that_scans_alone(tmp_path, mini_queries):
  def make(listed, scan):
    raise RuntimeError("boom")

  told = []
  with opened(tmp_path / "out", CohortOptions()) as cohort:
    report = cohort.run(cohort.plan(list_scans(mini_queries / "q0_ct.nii.gz"), {}, ()), {}, make, tell=told.append)
  assert report.failed == {"q0": "a defect of medlsam: RuntimeError: boom"} and report.exit_code == 1
  assert "in make" in told[0].defect and (told[0].number, told[0].total) == (1, 1)


@pytest.fixture
def many(tmp_path, mini_queries):
  """Writes so many scans, and gives their list."""

  def write(count):
    (tmp_path / "many").mkdir()
    for number in range(count):
      shutil.copy(mini_queries / "q0_ct.nii.gz", tmp_path / "many" / f"s{number:02}_ct.nii.gz")
    return list_scans(tmp_path / "many")

  return write


def quick(listed, scan):
  """The result of a search for nothing."""
  return ScanResult(listed.name, scan, {}), {}


@pytest.fixture
def no_pictures(monkeypatch):
  """Makes writing quick."""
  monkeypatch.setattr(preview, "write_preview", lambda path, *_: path.write_bytes(b""))


def do(out, scans, make=quick, tell=None):
  with opened(out, CohortOptions()) as cohort:
    planned = cohort.plan(scans, {}, ())
    return cohort.run(planned, {}, make, tell=tell), cohort.known


def test_memory_is_flat_over_sixty_scans(many, tmp_path, no_pictures):
  used, sizes = {}, set()

  def make(listed, scan):
    sizes.add(scan.array.nbytes)
    return quick(listed, scan)

  def tell(ended):
    if ended.number in (15, 60):
      gc.collect()
      used[ended.number] = tracemalloc.get_traced_memory()[0]

  tracemalloc.start()
  try:
    report, _ = do(tmp_path / "out", many(60), make, tell)
  finally:
    tracemalloc.stop()
  assert len(report.done) == 60
  # four may be on their way; one that stayed of each would be 45
  assert used[60] - used[15] < 4 * max(sizes)


def test_a_reader_that_another_program_kills_costs_no_scan(many, tmp_path, no_pictures, monkeypatch):
  readers, killed = [], []
  monkeypatch.setattr(run, "Reader", lambda *given: readers.append(Reader(*given)) or readers[-1])

  def make(listed, scan):
    if listed.name in ("s01", "s04"):
      killed.append(readers[0]._child.pid)
      os.kill(killed[-1], signal.SIGKILL)
    return quick(listed, scan)

  report, known = do(tmp_path / "out", many(8), make)
  assert len(report.done) == 8 and not report.failed and len(known.records) == 8
  assert len(set(killed)) == 2, "not begun again"


def test_a_manifest_that_lost_its_end_costs_the_scans_that_stood_there(many, tmp_path, no_pictures):
  scans, path = many(6), tmp_path / "out" / "manifest.jsonl"
  do(tmp_path / "out", scans)
  whole = path.read_bytes()
  left = whole[: len(whole) * 2 // 3]
  path.write_bytes(left)
  lost = 6 - sum('"state"' in line for line in left.decode().splitlines(keepends=True) if line.endswith("\n"))
  report, known = do(tmp_path / "out", scans)
  assert "not written to its end" in known.damaged[0]
  assert len(report.done) == lost > 1 and len(report.kept) == 6 - lost and len(known.records) == 6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_under_the_throughput_loses_no_record(many, tmp_path, no_pictures):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "throughput.jsonl").symlink_to("/dev/full")
  with pytest.raises(OutputError, match=r"throughput.jsonl: cannot be written \(No space"):
    do(tmp_path / "out", many(3))
  assert len(manifest.read_folder(tmp_path / "out").records) == 3


def test_a_scan_that_took_its_process_with_it_is_done_after_the_others(many, tmp_path):
  """Not given up: it may have been another one's fault."""
  scans, out, seen = many(3), tmp_path / "out", []

  def make(listed, scan):
    seen.append((listed.name, AtWork(out).marked()))
    raise InputError("enough")

  out.mkdir()
  AtWork(out).begin("s00")  # and a kill
  with opened(out, CohortOptions()) as cohort:
    planned = cohort.plan(scans, {}, ())
    assert "1 scan at work when an earlier run died, now done last (s00)" in planned.sentences()
    cohort.run(planned, {}, make)
  assert [name for name, _ in seen] == ["s01", "s02", "s00"] and all(name in marked for name, marked in seen)
  assert not AtWork(out).marked() and not (out / ".at-work").exists()
