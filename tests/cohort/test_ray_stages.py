"""What a cluster gives back counts once, what it loses is told, and all that travels can be sent; without Ray."""

import pickle
import socket
import sys
import threading
import types
import warnings
from pathlib import Path

import pytest

from medlsam_jax.cohort.identity import Identity
from medlsam_jax.cohort.outcome import STAGES, MachineError, Outcome, ScanError, Worker, Written
from medlsam_jax.cohort.ray_stages import RayOptions, RayStages, connected
from medlsam_jax.cohort.ray_worker import Actor, Orders, Packed
from medlsam_jax.cohort.reader import Limits, NoReaderError
from medlsam_jax.cohort.throughput import Throughput
from medlsam_jax.errors import ConfigError, OutputError
from medlsam_jax.installation import version
from medlsam_jax.io.scan_result import ScanResult, write_files
from medlsam_jax.io.scans import ListedScan, ReadingOptions, list_scans, read_volume
from medlsam_jax.notices import warn

SCANS = [ListedScan(Path(f"/{name}_ct.nii.gz"), name) for name in "abcd"]


def packed(scan, text=b"x", **known):
  return Outcome(scan, result=Packed({f"{scan.name}.txt": text}, Written({"liver": "found"}, ())), **known)


@pytest.fixture
def stages():
  """Stages of which a cluster's answers are given, pass by pass; gives them and what was written."""

  def make(*passes, publish=None):
    written, asked = [], []

    class Answered(RayStages):
      def _outcomes(self, scans, at_once):
        asked.append(([scan.name for scan in scans], at_once))
        yield from passes[len(asked) - 1]

    def keep(result):
      written.append(result.files)
      return result.written

    orders = Orders(None, ReadingOptions(), Limits(), 1, "0")
    return Answered(RayOptions("auto"), orders, SCANS, publish or keep), written, asked

  return make


def test_a_scan_that_comes_twice_is_written_and_recorded_once(stages):
  a, b, c, d = SCANS
  run, written, asked = stages([packed(b), packed(a), packed(b, b"late"), packed(d), packed(c)], [])
  with run:
    outcomes = list(run)
  assert [each.scan for each in outcomes] == [b, a, d, c] and all(each.error is None for each in outcomes)
  assert written == [{f"{name}.txt": b"x"} for name in "badc"]
  assert asked == [(list("abcd"), 3), ([], 1)]


def test_what_is_lost_is_tried_once_more_each_alone_and_then_told(stages):
  a, b, c, d = SCANS
  run, written, asked = stages([packed(a), packed(d)], [packed(b)])
  outcomes = list(run)
  assert asked[1] == (["b", "c"], 1) and len(written) == 3
  assert [each.scan for each in outcomes] == [a, d, b, c]
  assert outcomes[3].result is None and "died or vanished" in outcomes[3].reason


def test_what_cannot_be_written_is_that_scans_error(stages):
  def publish(result):
    raise OutputError("full")

  run, _, _ = stages([packed(scan) for scan in SCANS], [], publish=publish)
  assert {each.reason for each in run} == {"full"}


def test_an_outcome_travels_with_its_error():
  identity = Identity(1, 1, 1, "x")
  error = ScanError("/a_ct.nii.gz: no scan", identity, "Traceback ...")
  there = pickle.loads(pickle.dumps(Outcome(SCANS[0], error=error, seconds={"read": 1.0}, warned=("odd",))))
  assert (there.reason, there.defect, there.identity) == ("no scan", "Traceback ...", identity)
  assert there.warned == ("odd",) and isinstance(pickle.loads(pickle.dumps(NoReaderError("none"))), MachineError)


def test_workers_are_counted_with_their_memory():
  speed = Throughput()
  for scan, name, size in zip(SCANS, "xyx", (1 << 20, 5 << 20, 3 << 20), strict=False):
    speed.add(packed(scan, worker=Worker(name, size), seconds={"device": 1.0}))
  assert speed.numbers()["devices"] == 2 and speed.numbers()["worker_peak_memory_mib"] == 5
  assert "of 2 workers 5 at most" in speed.sentence()


@pytest.mark.parametrize("text", ["", "4", "CPU", "CPU=4,GPU", "CPU=0", "CPU=-1", "CPU=4,CPU=4", "=4"])
def test_what_no_actor_can_take_is_refused(text):
  with pytest.raises(ConfigError, match="CPU=8,GPU=1"):
    RayOptions.of("auto", text)


