"""What the programs could reach at best on accelerators that are not at hand: work, bytes, time, per stage.

python -m bench.roofline [--width 24]

Each program is traced as it would run there (XLA's own convolution, patches in one batch) and lowered for the platform
without compiling; work is counted by XLA's cost analysis before optimisation, so that bytes are an upper bound: fusion
removes most passes over memory. The lower bound beside it lets every convolution read its operands and write its result
once, and nothing else touch memory. XLA counts a loop's body once; the one loop of the training step (over the warps
of a scan's patches) is a thousandth of its work.
"""

import argparse
import math
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from bench.chips import CHIPS, product_bytes
from bench.common import gflop_of
from medlsam_jax.medlam.network.medlam import MedLAM, init_variables
from medlsam_jax.medlam.pretraining.crops import Batch
from medlsam_jax.medlam.pretraining.settings import PretrainSettings
from medlsam_jax.medlam.pretraining.step import abstract_state, make_module, make_step
from medlsam_jax.train import sharding
from medlsam_jax.typed_settings import from_mapping

PATCHES = 6
SCALES = {"encoder and head": (), "to half resolution": (4, 2), "whole decoder": (4, 2, 1)}
SCANS, CHIPS_OF_RUN = 14_012, 256
"""The published training set, and the run of the last table: one scan, that is two patches, a chip and step."""


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__)
  parser.add_argument("--width", type=int, default=24, help="base channels of MedLAM (default: 24)")
  width = parser.parse_args().width
  console = Console(width=150)
  console.print(_stages(width))
  console.print(_training(width))


def _stages(width: int) -> Table:
  """Forward passes of localization."""
  module = MedLAM(base_channels=width, dtype=jnp.bfloat16)
  variables = jax.eval_shape(partial(init_variables, module), jax.random.key(0))
  patches = jax.ShapeDtypeStruct((PATCHES, 64, 64, 64, 1), jnp.float32)
  table = Table("stage", "chip", "TFLOP", "GB, no fusion", "ms by work", "ms by bytes")
  for stage, scales in SCALES.items():
    run = jax.jit(lambda v, p, scales=scales: module.apply(v, p, feature_scales=scales))
    for name, chip in CHIPS.items():
      cost = run.trace(variables, patches).lower(lowering_platforms=(chip.platform,)).cost_analysis()
      work, size = cost["flops"], cost["bytes accessed"]
      times = (f"{1e3 * work / chip.speed:.1f}", f"{1e3 * size / chip.bandwidth:.1f}")
      table.add_row(f"{stage}, {PATCHES} patches", name, f"{work / 1e12:.2f}", f"{size / 1e9:.1f}", *times)
  return table


def _training(width: int) -> Table:
  """A step of the published recipe with one scan a chip, and an epoch of the published training set."""
  network, data = {"base_channels": width, "dtype": "bfloat16"}, {"scans_per_step": 1}
  settings = from_mapping(PretrainSettings, {"network": network, "data": data})
  traced, gradient_bytes = _traced_step(settings)
  steps = math.ceil(SCANS / CHIPS_OF_RUN)
  columns = ("chip", "TFLOP", "GB, convolutions", "GB, no fusion", "ms by work", "ms by bytes", "ms all-reduce")
  views = 2 * settings.data.patches_per_scan
  direct = 3 * views * gflop_of(make_module(settings), (4, 2, 1)) / 1e3
  title = f"training step, width {width}, {views} views a chip; direct convolution alone: {direct:.2f} TFLOP"
  table = Table(*columns, f"s per {steps} steps", title=title)
  for name, chip in CHIPS.items():
    lowered = traced.lower(lowering_platforms=(chip.platform,))
    cost, least = lowered.cost_analysis(), product_bytes(lowered.as_text(), ("convolution",))
    work, most = cost["flops"] / chip.speed, cost["bytes accessed"] / chip.bandwidth
    reduce = 2 * (CHIPS_OF_RUN - 1) / CHIPS_OF_RUN * gradient_bytes / chip.network
    fastest = max(work, least / chip.bandwidth) + reduce
    cells = (cost["flops"] / 1e12, least / 1e9, cost["bytes accessed"] / 1e9, 1e3 * work)
    table.add_row(
      name, *(f"{cell:.2f}" for cell in cells), f"{1e3 * least / chip.bandwidth:.1f} to {1e3 * most:.0f}",
      f"{1e3 * reduce:.1f}", f"{steps * fastest:.1f} to {steps * (max(work, most) + reduce):.1f}",
    )  # fmt: skip
  return table


def _traced_step(settings: PretrainSettings) -> tuple[Any, int]:
  """The step for one device, traced, and the bytes of its gradient."""
  mesh = sharding.make_mesh(settings.mesh, jax.devices()[:1])
  state, data, edge = abstract_state(settings, mesh), settings.data, settings.network.cube_edge
  shape = (data.scans_per_step, data.patches_per_scan)
  batch = Batch(
    *(
      cast(Any, jax.ShapeDtypeStruct(shape + rest, jnp.float32, sharding=sharding.batch_sharding(mesh)))
      for rest in ((edge,) * 3, (3,))
    )
  )
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))
  return cast(Any, make_step(settings, mesh)).trace(state, batch), size


if __name__ == "__main__":
  main()
