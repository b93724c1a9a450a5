"""Stages beside each other: bounded memory, no scan lost, and an end in the middle."""

import gc
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from medlsam_jax.cohort import stages as module
from medlsam_jax.cohort.identity import Identity
from medlsam_jax.cohort.reader import About
from medlsam_jax.cohort.stages import Stages, Work
from medlsam_jax.errors import HungError, InputError, TimeLimitError
from medlsam_jax.geometry import Volume
from medlsam_jax.progress import within_limit

ABOUT = About(Identity(1, 1, 1, "x"), None, 0)


def scans(count):
  from medlsam_jax.io.scans import ListedScan

  return [ListedScan(Path(str(number)), str(number)) for number in range(count)]


@pytest.fixture
def source(make_grid):
  """Reads scans, and counts those that are alive."""

  class Source:
    alive, most, lock, wrong = 0, 0, threading.Lock(), ()

    def gone(self):
      with self.lock:
        self.alive -= 1

    def __call__(self, scan):
      if scan.name in self.wrong:
        raise InputError(f"{scan}: bad")
      volume = Volume(np.zeros((5, 6, 7), np.int16), make_grid())
      with self.lock:
        self.alive += 1
        self.most = max(self.most, self.alive)
      weakref.finalize(volume, self.gone)
      return volume, ABOUT

  return Source()


def test_every_scan_ends_once_and_memory_is_bounded(source):
  def slow_write(name):
    time.sleep(0.01)  # the slowest stage: what is before it must wait
    return name

  source.wrong = ("3", "17")
  work = Work([source, source], lambda scan, volume: (scan.name, volume), lambda made: slow_write(made[0]))
  with Stages(work, scans(40)) as stages:
    outcomes = list(stages)
  assert sorted(int(each.scan.name) for each in outcomes) == list(range(40))
  failed = [each for each in outcomes if each.error is not None]
  assert {each.scan.name for each in failed} == {"3", "17"} and all(str(each.error).endswith("bad") for each in failed)
  assert all(each.result == each.scan.name and each.about == ABOUT for each in outcomes if each.error is None)
  assert 2 <= source.most <= work.in_memory == 4
  gc.collect()
  assert source.alive == 0


def test_stages_work_at_the_same_time(source):
  met = threading.Barrier(3, timeout=10)

  def read(scan):
    if scan.name == "2":
      met.wait()
    return source(scan)

  def make(scan, volume):
    if scan.name == "1":
      met.wait()
    return scan.name

  def write(name):
    if name == "0":
      met.wait()
    return name

  with Stages(Work([read], make, write), scans(3)) as stages:
    assert [each.error for each in stages] == [None] * 3


def test_a_failure_on_the_device_or_in_writing_is_its_scans_alone(source):
  def make(scan, volume):
    if scan.name == "1":
      raise RuntimeError("boom")
    return scan.name

  def write(name):
    if name == "2":
      raise ValueError("full")
    return name

  with Stages(Work([source], make, write), scans(4)) as stages:
    said = {each.scan.name: (each.result, str(each.error or "")) for each in stages}
  assert said == {"0": ("0", ""), "1": (None, "boom"), "2": (None, "full"), "3": ("3", "")}


def test_leaving_in_the_middle_begins_nothing_more_and_leaves_no_thread(source):
  begun = []

  def make(scan, volume):
    begun.append(scan.name)
    time.sleep(0.02)
    return scan.name

  before = threading.active_count()
  with pytest.raises(KeyboardInterrupt), Stages(Work([source], make, str), scans(100)) as stages:
    for number, _ in enumerate(stages):
      if number == 2:
        raise KeyboardInterrupt
  assert len(begun) < 10 and threading.active_count() == before


def test_a_thread_for_each_device(source, monkeypatch):
  import contextlib

  here = threading.local()

  @contextlib.contextmanager
  def on(device):
    here.name = device
    yield

  monkeypatch.setattr(module.platform, "on", on)
  met = threading.Barrier(2, timeout=10)

  def make(scan, volume):
    if scan.name in "01":
      met.wait()
    return here.name

  with Stages(Work([source], make, str, devices=["x", "y"]), scans(6)) as stages:
    assert {each.result for each in stages} == {"x", "y"}


def painting(*slow):
  """A painter that tells how far it is, and that some scans keep for half a minute."""

  def make(scan, volume):
    tell = within_limit(None)
    for step in range(1500 if scan.name in slow else 1):
      time.sleep(0.02)
      if tell is not None:
        tell(step, 1500)
    return scan.name

  return make


def test_painting_that_takes_too_long_is_ended_and_the_next_scan_is_painted(source, monkeypatch):
  monkeypatch.setattr(module, "PATIENCE_S", 0.5)
  begun = time.monotonic()
  with Stages(Work([source], painting("0", "2"), str, seconds=0.25), scans(4)) as stages:
    ended = {each.scan.name: each for each in stages}
  assert time.monotonic() - begun < 10
  assert [ended[name].result for name in "0123"] == [None, "1", None, "3"]
  assert all(isinstance(ended[name].error, TimeLimitError) for name in "02")
  # the first one's programs may have to be compiled
  assert "longer than 0.75 s (--scan-seconds)" in str(ended["0"].error) and ended["0"].seconds["device"] > 0.75
  assert "longer than 0.25 s" in str(ended["2"].error) and 0.25 < ended["2"].seconds["device"] < 0.75


def test_without_a_limit_nothing_is_ended(source, monkeypatch):
  monkeypatch.setattr(module, "PATIENCE_S", 0.0)

  def make(scan, volume):
    time.sleep(0.5)
    assert within_limit(None) is None
    return scan.name

  with Stages(Work([source], make, str), scans(2)) as stages:
    assert [each.result for each in stages] == ["0", "1"]


@pytest.mark.parametrize("where", ["device", "write"])
def test_what_hangs_is_told_and_the_end_does_not_wait_for_it(source, monkeypatch, where):
  monkeypatch.setattr(module, "PATIENCE_S", 0.2)
  monkeypatch.setattr(module, "_LEAVE_S", 1.0)
  let_go, begun = threading.Event(), time.monotonic()

  def at(stage, name):
    if stage == where and name == "1":
      let_go.wait(60)
    return name

  with Stages(
    Work([source], lambda scan, _: at("device", scan.name), lambda name: at("write", name), seconds=0.3), scans(9)
  ) as stages:
    ended = [(each.scan.name, each.result, each.error) for each in stages]
  assert time.monotonic() - begun < 20
  *before, (name, result, error) = ended
  assert (name, result) == ("1", None) and isinstance(error, HungError) and "does not end" in str(error)
  assert ("0", "0", None) in before
  let_go.set()
