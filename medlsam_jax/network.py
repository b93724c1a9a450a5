"""A network and its weights as one value: what `load` returns and what banks, searches and predictors take."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any, TypeAlias

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict

from medlsam_jax import display

Variables: TypeAlias = dict[str, Any]
"""Of a module: collections by name, `params` and what else it has, each a tree of arrays in dicts by name."""


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """A Flax module with the variables that fill it. Two networks are the same when their `sha256` are."""

  module: nn.Module
  variables: Variables
  """Collections by name: `params`, and `batch_stats` where batch norm is kept."""
  kind: str
  """`medlam`, `litemedsam`, `sam-vit-b`, ..."""
  source: str
  """Path or name it was loaded from, for messages and provenance."""
  header: dict[str, str] = dataclasses.field(default_factory=dict)
  """Metadata of the weights file: kind, settings, `source_sha256`."""

  ready: dict[str, Any] = dataclasses.field(init=False, default_factory=dict, repr=False)
  """What was made ready from this very value, such as compiled programs, and goes when it goes (`pipeline`)."""

  def __repr__(self) -> str:
    numbers = sum(leaf.size for leaf in flatten_dict(self.variables).values())
    return f"Network {self.source}: {self.kind} of {numbers:,} weights"

  def __getstate__(self) -> dict[str, Any]:
    """For another process, which makes ready what it needs."""
    return {**self.__dict__, "ready": {}}

  def _repr_html_(self) -> str:
    return display.html_table(repr(self), [["header", ""], *self.header.items()] if self.header else [])

  @property
  def params(self) -> Variables:
    """The trainable collection."""
    return self.variables["params"]

  @functools.cached_property
  def sha256(self) -> str:
    """Hash over the sorted tensors (name, dtype, shape, bytes): the same for the same weights in any file.

    Settings of the module are not part of it. Computed once, from host copies of the arrays.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten_dict(self.variables, sep=".").items()):
      array = np.asarray(leaf)
      digest.update(f"{name}|{array.dtype.name}|{array.shape}|".encode())
      digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
