"""What the training step is on 1, 2, 4 and 8 simulated devices: programs, collectives, bytes, work, memory.

python -m bench.devices [--width 2]

Traced with XLA's own convolution, as accelerators have it, and compiled by the CPU's compiler: partitioning is the
same there, fusion and the order of operations are not. A process for each number of devices.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, cast

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.hlo import Collective, collectives
from bench.lowering import as_on_accelerator
from medlsam_jax.medlam.pretraining.crops import Batch
from medlsam_jax.medlam.pretraining.settings import PretrainSettings
from medlsam_jax.medlam.pretraining.step import init_state, make_step, make_validation
from medlsam_jax.train import sharding
from medlsam_jax.typed_settings import from_mapping

DEVICES = (1, 2, 4, 8)
SCANS, EDGE, STEPS = 8, 32, 3
PUBLISHED_WIDTH = 24
_COMPILED = "/jax/core/compile/backend_compile_duration"


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m bench.devices", description=__doc__)
  parser.add_argument("--width", type=int, default=2, help="base channels of MedLAM (default: 2)")
  parser.add_argument("--here", action="store_true", help="measure on this process's devices and print JSON")
  arguments = parser.parse_args()
  if arguments.here:
    print(json.dumps(measure(arguments.width)))
    return
  columns = ("devices", "programs", "collectives", "arrays of the gradient", "their kB", "other numbers", "in loops")
  table = Table(*columns, "GFLOP a device", "temporary MB a device")
  for count in DEVICES:
    table.add_row(*_row(count, _in_process(count, arguments.width)))
  console = Console(width=140)
  console.print(table)
  console.print(f"Gradient at width {PUBLISHED_WIDTH}: {_gradient_bytes(PUBLISHED_WIDTH) / 1e6:.1f} MB in float32")


def _in_process(count: int, width: int) -> dict[str, Any]:
  flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "JAX_PLATFORMS": "cpu"}
  words = [sys.executable, "-m", "bench.devices", "--here", "--width", str(width)]
  run = subprocess.run(words, env=os.environ | flags, stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(run.stdout.splitlines()[-1])


def _row(count: int, found: dict[str, Any]) -> Iterator[str]:
  yield from (str(count), str(found["programs"]))
  yield ", ".join(f"{number} {kind}" for kind, number in found["kinds"].items()) or "none"
  yield from (str(found["gradient_arrays"]), f"{found['gradient_bytes'] / 1e3:.1f}", str(found["other_numbers"]))
  yield from (str(found["repeated"]), f"{found['flops'] / 1e9:.2f}", f"{found['temporary'] / 1e6:.0f}")


def small(width: int) -> PretrainSettings:
  """The published recipe around a small network and patch."""
  network = {"base_channels": width, "patch_edge": EDGE}
  return from_mapping(PretrainSettings, {"network": network, "data": {"scans_per_step": SCANS}})


def measure(width: int) -> dict[str, Any]:
  """The step on all devices of this process, and how many programs a few steps and validations compile."""
  settings = small(width)
  mesh, compiled = sharding.make_mesh(settings.mesh), []
  jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event == _COMPILED))
  with as_on_accelerator():
    state, step, validate = init_state(settings, mesh), make_step(settings, mesh), make_validation(settings)
    held_out = sharding.put_replicated(_batch(settings, 0), mesh)
    compiled.clear()
    for number in range(1, STEPS + 1):
      state, _ = step(state, sharding.put_batch(_batch(settings, number), SCANS, mesh))
      jax.block_until_ready(validate(state.best_network, held_out))
    programs = sum(compiled)
    batch = sharding.put_batch(_batch(settings, 0), SCANS, mesh)
    program = cast(Any, step).lower(state, batch).compile()
  return {
    "programs": programs, "flops": program.cost_analysis()["flops"],
    "temporary": program.memory_analysis().temp_size_in_bytes, **summary(collectives(program.as_text()), state.params),
  }  # fmt: skip


def _batch(settings: PretrainSettings, seed: int) -> Batch:
  rng, edge = np.random.default_rng(seed), settings.network.cube_edge
  cubes = rng.random((SCANS, 2, edge, edge, edge), np.float32)
  return Batch(cubes, rng.uniform(0, 300, (SCANS, 2, 3)).astype(np.float32))


def summary(found: Sequence[Collective], params: Any) -> dict[str, Any]:
  """What the collectives move: arrays of the size of a parameter are its gradient, the rest are losses and counts."""
  sizes = {leaf.size for leaf in jax.tree.leaves(params)} - {1}
  moved = [size for one in found for size in one.sizes]
  gradient = [size for size in moved if size in sizes]
  return {
    "kinds": {kind: sum(one.kind == kind for one in found) for kind in sorted({one.kind for one in found})},
    "gradient_arrays": len(gradient),
    "gradient_bytes": 4 * sum(gradient),
    "other_numbers": sum(moved) - sum(gradient),
    "repeated": sum(one.repeated for one in found),
  }


def _gradient_bytes(width: int) -> int:
  from medlsam_jax.medlam.pretraining.step import network_shapes

  settings = from_mapping(PretrainSettings, {"network": {"base_channels": width}})
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(network_shapes(settings)))


if __name__ == "__main__":
  main()
