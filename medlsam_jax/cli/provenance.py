"""Where a result comes from: hashes of weights and bank, settings, seed, versions. Nothing that changes by itself."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medlsam_jax.installation import version
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.network import Network
from medlsam_jax.platform import backend
from medlsam_jax.sam3d.cube_predictor import CubePredictor

if TYPE_CHECKING:
  from _typeshed import DataclassInstance

  from medlsam_jax.sam.predictor import Predictor

LIBRARIES = ("medlsam_jax", "jax", "jaxlib", "flax", "numpy", "scipy", "nibabel")


def of_network(network: Network) -> dict[str, str]:
  """Kind, source and hash of a network's weights, and of the published file that they came from, if any."""
  entry = {"kind": network.kind, "source": network.source, "sha256": network.sha256}
  if network.header.get("source_sha256"):
    entry["source_sha256"] = network.header["source_sha256"]
  return entry


def of_painter(predictor: Predictor | CubePredictor) -> dict[str, str]:
  """Of its network, or of an adapter file and the base's hash; and what products are made of, if not of float32."""
  if isinstance(predictor, CubePredictor):
    header = predictor.header
    base = {name: header[name] for name in ("base_kind", "base_sha256") if name in header}
    entry = {"kind": header["kind"]} | of_file(predictor.source) | base
  else:
    entry = of_network(predictor.network)
  return entry if predictor.operands == "float32" else entry | {"operands": predictor.operands}


def of_bank(bank: Bank, source: str) -> dict[str, object]:
  """Hash of a bank's arrays and what it was built from."""
  return {
    "source": source,
    "sha256": bank_sha256(bank),
    "mode": bank.mode,
    "interval_mm": bank.interval_mm,
    "working_grid": bank.convention,
    "templates": bank.templates,
    "built_with": bank.versions,
    "operands": bank.operands or "not said",
    "notes": list(bank.notes),
  }


def bank_sha256(bank: Bank) -> str:
  """Hash over what a search and a vote read of a bank: the same for one in memory and its file."""
  digest = hashlib.sha256(f"{bank.network_sha256}|{bank.convention}".encode())
  for name, organ in sorted(bank.organs.items()):
    digest.update(f"|{name}|{organ.value}|{organ.mode}|{','.join(organ.templates)}".encode())
    arrays = [organ.faces.astype(np.int32), organ.positions]
    arrays += [volume for _, volume in sorted(organ.features.items())]
    arrays += [array for crop in organ.crops if crop is not None for array in vars(crop).values()]
    for array in arrays:
      digest.update(f"|{array.shape}|".encode() + np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def of_file(path: str | os.PathLike[str]) -> dict[str, str]:
  """Name and hash of a file of boxes."""
  return {"source": str(path), "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


def of_settings(settings: DataclassInstance) -> dict[str, object]:
  """A settings dataclass as plain values."""
  return dataclasses.asdict(settings)


def of_machine() -> dict[str, str]:
  """Versions of what computed, and on what kind of device."""
  versions = {"python": platform.python_version(), "device": backend()}
  return versions | {name: version(name) for name in LIBRARIES}
