"""Accelerators by their data sheets, and the least that a lowered program has to move through their memory."""

import dataclasses
import math
import re
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Chip:
  """From the makers' data sheets: bfloat16 operations, bytes of memory and bytes of the network, each a second."""

  platform: str
  speed: float
  bandwidth: float
  network: float
  """One way, of one chip."""


CHIPS = {
  # cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 819 GB/s, interconnect 400 GB/s both ways together
  "TPU v5e": Chip("tpu", 197e12, 0.819e12, 200e9),
  # cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 2765 GB/s, interconnect 4800 Gbit/s
  "TPU v5p": Chip("tpu", 459e12, 2.765e12, 600e9),
  # NVIDIA's H100 SXM5 (dense) and DGX H100 data sheets: one 400 Gbit/s adapter a GPU between machines
  "H100": Chip("cuda", 989e12, 3.35e12, 50e9),
}

_WIDTHS = {"f32": 4, "bf16": 2}


def product_bytes(text: str, operations: Sequence[str] = ("convolution", "dot_general")) -> int:
  """Bytes of the operands and results of all convolutions and other products of a lowered program."""
  arrays = r"\(tensor<(\S+)>, tensor<(\S+)>\) -> tensor<(\S+)>"
  found = re.findall(rf"stablehlo\.(?:{'|'.join(operations)})\b.*: {arrays}", text)
  return sum(_bytes(array) for each in found for array in each)


def _bytes(array: str) -> int:
  *edges, dtype = array.split("x")
  return math.prod(map(int, edges)) * _WIDTHS[dtype]
