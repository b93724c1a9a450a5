"""The unattended run over an accelerator's stages, on the CPU that is here."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench.accelerator_plan import STAGES, Item, compile_jobs, groups, items_of
from bench.accelerator_run import Run
from bench.accelerator_sizes import TINY

accelerator = pytest.importorskip("bench.accelerator")
accelerator_cases = pytest.importorskip("bench.accelerator_cases")

ROOT = Path(__file__).parents[2]


def run(out, *options, backend="cpu"):
  command = [sys.executable, "-m", "bench.accelerator", "--tiny", "--out", str(out), *options]
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": backend}
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return [json.loads(line) for line in out.read_text().splitlines()]


def test_each_case_leaves_a_line_with_its_first_and_its_steady_time(tmp_path):
  records = run(tmp_path / "figures.jsonl", "--only", "ceilings")
  ours = [record for record in records if record.get("side") == "ours"]
  assert {record["platform"] for record in ours if "platform" in record} == {"cpu"}
  timed = [record for record in ours if "case" in record]
  products = [r for r in timed if r["case"] == "matrix product 256"]
  assert [record["operands"] for record in products] == ["bfloat16", "default", "highest"]
  for record in timed:
    assert 0 < record["least_ms"] <= record["median_ms"] <= 1e3 * record["first_s"] + 1e3
  for record in products:
    assert record["tflop_s"] == pytest.approx(2 * 256**3 / record["median_ms"] / 1e9, abs=0.01)


def test_what_the_time_did_not_suffice_for_is_named(tmp_path):
  records = run(tmp_path / "figures.jsonl", "--only", "vit,forward", "--seconds", "0.2")
  cut = {record["stage"]: record["cut"] for record in records if record.get("side") == "ours"}
  assert cut == {"forward": "after 0 s", "vit": "not begun within the time"}


def test_what_was_compiled_ahead_is_read_from_the_cache_when_it_is_timed(tmp_path):
  records = run(tmp_path / "figures.jsonl", "--only", "ceilings", "--compile-jobs", "2")
  ours = [record for record in records if record.get("side") == "ours" and "case" in record]
  compiled, timed = ([r for r in ours if r["kind"] == kind] for kind in ("compile", "time"))
  assert len(compiled) == len(timed) == 4
  assert all("median_ms" not in record and record["from_cache"] == 0 for record in compiled)
  assert all(record["from_cache"] == record["programs"] > 0 for record in timed)
  assert max(r["at_s"] for r in compiled) < min(r["at_s"] for r in timed)


SCRIPT = """
import json, os, sys, time
kind, side, slow, *items = sys.argv[1:]
for item in items:
  stage, _, number = item.partition(":")
  print(json.dumps({"begin": stage}), flush=True)
  began = time.time()
  if f"{kind}-{side}-{stage}" == slow:
    time.sleep(60)
  if f"die-{kind}-{side}-{stage}" == slow:
    sys.exit("killed by its own fault")
  time.sleep(0.2)
  span = {"from": began, "to": time.time(), "pid": os.getpid()}
  print(json.dumps({"stage": stage, "number": int(number) if number else 0} | span), flush=True)
