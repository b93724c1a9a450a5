"""Pre-training against the published loop: a step with its data, and the loaders alone."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bench.common import HAVE_TORCH, Row
from bench.timing import mean_seconds, seconds
from bench.training_scans import TrainingScans, training_scans
from medlsam_jax.data import loader
from medlsam_jax.training import sharding
from medlsam_jax.training.scans import data_sets
from medlsam_jax.training.settings import PretrainSettings, from_mapping
from medlsam_jax.training.step import init_state, make_step

PAIRS = 2
"""Scans of a step, with two patches each."""
STEPS = {8: 4, 24: 2}
"""Timed steps with data, by width."""
OURS_CROPS, PEER_CROPS = 400, 40
PEER_WORKERS = 2
TARGET_STEP, TARGET_LOADER = 0.5, 0.05


def published(width: int, prepared: str) -> PretrainSettings:
  """The published recipe in float32, two scans a step."""
  data = {"index": [prepared], "scans_per_step": PAIRS}
  return from_mapping(PretrainSettings, {"network": {"base_channels": width}, "data": data})


def source(settings: PretrainSettings, steps: int) -> loader.BatchSource:
  """What `medlsam pretrain` reads on one machine."""
  data = settings.data
  plan = loader.Plan(settings.seed, data.scans_per_step, data.patches_per_scan, 1, settings.network.cube_edge)
  return loader.BatchSource(data_sets(data), plan, range(data.scans_per_step), steps)


def step() -> Iterator[Row]:
  """Four forwards, UAM and MSS, backward and Adam: with the data of each step, and on one batch again and again."""
  scans = training_scans()
  for width, steps in STEPS.items():
    ours, ours_alone = _our_step(published(width, scans.prepared), steps)
    theirs, theirs_alone = _their_step(width, scans, steps) if HAVE_TORCH else (None, None)
    name = f"training step, width {width}, {PAIRS} pairs"
    note = f"mean of {steps} steps; peer: {PEER_WORKERS} loader processes"
    yield Row(f"{name}, data included", ours, theirs, TARGET_STEP, note=note)
    note = "warps are part of ours, and not of the peer's here"
    yield Row(f"{name}, on one batch", ours_alone, theirs_alone, note=note)


def _our_step(settings: PretrainSettings, steps: int) -> tuple[float, float]:
  """Seconds of a step with and without data."""
  mesh, data = sharding.make_mesh(settings.mesh), settings.data
  state, update = init_state(settings, mesh), make_step(settings, mesh)
  ahead = loader.batches(source(settings, 100), 0, data.threads)

  def run(batch: Any = None) -> Any:
    nonlocal state  # the state given is donated
    batch = sharding.put_batch(next(ahead), PAIRS, mesh) if batch is None else batch
    state, metrics = update(state, batch)
    return metrics

  same = sharding.put_batch(next(ahead), PAIRS, mesh)
  alone = seconds(partial(run, same), 1)
  return mean_seconds(run, steps), alone


def _their_step(width: int, scans: TrainingScans, steps: int) -> tuple[float, float]:
  from bench import peer_training

  training = peer_training.PeerTraining(width)
  # the workers stay ahead by as many batches after the timed steps as before them
  ahead = peer_training.batches(scans.peers, PAIRS, steps + 1 + PEER_WORKERS, PEER_WORKERS)
  same = next(ahead)
  alone = seconds(partial(training.step, same), 1)
  return mean_seconds(lambda: training.step(next(ahead)), steps), alone


def crops() -> Iterator[Row]:
  """Crops of random scans in one thread: what a loader's processes have to make for each step."""
  scans = training_scans()
  taken = _our_crops(published(8, scans.prepared))
  theirs = plain = None
  if HAVE_TORCH:
    theirs, plain = (_their_crops(scans, augment) for augment in (True, False))
  note = f"{100 / taken:.0f} crops a second and core; ours are warped on the device, in the step"
  if theirs is not None and plain is not None:
    note += f"; peer {100 / theirs:.1f}, without its warps {100 / plain:.0f}"
  yield Row("loader, 100 crops, one core", taken, theirs, TARGET_LOADER, note=note)


def _our_crops(settings: PretrainSettings) -> float:
  """Seconds of 100 crops; each scan is opened anew, as in a large set."""
  steps = OURS_CROPS // (PAIRS * settings.data.patches_per_scan)
  batches = source(settings, steps)
  next(loader.batches(batches, 0, threads=0))
  return seconds(lambda: sum(len(b.cubes) for b in loader.batches(batches, 0, threads=0)), 2) * 100 / OURS_CROPS


def _their_crops(scans: TrainingScans, augment: bool) -> float:
  import SimpleITK
  import torch

  from bench.peer_training import PeerScans

  threads, itk = torch.get_num_threads(), SimpleITK.ProcessObject
  itk_threads = itk.GetGlobalDefaultNumberOfThreads()
  torch.set_num_threads(1)
  itk.SetGlobalDefaultNumberOfThreads(1)
  torch.manual_seed(0)
  items = PeerScans(scans.peers, PEER_CROPS // 2, augment)
  try:
    return seconds(lambda: sum(len(items[i]["plain"]) for i in range(len(items))), 1, warm=False) * 100 / PEER_CROPS
  finally:
    torch.set_num_threads(threads)
    itk.SetGlobalDefaultNumberOfThreads(itk_threads)


STAGES: dict[str, Callable[[], Iterator[Row]]] = {"step": step, "loader": crops}
