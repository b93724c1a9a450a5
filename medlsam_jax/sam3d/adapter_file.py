"""Adapter files: one .safetensors of the trained parameters alone, whose header names the base by its hash.

The control, trained from scratch, has no base: its file holds all parameters and names none.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import NamedTuple

from flax.traverse_util import flatten_dict

from medlsam_jax import display
from medlsam_jax.errors import ConfigError, WeightsError
from medlsam_jax.io.weights.weights_file import read_header, read_weights, write_weights
from medlsam_jax.network import Network, Variables
from medlsam_jax.sam.network.sam import Sam
from medlsam_jax.sam3d.network.sam3d import Sam3D
from medlsam_jax.sam3d.network.variants import BASES, Sam3DVariant
from medlsam_jax.sam3d.parameters import base_params, shapes, split

KIND = "sam3d"


class Adapted(NamedTuple):
  """A base with its adapters: what `parameters.apply` takes, and the header of the file."""

  module: Sam3D
  trained: Variables
  frozen: Variables
  header: dict[str, str]


def write_adapters(
  path: str | os.PathLike[str], module: Sam3D, trained: Variables, base: Network | None, header: dict[str, str]
) -> None:
  """Writes trained parameters; `header` may say more than the kind, the sizes and the base, which are added.

  Without a base `trained` is everything that the module has.

  Raises:
    OutputError: the file cannot be written.
    ValueError: parameters other than the module's trained ones: a defect of the caller.
  """
  if problems := _misfits(module, trained, base is None):
    raise ValueError(f"not the trained parameters of {module.variant.name}: {display.some(problems)}")
  sizes = {f.name: getattr(module.variant, f.name) for f in dataclasses.fields(Sam3DVariant) if f.name != "base"}
  of_base = {"base_kind": module.variant.base.name}
  if base is not None:
    of_base = {"base_kind": base.kind, "base_source": base.source, "base_sha256": base.sha256}
  own = {"kind": KIND, **of_base, "sizes": json.dumps(sizes)}
  write_weights(path, {"params": dict(trained)}, {**header, **own})


def read_adapters(path: str | os.PathLike[str] | None, base: Network | None) -> Adapted:
  """Reads adapters and joins them to their base.

  Args:
    path: a file of `write_adapters`.
    base: the network that they were trained on, loaded with `for_training=True`; None for a file that has none.

  Raises:
    WeightsError: no file is given, it is damaged, no adapter file, or its adapters were trained on another base.
  """
  if path is None:
    raise WeightsError(
      f"{'a network' if base is None else base.source} by itself has no weights for volumes: give trained adapters of "
      "it, a .safetensors file that `medlsam finetune --model sam3d-...` writes (or segment slice by slice, which "
      "needs none)"
    )
  variables, header = read_weights(path)
  if header["kind"] != KIND:
    raise WeightsError(f"{path}: weights of a {header['kind']} network; give an adapter file, of kind {KIND}")
  has_base = "base_sha256" in header
  if has_base and (base is None or header["base_sha256"] != base.sha256):
    given = "none is given" if base is None else f"{base.source} ({base.kind}) has {base.sha256[:16]}..."
    raise WeightsError(
      f"{path}: adapters of another base: they were trained on {header.get('base_kind')} weights with SHA-256 "
      f"{header['base_sha256'][:16]}..., and {given}; give those weights, or adapters trained on these"
    )
  module = Sam3D(_variant(header, base, str(path)))
  trained = variables.get("params", {})
  if problems := _misfits(module, trained, not has_base):
    raise WeightsError(
      f"{path}: does not hold the trained parameters of {module.variant.name}: {display.some(problems)}"
    )
  frozen = split(base_params(module, base))[1] if has_base and base is not None else {}
  return Adapted(module, trained, frozen, header)


def base_of(path: str | os.PathLike[str]) -> str | None:
  """Name or file of the base that adapters were trained on, as it was given then; None: they have none.

  Raises:
    WeightsError: the file is damaged or no adapter file.
  """
  header = read_header(path)
  if header.get("kind") != KIND:
    raise WeightsError(f"{path}: weights of a {header.get('kind')} network; give an adapter file, of kind {KIND}")
  return header.get("base_source", header.get("base_kind")) if "base_sha256" in header else None


def _variant(header: Mapping[str, str], base: Network | None, source: str) -> Sam3DVariant:
  if base is not None and not isinstance(base.module, Sam):
    raise WeightsError(f"{base.source}: a {base.kind} network is no base of adapters; give one such as litemedsam")
  try:
    sizes = json.loads(header["sizes"])
    of_base = base.module.variant if base is not None and isinstance(base.module, Sam) else BASES[header["base_kind"]]
    return Sam3DVariant(base=of_base, **{**sizes, "taps": tuple(sizes["taps"])})
  except (KeyError, TypeError, ValueError, ConfigError, AttributeError) as error:
    raise WeightsError(f"{source}: its header does not give the sizes of a network ({error})") from error


def _misfits(module: Sam3D, trained: Variables, is_all: bool) -> list[str]:
  """Names that are missing, strange or of another shape than the module's trained parameters, or all that it has."""
  own = shapes(module) if is_all else split(shapes(module))[0]
  wanted = {name: leaf.shape for name, leaf in flatten_dict(own, sep="/").items()}
  given = {name: leaf.shape for name, leaf in flatten_dict(trained, sep="/").items()}
  return sorted(dict(wanted.items() ^ given.items()))
