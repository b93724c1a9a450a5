"""Memory of the training step on one device by batch, with and without rematerialisation.

python -m bench.memory_training [--width 8]

From XLA's buffer assignment for the CPU, float32, traced with XLA's own convolution as accelerators have it: nothing
runs. A chip's compiler fuses more and needs room for its convolutions; bfloat16 halves what is kept between stages.
"""

import argparse
from typing import Any, cast

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from bench.lowering import as_on_accelerator
from medlsam_jax.medlam.pretraining.crops import Batch
from medlsam_jax.medlam.pretraining.settings import PretrainSettings
from medlsam_jax.medlam.pretraining.step import abstract_state, make_step
from medlsam_jax.train import sharding
from medlsam_jax.typed_settings import from_mapping

SCANS = (1, 2, 4)


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m bench.memory_training", description=__doc__)
  parser.add_argument("--width", type=int, default=8, help="base channels of MedLAM (default: 8)")
  width = parser.parse_args().width
  columns = ("scans a device", "state and batch GB", "temporary GB", "temporary GB, remat")
  table, console = Table(*columns), Console(width=120)
  for scans in SCANS:
    (kept, plain), (_, less) = (memory(width, scans, remat) for remat in (False, True))
    table.add_row(str(scans), *(f"{figure / 1e9:.2f}" for figure in (kept, plain, less)))
  console.print(table)


def memory(width: int, scans: int, remat: bool) -> tuple[int, int]:
  """Bytes of a step's arguments and of its temporaries, for the published recipe."""
  network, data = {"base_channels": width, "remat": remat}, {"scans_per_step": scans}
  settings = from_mapping(PretrainSettings, {"network": network, "data": data})
  mesh, edge = sharding.make_mesh(settings.mesh, jax.devices()[:1]), settings.network.cube_edge
  place = sharding.batch_sharding(mesh)
  shapes = ((scans, 2, edge, edge, edge), (scans, 2, 3))
  batch = Batch(*(cast(Any, jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)) for shape in shapes))
  with as_on_accelerator():
    lowered = cast(Any, make_step(settings, mesh)).lower(abstract_state(settings, mesh), batch)
  result = lowered.compile().memory_analysis()
  return result.argument_size_in_bytes, result.temp_size_in_bytes


if __name__ == "__main__":
  main()
