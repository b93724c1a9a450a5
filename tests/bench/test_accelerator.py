"""The unattended run over an accelerator's stages, on the CPU that is here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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
