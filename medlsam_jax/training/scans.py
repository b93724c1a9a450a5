"""What a run learns from, in memory: the scans it names and the phantoms it asks for, on the working grid."""

from __future__ import annotations

from collections.abc import Callable

from medlsam_jax.data.ct import to_working_grid
from medlsam_jax.data.pairs import TrainingScan
from medlsam_jax.data.phantom import make_phantom
from medlsam_jax.data.scans import list_scans, read_volume, scan_name
from medlsam_jax.errors import ConfigError
from medlsam_jax.training.settings import DataSettings


def training_scans(data: DataSettings, progress: Callable[[str], None] = lambda name: None) -> list[TrainingScan]:
  """All training scans of `data`, scans first.

  Raises:
    ConfigError: there is nothing to learn from, or the weights do not match the scans.
    InputError: a scan cannot be used.
  """
  paths = [path for entry in data.scans for path in list_scans(entry)]
  weights = data.scan_weights or (1.0,) * len(paths)
  if len(weights) != len(paths):
    raise ConfigError(f"data.scan_weights has {len(weights)} values for {len(paths)} scans")
  scans = []
  for path, weight in zip(paths, weights, strict=True):
    progress(scan_name(path))
    scans.append(TrainingScan.of(scan_name(path), to_working_grid(read_volume(path)).intensity, weight))
  scans += phantom_scans(data.first_phantom_seed, data.phantoms, progress)
  if not scans:
    raise ConfigError("nothing to learn from: give data.scans, or a number of data.phantoms")
  return scans


def phantom_scans(
  first_seed: int, count: int, progress: Callable[[str], None] = lambda name: None
) -> list[TrainingScan]:
  """`count` phantoms from consecutive seeds, each with weight 1 in the draw."""
  scans = []
  for seed in range(first_seed, first_seed + count):
    progress(f"phantom {seed}")
    scans.append(TrainingScan.of(f"phantom_{seed}", to_working_grid(make_phantom(seed).scan).intensity))
  return scans
