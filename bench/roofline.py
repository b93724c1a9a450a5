"""What the programs could reach at best on accelerators that are not at hand: work, bytes, time, per stage.

python -m bench.roofline [--width 24]

Each program is traced as it would run there (XLA's own convolution, patches in one batch) and lowered for the platform
without compiling; work is counted by XLA's cost analysis before optimisation, so that bytes are an upper bound: fusion
removes most passes over memory.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from medlsam_jax.models.medlam import MedLAM, init_variables

CHIPS = {"TPU v5e": ("tpu", 197e12, 0.82e12), "A100": ("cuda", 312e12, 2.0e12)}
"""Platform, bfloat16 operations a second and bytes a second, from the makers' data sheets."""
PATCHES = 6
SCALES = {"encoder and head": (), "to half resolution": (4, 2), "whole decoder": (4, 2, 1)}


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__)
  parser.add_argument("--width", type=int, default=24, help="base channels of MedLAM (default: 24)")
  module = MedLAM(base_channels=parser.parse_args().width, dtype=jnp.bfloat16)
  variables = jax.eval_shape(partial(init_variables, module), jax.random.key(0))
  patches = jax.ShapeDtypeStruct((PATCHES, 64, 64, 64, 1), jnp.float32)
  table = Table("stage", "chip", "TFLOP", "GB, no fusion", "ms by work", "ms by bytes")
  for stage, scales in SCALES.items():
    run = jax.jit(lambda v, p, scales=scales: module.apply(v, p, feature_scales=scales))
    for chip, (platform, speed, bandwidth) in CHIPS.items():
      cost = run.trace(variables, patches).lower(lowering_platforms=(platform,)).cost_analysis()
      work, size = cost["flops"], cost["bytes accessed"]
      row = (f"{work / 1e12:.2f}", f"{size / 1e9:.1f}", f"{1e3 * work / speed:.1f}", f"{1e3 * size / bandwidth:.1f}")
      table.add_row(f"{stage}, {PATCHES} patches", chip, *row)
  Console().print(table)


if __name__ == "__main__":
  main()
