"""`localize LIST --ray`: a cluster of three machines, one of which dies, gives what one process gives."""

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medlsam_jax.cohort import manifest

ROOT = Path(__file__).parents[2]
SCANS = 14
PATIENCE_S = 300
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
def begun(make):
  for _ in range(3):
    try:
      return make()
    except Exception:  # Ray gives a process 15 s to start, which a busy machine may not have
      pass
  return make()
cluster = begun(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}))
doomed, _ = (begun(lambda: cluster.add_node(num_cpus=1)) for _ in range(2))
print(cluster.address, flush=True)
for word in sys.stdin:
  if word == "kill\\n":
    cluster.remove_node(doomed, allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""


@pytest.fixture
def cluster(tmp_path_factory):
  """Three machines of a processor each, as processes; gives the address and what kills one of them."""
  environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "JAX_PLATFORMS": "cpu"}
  environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
  command = [sys.executable, "-c", CLUSTER]
  with subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes) as process:

    def kill():
      process.stdin.write("kill\n")
      process.stdin.flush()
      assert process.stdout.readline() == "killed\n"

    try:
      yield process.stdout.readline().strip(), kill, environment
    finally:
      process.stdin.close()
      process.wait(60)


def results(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.split("_")[0][-2:].isdigit()}


def records(folder):
  known = manifest.read_folder(folder).records
  return {name: dataclasses.replace(each, seconds={}, ended="") for name, each in known.items()}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")
def test_a_machine_dies_and_the_results_are_those_of_one_process(medlsam, search, mini_queries, tmp_path, cluster):
  (tmp_path / "scans").mkdir()
  for number in range(SCANS):
    shutil.copy(mini_queries / f"q{number % 2}_ct.nii.gz", tmp_path / "scans" / f"p{number:02}_ct.nii.gz")
  (tmp_path / "scans" / "p03_ct.nii.gz").write_text("a letter")
  address, kill, environment = cluster
  words = ["localize", tmp_path / "scans", *search, "--ray", address, "--out", tmp_path / "out"]
  command = [sys.executable, "-m", "medlsam_jax.cli.main", *map(str, words)]
  with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
    deadline = time.monotonic() + PATIENCE_S
    while len(manifest.read_folder(tmp_path / "out").records) < 2 and time.monotonic() < deadline:
      time.sleep(0.02)
    assert run.poll() is None, run.communicate()[0]
    kill()
    at_kill = len(manifest.read_folder(tmp_path / "out").records)
    said = run.communicate(timeout=PATIENCE_S)[0]
  assert run.returncode == 1 and f"scans: {SCANS - 1} done, 1 failed" in said and "p03: not a NIfTI" in said, said
  assert 2 <= at_kill < SCANS - 3, "too late to disturb anything"
  whole = medlsam("localize", tmp_path / "scans", *search, "--out", tmp_path / "whole", "--quiet")
  assert whole.code == 1, whole.err
  assert results(tmp_path / "out") == results(tmp_path / "whole") and len(results(tmp_path / "out")) == 3 * (SCANS - 1)
  assert records(tmp_path / "out") == records(tmp_path / "whole")
  lines = map(json.loads, (tmp_path / "out" / "manifest.jsonl").read_text().splitlines())
  assert sorted(line["scan"] for line in lines if "scan" in line) == [f"p{number:02}" for number in range(SCANS)]
  assert json.loads((tmp_path / "out" / "throughput.jsonl").read_text().splitlines()[-1])["devices"] >= 2