def test_what_an_actor_takes():
  assert RayOptions.of("auto", "CPU=4, GPU=0.5").actor == {"CPU": 4, "GPU": 0.5}
  assert RayOptions.of("auto", None).actor is None


def test_without_ray_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "ray", None)
  with pytest.raises(ConfigError, match=r"packages that are not here \(ray\); run: pip install .*ray"):
    connected(RayOptions("auto")).__enter__()


def test_networks_banks_and_predictors_can_be_sent(mini_templates, small_network_file, mini_queries):
  import numpy as np

  import medlsam_jax as ml

  network = ml.load(small_network_file)
  bank = ml.Bank.build(network, ml.read_templates(mini_templates), "WPL", organs=["alpha"])
  scan = ml.read_volume(mini_queries / "q0_ct.nii.gz")
  before = ml.localize(network, bank, scan)["alpha"]
  network.ready["program"] = lambda: None
  sent, sent_bank = pickle.loads(pickle.dumps((network, bank)))
  after = ml.localize(sent, sent_bank, scan)["alpha"]
  assert sent.sha256 == network.sha256 and np.array_equal(after.points, before.points)
  assert network.ready and "program" not in sent.ready


def test_a_terminal_that_is_sent_is_quiet_and_a_rehearsal_one_of_nothing():
  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.rehearsal import Rehearsal

  assert pickle.loads(pickle.dumps(Terminal())).quiet
  pickle.loads(pickle.dumps(Rehearsal(lambda: None))).wait()


@pytest.fixture
def actor(monkeypatch):
  """Makes an actor of this process, with as much of Ray as it asks."""
  ray = types.SimpleNamespace(
    get=lambda reference: reference(),
    get_runtime_context=lambda: types.SimpleNamespace(get_actor_id=lambda: "actor"),
  )
  monkeypatch.setitem(sys.modules, "ray", ray)
  workers = []
  with warnings.catch_warnings():

    def make(orders):
      workers.append(worker := Actor(lambda: orders))
      return lambda scan: pickle.loads(worker({"scan": pickle.dumps(scan)})["outcome"])

    yield make
  for worker in workers:
    while not worker._readers.empty():
      worker._readers.get().close()


def test_an_actor_packs_results_and_tells_failures_in_words(actor, mini_queries, tmp_path):
  (tmp_path / "letter_ct.nii.gz").write_text("a letter")

  def make(listed, volume):
    if listed.name == "q1":
      raise RuntimeError("boom")
    warn("odd")
    return ScanResult(listed.name, volume, {}), {}

  call = actor(Orders(make, ReadingOptions(), Limits(60.0), 1, version()))
  good, broken, bad = map(call, list_scans(mini_queries, tmp_path))
  assert set(good.result.files) == {"q0_boxes.json", "q0_boxes.mrk.json", "q0_preview.png"} and good.error is None
  assert good.warned == ("odd",) and good.worker.name == "actor" and list(good.seconds) == list(STAGES)
  write_files(tmp_path / "out", good.result.files)
  good_volume = read_volume(mini_queries / "q0_ct.nii.gz")
  ScanResult("q0", good_volume, {}).write(tmp_path / "plain", {})
  assert all((tmp_path / "plain" / name).read_bytes() == content for name, content in good.result.files.items())
  assert broken.reason == "a defect of medlsam: RuntimeError: boom" and "in make" in broken.defect
  assert bad.reason.startswith("not a NIfTI") and len(bad.identity.sha256) == 64


def test_a_machine_with_another_version_does_nothing_and_is_named(actor):
  outcome = actor(Orders(None, ReadingOptions(), Limits(), 1, "0.0"))(SCANS[0])
  assert isinstance(outcome.error, MachineError)
  assert outcome.reason == f"{socket.gethostname()}: has medlsam {version()}, where the run was called has 0.0"


def test_an_actor_that_hangs_ends_itself(monkeypatch):
  from medlsam_jax.cohort import ray_worker

  ended = threading.Event()
  monkeypatch.setattr(ray_worker, "PATIENCE_S", 0.0)
  monkeypatch.setattr(ray_worker.os, "_exit", lambda code: ended.set())
  with ray_worker._dies_if_it_hangs(30.0):
    pass
  with ray_worker._dies_if_it_hangs(0.01):
    assert ended.wait(30)
