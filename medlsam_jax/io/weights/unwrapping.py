"""Which dictionary of a checkpoint is the network, and its names without what training programs put before them.

Training programs save `{"state_dict": ...}`, `{"model": ..., "optimizer": ...}` and deeper, beside averaged weights and
optimizer states; parallel wrappers, compilers and trainers put `module.`, `_orig_mod.`, `model.`, `net.` before every
name, in any order. One rule for all: a network is where names end as those of a known kind do; what stands before is
taken off. Of two networks none is guessed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from medlsam_jax import display
from medlsam_jax.io.weights.kinds import ANCHORS
from medlsam_jax.io.weights.torch_pickle import RefusedError

T = TypeVar("T")

CONTAINER_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "ema", "model_ema")
"""Keys under which training programs keep a network's weights; they decide where names are of no known kind."""
WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""Parts of a name that wrappers of a whole network or of a part of it put in, and no published name has."""

_BOOKKEEPING = re.compile(r"optim|sched|scaler|callback|^lr_|^grad|^exp_avg", re.IGNORECASE)
_AVERAGED = re.compile(r"(^|_)(ema|swa|avg|averaged?|shadow)(_|$)", re.IGNORECASE)
_MAX_NESTING = 8
_SHOWN = 4
_MOST_NETWORKS = 16
_LONGEST_NAME = 1000
"""Bounds on the work that a hostile file can ask for."""


@dataclasses.dataclass(frozen=True)
class Network(Generic[T]):
  """The tensors of one network of a file."""

  place: tuple[str, ...]
  """Keys that lead to its dictionary, then the parts that were taken off each name."""
  tensors: dict[str, T]
  left_out: tuple[str, ...] = ()
  """Names of the same dictionary that do not have its prefix: a loss's buffers, say."""

  @property
  def title(self) -> str:
    """For messages."""
    return ".".join(self.place) or "the names without a prefix"

  @property
  def is_averaged(self) -> bool:
    """Whether a key or prefix says that these are averaged weights."""
    return any(_AVERAGED.search(part) for part in self.place)


def network_of(saved: object, kind: type[T], same: Callable[[T, T], bool]) -> tuple[Network[T], list[str]]:
  """The network in what a file holds, and what had to be decided, a sentence each.

  Args:
    saved: nested dictionaries.
    kind: of its tensors.
    same: whether two tensors are one, so that a network that is there twice is no choice.

  Raises:
    RefusedError: no network, several, or names that are one without their wrappers.
  """
  dictionaries = list(_dictionaries(saved, kind))
  known = [network for place, tensors in dictionaries for network in _known(place, tensors)]
  networks = _distinct(known or _unknown(dictionaries), same)
  if not networks:
    raise RefusedError(
      f"it holds no dictionary of named tensors, neither at the top nor in {', '.join(CONTAINER_KEYS)}; "
      "save the network's state_dict alone"
    )
  notes = []
  taken = networks[0]
  if len(networks) > 1:
    averaged = [network for network in networks if network.is_averaged]
    if len(networks) > 2 or len(averaged) != 1:
      titles = ", ".join(network.title for network in networks)
      raise RefusedError(f"it holds several networks ({titles}); save the wanted state_dict alone")
    taken = averaged[0]
    other = next(network for network in networks if network is not taken)
    notes.append(
      f"it holds two networks; {taken.title}, the averaged one, is taken, and {other.title} left out; "
      "save the other state_dict alone to have that"
    )
  if taken.left_out:
    names = display.some(taken.left_out, _SHOWN)
    notes.append(f"tensors that are not of the network {taken.title} are left out: {names}")
  return taken, notes


