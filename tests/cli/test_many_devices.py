"""Scans of a folder on several devices: eight that the CPU is made to be, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from medlsam_jax.cli import many_scans
from medlsam_jax.io import nifti
from medlsam_jax.io.scans import ListedScan

ROOT = Path(__file__).parents[2]
WATCHED = """
import json, sys
from medlsam_jax.cli import main
from medlsam_jax.medlam.search import programs

used, prepare = [], programs.prepare

def watched(*given):
  prepared = prepare(*given)
  used.append(str(next(iter(prepared.variables["params"]["fc1"]["bias"].devices()))))
  return prepared

programs.prepare = watched
code = main.main(sys.argv[2:])
open(sys.argv[1], "w").write(json.dumps(used))
sys.exit(code)
"""


@pytest.fixture
def three(tmp_path, mini_queries):
  """A folder of three scans, one of which cannot be read."""
  for source, name in (("q0", "a"), ("q1", "b"), ("q0", "d")):
    (tmp_path / "scans").mkdir(exist_ok=True)
    shutil.copy(mini_queries / f"{source}_ct.nii.gz", tmp_path / "scans" / f"{name}_ct.nii.gz")
  (tmp_path / "scans" / "c_ct.nii.gz").write_text("no scan")
  return tmp_path / "scans"


@pytest.mark.slow
def test_eight_devices_give_what_one_gives_in_the_same_order(medlsam, search, three, tmp_path):
  call = ["segment", *search, "--query", three, "--masks", "templates"]
  one = medlsam(*call, "--out", tmp_path / "one")
  words = [str(word) for word in (*call, "--out", tmp_path / "eight")]
  environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
  done = subprocess.run(
    [sys.executable, "-c", WATCHED, tmp_path / "used.json", *words], env=environment, capture_output=True, text=True
  )
  assert done.returncode == one.code == 1, done.stderr
  used = json.loads((tmp_path / "used.json").read_text())
  assert len(set(used)) >= 3 and "cpu:0" in used

  def said(text):
    return [line for line in text.splitlines() if not line.startswith("wrote")]

  assert said(done.stdout) == said(one.out)
  for name in ("a", "b", "d"):
    first, second = (nifti.read_label_nifti(tmp_path / out / f"{name}_seg.nii.gz") for out in ("one", "eight"))
    assert np.array_equal(first.array, second.array) and first.array.any()
    boxes = [json.loads((tmp_path / out / f"{name}_boxes.json").read_text()) for out in ("one", "eight")]
    assert boxes[0]["organs"] == boxes[1]["organs"]
  assert "c_ct.nii.gz" in done.stderr and not (tmp_path / "eight" / "c_seg.nii.gz").exists()


@pytest.fixture
def devices(monkeypatch):
  """Three that cannot be told to take anything."""
  import contextlib

  monkeypatch.setattr(many_scans.platform, "devices_for", lambda scans: ["x", "y", "z"] if scans > 1 else [])
  current = threading.local()

  @contextlib.contextmanager
  def on(device):
    current.name = device
    yield

  monkeypatch.setattr(many_scans.platform, "on", on)
  return current


def listed(names):
  return [(ListedScan(Path(name), name), name) for name in names]


def test_scans_go_to_the_devices_in_turn_each_with_one_thread(devices):
  began, go = [], threading.Event()

  def make(scan, title):
    began.append(title)
    assert go.wait(10)
    return title, devices.name, threading.get_ident()

  with many_scans.Makers(make, listed("abcdefgh")) as made:
    first = threading.Timer(0.2, go.set)
    first.start()
    results = [made(*each) for each in listed("abcdefgh")]
  assert [(title, device) for title, device, _ in results] == list(zip("abcdefgh", "xyzxyzxy", strict=True))
  assert len({(device, thread) for _, device, thread in results}) == 3
  assert set(began[:3]) == set("abc")


def test_a_scan_that_is_passed_over_holds_nobody_up_and_one_alone_is_made_here(devices):
  with many_scans.Makers(lambda scan, title: title, listed("abc")) as made:
    assert [made(*each) for each in (*listed("a"), *listed("c"))] == ["a", "c"]
  with many_scans.Makers(lambda scan, title: threading.get_ident(), listed("a")) as made:
    assert made(*listed("a")[0]) == threading.get_ident()
