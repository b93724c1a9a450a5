"""Pre-training against the published loop: a step with its data, and the loaders alone."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax

from bench.common import HAVE_TORCH, Row, gflop_of
from bench.timing import mean_seconds, seconds
from bench.training_scans import TrainingScans, training_scans
from medlsam_jax.medlam.network.medlam import MedLAM
from medlsam_jax.medlam.pretraining import crop_batches
from medlsam_jax.medlam.pretraining.data_sets import data_sets
from medlsam_jax.medlam.pretraining.settings import PretrainSettings
from medlsam_jax.medlam.pretraining.step import init_state, make_step
from medlsam_jax.train import loading, sharding
from medlsam_jax.typed_settings import from_mapping

PAIRS = 2
"""Scans of a step, with two patches each."""
STEPS = {8: 4, 24: 1}
"""Timed steps with data, by width."""
PARTS = {8: 1, 24: 2}
"""Parts that the pairs of a step go through one after the other: at width 24 both at once take over 13 GB."""
OURS_CROPS, PEER_CROPS = 400, 40
PEER_WORKERS = 2
WARM = 4
TARGET_STEP, TARGET_LOADER = 0.5, 0.05


def published(width: int, prepared: str) -> PretrainSettings:
  """The published recipe in float32, two scans a step."""
  data, optimizer = {"index": [prepared], "scans_per_step": PAIRS}, {"accumulate": PARTS[width]}
  return from_mapping(PretrainSettings, {"network": {"base_channels": width}, "data": data, "optimizer": optimizer})


def source(settings: PretrainSettings, steps: int) -> crop_batches.CropBatches:
  """What `medlsam pretrain` reads on one machine."""
  data = settings.data
  plan = crop_batches.Plan(settings.seed, data.scans_per_step, data.patches_per_scan, 1, settings.network.cube_edge)
  return crop_batches.CropBatches(data_sets(data), plan, range(data.scans_per_step), steps)


def step(width: int) -> Iterator[Row]:
  """Four forwards, UAM and MSS, backward and Adam: with the data of each step, and on one batch again and again."""
  scans, steps = training_scans(), STEPS[width]
  ours, ours_alone = _timed(our_step(published(width, scans.prepared)), steps)
  theirs, theirs_alone = _timed(their_step(width, scans, steps), steps) if HAVE_TORCH else (None, None)
  name = f"training step, width {width}, {PAIRS} pairs"
  split = f" in {PARTS[width]} parts" if PARTS[width] > 1 else ""
  note = f"mean of {steps} step(s){split}; peer: {PEER_WORKERS} loader processes"
  # forward and backward of two views of each patch
  work = 3 * 4 * PAIRS * gflop_of(MedLAM(base_channels=width), (4, 2, 1))
  yield Row(f"{name}, data included", ours, theirs, TARGET_STEP, work, note=note)
  note = "ours warps its views in the step, the peer's are ready"
  yield Row(f"{name}, on one batch", ours_alone, theirs_alone, None, work, note=note)


def _timed(run: Callable[[bool], Any], steps: int) -> tuple[float, float]:
  """Seconds of a step with the next batch and with the same one. The first runs are slow: fresh memory costs most."""
  for _ in range(WARM):
    jax.block_until_ready(run(False))
  return mean_seconds(partial(run, True), steps), seconds(partial(run, False), 1, warm=False)


def our_step(settings: PretrainSettings) -> Callable[[bool], Any]:
  """A step on the next batch, or on the first one again."""
  mesh, data = sharding.make_mesh(settings.mesh), settings.data
  state, update = init_state(settings, mesh), make_step(settings, mesh)
  ahead = loading.batches(source(settings, 100), 0, data.threads)
  same = sharding.put_batch(next(ahead), PAIRS, mesh)

  def run(fresh: bool) -> Any:
    nonlocal state  # the state given is donated
    state, metrics = update(state, sharding.put_batch(next(ahead), PAIRS, mesh) if fresh else same)
    return metrics

  return run


def their_step(width: int, scans: TrainingScans, steps: int) -> Callable[[bool], Any]:
  """As `our_step`."""
  from bench import peer_loader, peer_training

  training = peer_training.PeerTraining(width)
  # the workers stay ahead by as many batches after the timed steps as before them
  ahead = peer_loader.batches(scans.peers, PAIRS, steps + 1 + PEER_WORKERS, PEER_WORKERS)
  same = next(ahead)
  return lambda fresh: training.step(next(ahead) if fresh else same, PARTS[width])


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
  next(loading.batches(batches, 0, threads=0))
  return seconds(lambda: sum(len(b.cubes) for b in loading.batches(batches, 0, threads=0)), 2) * 100 / OURS_CROPS


def _their_crops(scans: TrainingScans, augment: bool) -> float:
  import SimpleITK
  import torch

  from bench.peer_loader import PeerScans

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


STAGES: dict[str, Callable[[], Iterator[Row]]] = {
  "step": partial(step, 8), "step-wide": partial(step, 24), "loader": crops,
}  # fmt: skip