"""


class ScriptedRun(Run):
  """Its processes do nothing; one hangs or dies."""

  slow = "none"

  def _command(self, kind, side, items):
    return [sys.executable, "-c", SCRIPT, kind, side, self.slow, *map(str, items)]


def scripted(tmp_path, slow, jobs=1, compile_s=20.0, seconds=40.0, stages=("forward", "correlation", "step")):
  made = ScriptedRun(seconds, tmp_path / "figures.jsonl", True, ("ours", "peer"))
  made.slow = slow
  made.all(list(stages), jobs, compile_s)
  assert [json.loads(line) for line in made.file.name and Path(made.file.name).read_text().splitlines()] == made.records
  return made.records


@pytest.mark.parametrize("fault", ["hangs", "dies"])
def test_a_stage_that_hangs_or_dies_takes_no_other_along(tmp_path, fault, monkeypatch):
  monkeypatch.setattr("bench.accelerator_run.LIMIT_S", {"warm": 2.0, "cold": 2.0})
  monkeypatch.setattr("bench.accelerator_run.START_S", 20.0)
  records = scripted(tmp_path, {"hangs": "time-ours-correlation", "dies": "die-time-ours-correlation"}[fault], jobs=2)
  timed = [record for record in records if record.get("kind") == "time" and "pid" in record]
  done = {(record["side"], record["stage"]) for record in timed}
  every = {(side, stage) for side in ("ours", "peer") for stage in ("forward", "correlation", "step")}
  assert every - done == {("ours", "correlation")}
  (bad,) = [record for record in records if "cut" in record or "failed" in record]
  assert bad.get("cut") == "after 2 s" or "own fault" in bad["failed"]
  of_ours = {record["stage"]: record["pid"] for record in timed if record["side"] == "ours"}
  assert of_ours["forward"] != of_ours["step"]


def test_processes_compile_side_by_side_and_are_timed_alone(tmp_path):
  records = scripted(tmp_path, "none", jobs=3)
  spans = {kind: [r for r in records if r.get("kind") == kind and "pid" in r] for kind in ("compile", "time")}
  compiled, timed = spans["compile"], sorted(spans["time"], key=lambda record: record["from"])
  assert any(a["pid"] != b["pid"] and a["from"] < b["to"] and b["from"] < a["to"] for a in compiled for b in compiled)
  assert max(record["beside"] for record in compiled) == 2
  assert max(r["to"] for r in compiled) < timed[0]["from"]
  assert all(before["to"] <= after["from"] for before, after in itertools.pairwise(timed))
  assert len({record["pid"] for record in timed}) == 2  # three stages of a side in one process


def test_what_does_not_compile_in_time_is_timed_last(tmp_path):
  began = time.monotonic()
  records = scripted(tmp_path, "compile-ours-forward", jobs=4, compile_s=4.0)
  assert time.monotonic() - began < 35
  assert {r["stage"] for r in records if r.get("kind") == "compile" and "cut" in r} == {"forward"}
  timed = [(record["side"], record["stage"]) for record in records if record.get("kind") == "time" and "pid" in record]
  assert timed[:4] == [("ours", "correlation")] * 3 + [("ours", "step")]
  assert timed[-4:] == [("peer", "forward")] + [("ours", "forward")] * 3


def test_the_plan_knows_every_stage_and_its_cases():
  worker = pytest.importorskip("bench.accelerator_worker")
  known = worker.stages(accelerator_cases)
  assert set(known) == {name for name, stage in STAGES.items() if "ours" in stage.sides}
  for name in ("ceilings", "forward", "correlation", "head", "forward-many", "exactness"):
    assert len(list(known[name](TINY))) == STAGES[name].cases, name


def test_jobs_hold_every_case_once_and_programs_that_stages_share_in_one_process():
  jobs = compile_jobs(STAGES)
  held = [item for job in jobs for item in job]
  assert sorted(held) == sorted(item for name in STAGES for item in items_of(name))
  assert [Item("localize-few", 0), Item("localize-many", 0)] in jobs
  assert all(len({STAGES[item.stage].flag for item in job}) == 1 for job in jobs)
  assert [Item.parse(str(item)) for item in (*held, Item("vit"))] == [*held, Item("vit")]
  dealt = list(groups(STAGES))
  assert [name for group in dealt for name in group] == list(STAGES)
  assert ["step-untuned"] in dealt


def test_a_process_that_fails_leaves_its_last_words(tmp_path):
  records = run(tmp_path / "figures.jsonl", "--only", "ceilings", backend="none such")
  (failed,) = [record["failed"] for record in records if record.get("side") == "ours"]
  assert "none such" in failed


@pytest.mark.parametrize("stage", ["forward", "head"])
def test_errors_are_those_against_float32(stage):
  cases = {case.operands: case for case in getattr(accelerator_cases, stage)(TINY)}
  strides = (4, 2, 1) if stage == "forward" else ()
  exact = np.array([[1.0, -2.0, 0.5]])
  assert cases["highest"].figures((exact, {stride: exact for stride in strides})) == {}
  found = cases["bfloat16"].figures((exact + 0.5, {stride: exact - 0.25 for stride in strides}))
  assert found == {"position_error": 0.25} | {f"feature_error_{stride}": 0.125 for stride in strides}


def test_the_table_sets_ours_beside_the_peer_and_its_compiled_form():
  case = {"case": "forward", "operands": "bfloat16", "stage": "forward"}
  shown = accelerator.table([
    case | {"side": "ours", "median_ms": 2.0, "position_error": 0.004},
    case | {"side": "peer", "median_ms": 8.0},
    case | {"side": "peer", "median_ms": 4.0, "note": "torch.compile", "stage": "forward-compiled"},
    case | {"side": "ours", "median_ms": 3.0, "stage": "step-untuned"},
    {"stage": "vit", "side": "ours", "cut": "not begun within the time"},
  ])  # fmt: skip
  columns = {column.header: list(column.cells) for column in shown.columns}
  assert columns["operands"] == ["bfloat16", "bfloat16 --xla_gpu_autotune_level"]
  assert columns["ratio"] == ["0.250", "-"]
  assert columns["compiled peer ms"] == ["4.00", "-"]
  assert columns["errors"][0] == "position_error 4e-03"
