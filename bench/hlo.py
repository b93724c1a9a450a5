"""Collectives of a compiled program, read from its text."""

import dataclasses
import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\(([^)]*)\)")
_ARRAY = re.compile(r"\b[a-z]+\d*\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation; a combined one has several operands."""

  kind: str
  sizes: tuple[int, ...]
  """Numbers in each operand, on one device."""
  repeated: bool
  """Within a loop or a branch: the count of runs is not known."""


def collectives(text: str) -> list[Collective]:
  """All collectives of `compiled.as_text()`; an asynchronous pair counts once."""
  shapes, result, entry = dict[str, str](), [], False
  for line in text.splitlines():
    if line and not line[0].isspace():
      entry = line.startswith("ENTRY")
    match = _INSTRUCTION.match(line)
    if match is None:
      continue
    name, shape, operation, operands = match.groups()
    shapes[name] = shape
    kind = operation.removesuffix("-start")
    if kind in KINDS:
      arrays = [array for operand in re.findall(r"%([\w.-]+)", operands) for array in _arrays(shapes[operand])]
      result.append(Collective(kind, tuple(arrays), not entry))
  return result


def _arrays(shape: str) -> list[int]:
  """Numbers of each array of a shape that may be a tuple."""
  return [math.prod(int(edge) for edge in edges.split(",") if edge) for edges in _ARRAY.findall(shape)]
