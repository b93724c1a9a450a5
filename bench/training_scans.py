"""Scans to train on in two forms: a prepared set for ours, NIfTI files of the working grid for the peer.

Made once from phantoms and kept in `out/bench_scans`.
"""

import dataclasses
from pathlib import Path

import nibabel
import numpy as np

from medlsam_jax.geometry import WORKING_SPACING_MM
from medlsam_jax.medlam.pretraining.prepare import prepare
from medlsam_jax.medlam.pretraining.shards import INDEX
from medlsam_jax.phantom.people import make_phantom
from medlsam_jax.working_grid import to_working_grid

FOLDER = Path("out/bench_scans")
SCANS = 4


@dataclasses.dataclass(frozen=True)
class TrainingScans:
  """Where they lie: the prepared set, and the peer's files."""

  prepared: str
  peers: tuple[Path, ...]


def training_scans() -> TrainingScans:
  """The phantoms, made where they are missing."""
  seeds = range(1, SCANS + 1)
  raw = tuple(FOLDER / f"phantom_{seed}_ct.nii.gz" for seed in seeds)
  peers = tuple(FOLDER / "peer" / f"phantom_{seed}.nii.gz" for seed in seeds)
  (FOLDER / "peer").mkdir(parents=True, exist_ok=True)
  for seed, ct, working in zip(seeds, raw, peers, strict=True):
    if ct.exists() and working.exists():
      continue
    scan = make_phantom(seed).scan
    nibabel.save(nibabel.Nifti1Image(scan.array.transpose(2, 1, 0).astype(np.int16), scan.grid.affine), ct)
    intensity = to_working_grid(scan).intensity
    nibabel.save(nibabel.Nifti1Image(intensity, np.diag([WORKING_SPACING_MM] * 3 + [1])), working)
  prepared = FOLDER / "prepared"
  if not (prepared / INDEX).exists():
    prepare(raw, str(prepared))
  return TrainingScans(str(prepared), peers)
