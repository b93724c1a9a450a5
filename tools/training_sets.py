"""The prepared sets that the packaged network `open` learns from: real scans without labels, and phantoms.

python tools/training_sets.py ../shared/data sets [--processes N]

Writes sets/headneck, trunk, torso, heart and phantoms with 8-bit records, for `medlsam pretrain --config
configs/medlam.py:open`. ../shared/README.md says where the scans come from.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import io
import lzma
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medlsam_jax.io.scans import read_volume
from medlsam_jax.medlam.pretraining.crops import TrainingScan
from medlsam_jax.medlam.pretraining.prepare import write_set
from medlsam_jax.phantom.people import make_phantom
from medlsam_jax.working_grid import to_working_grid

PHANTOM_SEEDS = range(1000, 1048)
"""Those of the demo, the tests, validation and the probe are others."""
_BITS = 8
_ARCHIVED_ONE = 127
"""Intensity 1 in the archives."""


def main() -> None:
  """Writes the sets that are not there yet."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("shared", type=Path, help="the folder ../shared/data")
  parser.add_argument("out", type=Path)
  parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
  parser.add_argument("--phantoms", type=int, default=len(PHANTOM_SEEDS), metavar="N")
  arguments = parser.parse_args()
  data = arguments.shared
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(arguments.processes, mp_context=context) as pool:
    phantoms = pool.map(phantom, PHANTOM_SEEDS[: arguments.phantoms])
    sets = {
      "headneck": archived(data / "pretraining" / "headneck.npz.xz"),
      "trunk": archived(data / "pretraining" / "trunk.npz.xz"),
      "torso": [scan(data / "torso" / "real_ct.nii.gz")],
      "heart": [scan(data / "thorax" / "cta_ct.nii.gz")],
      "phantoms": phantoms,
    }
    for name, scans in sets.items():
      made = list(scans)
      write_set(made, str(arguments.out / name), _BITS)
      print(f"{arguments.out / name}: {len(made)} scans", flush=True)


def archived(path: Path) -> Iterator[TrainingScan]:
  """All scans of an archive of arrays (z, y, x) on the working grid."""
  with lzma.open(path) as file, np.load(io.BytesIO(file.read())) as arrays:
    for name in sorted(arrays):
      yield TrainingScan.of(name, arrays[name].astype(np.float32) / _ARCHIVED_ONE)


def scan(path: Path) -> TrainingScan:
  """One scan as it is."""
  return TrainingScan.of(path.name, to_working_grid(read_volume(path)).intensity)


def phantom(seed: int) -> TrainingScan:
  """One phantom."""
  return TrainingScan.of(f"phantom_{seed}", to_working_grid(make_phantom(seed).scan).intensity)


if __name__ == "__main__":
  main()
