"""What a run learns from: prepared sets, scans that it names, and phantoms made on the spot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import cast

from medlsam_jax.errors import ConfigError
from medlsam_jax.io.scans import ReadingOptions, list_scans
from medlsam_jax.medlam.pretraining.crop_batches import Prepared
from medlsam_jax.medlam.pretraining.crops import TrainingScan
from medlsam_jax.medlam.pretraining.settings import DataSettings
from medlsam_jax.medlam.pretraining.shards import read_index
from medlsam_jax.phantom.people import make_phantom
from medlsam_jax.train.loading import DataSet, InMemory
from medlsam_jax.working_grid import to_working_grid

Progress = Callable[[str], None]


def data_sets(data: DataSettings, progress: Progress = lambda name: None) -> list[DataSet[TrainingScan]]:
  """The sets of `data`, each with how often it is drawn.

  Raises:
    ConfigError: there is nothing to learn from, or the weights do not match the scans or sets.
    InputError: a scan or an index cannot be used.
  """
  sets: list[DataSet[TrainingScan]] = []
  indices = [read_index(place) for place in data.index]
  for index, weight in zip(indices, _weights(data.index_weights, len(indices), "index"), strict=True):
    sets.append(Prepared(index, float(len(index.scans)) if weight is None else weight, data.cache))
  listed = list_scans(*data.scans)
  weights = _weights(data.scan_weights, len(listed), "scan")
  options = ReadingOptions(data.series or None, data.hu_offset or None)
  scans = []
  for scan in listed:
    progress(scan.name)
    volume = options.read(scan, alone=len(listed) == 1)
    scans.append(TrainingScan.of(scan.name, to_working_grid(volume).intensity))
  if data.scan_weights:
    sets += [InMemory((scan,), weight or 0.0) for scan, weight in zip(scans, weights, strict=True)]
  elif scans:
    sets.append(InMemory(tuple(scans), float(len(scans))))
  if data.phantoms:
    phantoms = phantom_scans(data.first_phantom_seed, data.phantoms, progress)
    sets.append(InMemory(tuple(phantoms), float(len(phantoms))))
  if not sets:
    raise ConfigError("nothing to learn from: give data.index, data.scans, or a number of data.phantoms")
  return sets


def _weights(given: tuple[float, ...], count: int, what: str) -> list[float | None]:
  if given and len(given) != count:
    raise ConfigError(f"data.{what}_weights has {len(given)} values for {count}")
  return list(given) or [None] * count


def fingerprint(data: DataSettings, sets: list[DataSet[TrainingScan]]) -> str:
  """Names what is drawn from, so that a resumed run can tell whether it is still the same."""
  told: list[object] = [
    [
      s.index.fingerprint if isinstance(s, Prepared) else [c.name for c in cast(InMemory[TrainingScan], s).items],
      s.weight,
    ]
    for s in sets
  ]
  told += [data.scans_per_step, data.patches_per_scan, data.crops_per_scan]
  if data.series or data.hu_offset:
    told += [data.series, data.hu_offset]
  return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def phantom_scans(first_seed: int, count: int, progress: Progress = lambda name: None) -> list[TrainingScan]:
  """`count` phantoms from consecutive seeds."""
  scans = []
  for seed in range(first_seed, first_seed + count):
    progress(f"phantom {seed}")
    scans.append(TrainingScan.of(f"phantom_{seed}", to_working_grid(make_phantom(seed).scan).intensity))
  return scans
