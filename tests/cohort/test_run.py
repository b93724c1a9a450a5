"""A cohort from Python, as the page shows it."""

import re
import shutil
from pathlib import Path

import medlsam_jax as ml
from medlsam_jax.cohort import manifest

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


def test_what_fails_in_make_is_that_scans_alone(tmp_path, mini_queries):
  from medlsam_jax.cohort.run import CohortOptions, opened
  from medlsam_jax.io.scans import list_scans

  def make(listed, scan):
    raise RuntimeError("boom")

  told = []
  with opened(tmp_path / "out", CohortOptions()) as cohort:
    report = cohort.run(cohort.plan(list_scans(mini_queries / "q0_ct.nii.gz"), {}, False), {}, make, tell=told.append)
  assert report.failed == {"q0": "a defect of medlsam: RuntimeError: boom"} and report.exit_code == 1
  assert "in make" in told[0].defect and (told[0].number, told[0].total) == (1, 1)


def test_a_scan_that_took_its_process_with_it_is_done_after_the_others(tmp_path, mini_queries):
  """Not given up: it may have been another one's fault."""
  from medlsam_jax.cohort.at_work import AtWork
  from medlsam_jax.cohort.run import CohortOptions, opened
  from medlsam_jax.io.scans import list_scans

  for name in "abc":
    (tmp_path / "scans" / name).mkdir(parents=True)
    shutil.copy(mini_queries / "q0_ct.nii.gz", tmp_path / "scans" / name / f"{name}_ct.nii.gz")
  scans, out, seen = list_scans(tmp_path / "scans"), tmp_path / "out", []
  assert [each.name for each in scans] == ["a", "b", "c"]

  def make(listed, scan):
    seen.append((listed.name, AtWork(out).marked()))
    raise ml.errors.InputError("enough")

  out.mkdir()
  AtWork(out).begin("a")  # and a kill
  with opened(out, CohortOptions()) as cohort:
    planned = cohort.plan(scans, {}, False)
    assert "1 scan at work when an earlier run died, now done last (a)" in planned.sentences()
    cohort.run(planned, {}, make)
  assert [name for name, _ in seen] == ["b", "c", "a"] and all(name in marked for name, marked in seen)
  assert not AtWork(out).marked() and not (out / ".at-work").exists()
