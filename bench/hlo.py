"""Collectives of a compiled program, read from its text."""

import dataclasses
import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\(([^)]*)\)")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_SOURCE = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation; a combined one has several operands."""

  kind: str
  sizes: tuple[int, ...]
  """Numbers in each operand, on one device."""
  operand_bytes: int
  source: str
  """The traced operation that it came from."""
  repeated: bool
  """Within a loop or a branch: the count of runs is not known."""

  @property
  def backward(self) -> bool:
    """Part of the gradient's computation."""
    return "transpose(" in self.source


def collectives(text: str) -> list[Collective]:
  """All collectives of `compiled.as_text()`; an asynchronous pair counts once."""
  shapes, found, entry = dict[str, str](), [], False
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
      source = _SOURCE.search(line)
      sizes = tuple(size for size, _ in arrays)
      total = sum(size * width for size, width in arrays)
      found.append(Collective(kind, sizes, total, source.group(1) if source else "", not entry))
  return found


def _arrays(shape: str) -> list[tuple[int, int]]:
  """Numbers, and bytes of one, of each array of a shape that may be a tuple."""
  return [
    (math.prod(int(edge) for edge in edges.split(",") if edge), _BYTES[dtype]) for dtype, edges in _ARRAY.findall(shape)
  ]