def _dictionaries(saved: object, kind: type[T]) -> Iterator[tuple[tuple[str, ...], dict[str, T]]]:
  """Every dictionary with named tensors and the keys that lead to it, from the top down; bookkeeping is passed over."""
  level: list[tuple[tuple[str, ...], object]] = [((), saved)]
  seen: set[int] = set()
  for _ in range(_MAX_NESTING):
    below: list[tuple[tuple[str, ...], object]] = []
    for place, content in level:
      if not isinstance(content, Mapping) or id(content) in seen:
        continue
      seen.add(id(content))
      named = {key: value for key, value in content.items() if isinstance(key, str)}
      tensors = {key: value for key, value in named.items() if isinstance(value, kind)}
      if tensors:
        yield place, tensors
      below += [((*place, key), value) for key, value in named.items() if not _BOOKKEEPING.search(key)]
    level = below


def _known(place: tuple[str, ...], tensors: Mapping[str, T]) -> list[Network[T]]:
  """One network for each prefix before a name that only networks of a known kind have."""
  prefixes = list(dict.fromkeys(prefix for name in tensors for prefix in _prefix(name)))
  if len(prefixes) > _MOST_NETWORKS:
    raise RefusedError(f"it holds {len(prefixes)} networks; save the wanted state_dict alone")
  longest_first = sorted(prefixes, key=len, reverse=True)
  groups: dict[str, dict[str, T]] = {prefix: {} for prefix in prefixes}
  rest = []
  for name, tensor in tensors.items():
    prefix = next((p for p in longest_first if name.startswith(p)), None)
    if prefix is None:
      rest.append(name)
    else:
      groups[prefix][name] = tensor
  return [
    Network((*place, *filter(None, prefix.split("."))), _cleaned(group, prefix), tuple(rest))
    for prefix, group in groups.items()
  ]


def _prefix(name: str) -> list[str]:
  """What stands before a known kind's name in this one; empty where it is none."""
  parts = name.split(".") if len(name) <= _LONGEST_NAME else []
  for anchor in ANCHORS:
    first = anchor.partition(".")[0]
    for start in range(len(parts)):
      if parts[start] == first and ".".join(p for p in parts[start:] if p not in WRAPPERS) == anchor:
        return ["".join(f"{part}." for part in parts[:start])]
  return []


def _cleaned(group: Mapping[str, T], prefix: str) -> dict[str, T]:
  """Names without a prefix and without wrappers of parts of the network."""
  result: dict[str, T] = {}
  for name, tensor in group.items():
    clean = ".".join(part for part in name.removeprefix(prefix).split(".") if part not in WRAPPERS)
    if clean in result:
      raise RefusedError(f"two of its tensors are called {clean} without their wrappers; save the state_dict again")
    result[clean] = tensor
  return result


def _unknown(dictionaries: list[tuple[tuple[str, ...], dict[str, T]]]) -> list[Network[T]]:
  """Where no name is of a known kind: what lies under the usual keys, else what lies at the top."""
  usual = [(place, d) for place, d in dictionaries if place and all(key in CONTAINER_KEYS for key in place)]
  top = [(place, d) for place, d in dictionaries if not place]
  networks = []
  for place, tensors in usual or top:
    while all(name.partition(".")[0] in WRAPPERS and "." in name and len(name) <= _LONGEST_NAME for name in tensors):
      shorter = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
      if len(shorter) < len(tensors):
        raise RefusedError("two of its tensors have one name without their wrappers; save the state_dict again")
      tensors = shorter
    networks.append(Network(place, tensors))
  return networks


def _distinct(networks: list[Network[T]], same: Callable[[T, T], bool]) -> list[Network[T]]:
  """Without those whose tensors are all another's."""
  if len(networks) > _MOST_NETWORKS:
    raise RefusedError(f"it holds {len(networks)} networks; save the wanted state_dict alone")
  kept: list[Network[T]] = []
  for network in networks:
    if not any(
      other.tensors.keys() == network.tensors.keys()
      and all(same(tensor, other.tensors[name]) for name, tensor in network.tensors.items())
      for other in kept
    ):
      kept.append(network)
  return kept
