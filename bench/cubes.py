"""The volumetric network on paper: parameters, work, the least time of its programs on accelerators, memory.

python -m bench.cubes [--memory sam3d-litemedsam-64,...]

Nothing runs. Parameters and work are those of shapes; programs are traced as accelerators run them and lowered without
compiling, at the published size (`PUBLISHED`), in bfloat16, one cube with one organ. Bytes: `products` lets every
product and convolution read its operands and write its result once, attention's weights among them, and nothing else
touch memory; `no fusion` is every operation of the unoptimised program. `--memory` compiles the training step of those
networks with this machine's compiler, in float32, with and without rematerialisation: minutes for a large one. A chip's
compiler fuses more, and bfloat16 halves most of what is kept.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from bench import cube_programs
from bench.chips import CHIPS, product_bytes
from bench.lowering import as_on_accelerator
from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.network.sam3d import Sam3D
from medlsam_jax.sam3d.network.variants import VARIANTS
from medlsam_jax.sam3d.training.step import make_step

NETWORKS = ("sam3d-litemedsam-64", "sam3d-litemedsam", "sam3d-vit-b")
PUBLISHED = "sam3d-vit-b"
SHOWN = ("TPU v5e", "H100")


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m bench.cubes", description=__doc__.splitlines()[0])
  parser.add_argument("--memory", default="", help="networks, comma separated, whose step is compiled for its memory")
  names, console = parser.parse_args().memory, Console(width=150)
  console.print(_parameters())
  console.print(_work())
  console.print(_roofline())
  if names:
    console.print(_memory(names.split(",")))


def _parameters() -> Table:
  table = Table("parameters", *NETWORKS)
  trees = [parameters.shapes(Sam3D(VARIANTS[name])) for name in NETWORKS]
  counts = [parameters.count_by_part(tree) for tree in trees]
  for part in counts[0]:
    table.add_row(part, *(f"{count[part]:,}" for count in counts))
  table.add_row("all trained", *(f"{sum(count.values()):,}" for count in counts))
  frozen = [sum(leaf.size for leaf in jax.tree.leaves(parameters.split(tree)[1])) for tree in trees]
  table.add_row("frozen", *(f"{count:,}" for count in frozen))
  return table


def _work() -> Table:
  table = Table("network", "forward TFLOP, one organ", "each further organ", "step TFLOP", "step TFLOP, remat")
  for name in NETWORKS:
    one, two = (cube_programs.forward_flop(VARIANTS[name], organs) for organs in (1, 2))
    steps = (cube_programs.step_flop(cube_programs.settings_of(name, remat=remat)) for remat in (False, True))
    table.add_row(name, *(f"{flop / 1e12:.3f}" for flop in (one, two - one, *steps)))
  return table


def _roofline() -> Table:
  columns = ("program", "chip", "TFLOP", "GB, products", "GB, no fusion", "ms by work", "ms by bytes", "ms at least")
  table = Table(*columns, title=f"{PUBLISHED}, one cube of {VARIANTS[PUBLISHED].cube_edge} voxels an edge, bfloat16")
  for program, work, traced in _programs(PUBLISHED):
    for name in SHOWN:
      chip = CHIPS[name]
      lowered = traced.lower(lowering_platforms=(chip.platform,))
      least, most = product_bytes(lowered.as_text()), lowered.cost_analysis()["bytes accessed"]
      by_work, by_bytes = 1e3 * work / chip.speed, [1e3 * size / chip.bandwidth for size in (least, most)]
      cells = (work / 1e12, least / 1e9, most / 1e9, by_work)
      span = f"{by_bytes[0]:.1f} to {by_bytes[1]:.0f}"
      table.add_row(program, name, *(f"{cell:.2f}" for cell in cells), span, f"{max(by_work, by_bytes[0]):.1f}")
  return table


def _programs(name: str) -> Iterator[tuple[str, float, Any]]:
  """What, its work and the program, traced. Work is counted by `train.work`, which loops do not mislead."""
  variant = VARIANTS[name]
  module = Sam3D(variant, "bfloat16")
  given = (*parameters.split(parameters.shapes(module)), *cube_programs.shapes_of(cube_programs.asked(variant, 1)))
  run = jax.jit(partial(parameters.apply, module))
  yield "forward", cube_programs.forward_flop(variant, 1), run.trace(*given)
  for remat in (False, True):
    settings = cube_programs.settings_of(name, "bfloat16", remat)
    traced = cube_programs.program(settings).trace(*cube_programs.step_shapes(settings))
    # the type of operands changes no count, and that of float32 is known by now
    work = cube_programs.step_flop(cube_programs.settings_of(name, remat=remat))
    yield f"training step{', remat' if remat else ''}", work, traced


def _memory(names: list[str]) -> Table:
  table = Table("training step", "state, batch and frozen GB", "temporary GB", "temporary GB, remat")
  for name in names:
    (kept, plain), (_, less) = (memory(name, remat) for remat in (False, True))
    table.add_row(name, *(f"{figure / 1e9:.2f}" for figure in (kept, plain, less)))
  return table


def memory(name: str, remat: bool) -> tuple[int, int]:
  """Bytes of a step's arguments and of its temporaries, in float32, by the buffer assignment of XLA for a CPU."""
  settings = cube_programs.settings_of(name, remat=remat)
  make_step.cache_clear()  # or it would be as it was traced for its work
  with as_on_accelerator():
    lowered = cube_programs.program(settings).lower(*cube_programs.step_shapes(settings))
  found = lowered.compile().memory_analysis()
  return found.argument_size_in_bytes, found.temp_size_in_bytes


if __name__ == "__main__":
  main()
