"""The volumetric network that a CPU is meant for, on one cube: its forward pass and its training step."""

from collections.abc import Callable, Iterator

from bench import cube_programs
from bench.common import Row, peer
from bench.timing import seconds
from medlsam_jax.sam3d.network.variants import VARIANTS

NAME = "sam3d-litemedsam-64"
ORGANS = (1, 4)
RUNS = 3


def forward() -> Iterator[Row]:
  """A cube and the boxes of some organs to logits."""
  for organs in ORGANS:
    work = cube_programs.forward_flop(VARIANTS[NAME], organs) / 1e9
    taken = seconds(cube_programs.forward(NAME, "float32", organs), RUNS)
    theirs = peer("cubes", NAME, organs, runs=RUNS)
    yield Row(f"{NAME}, a cube, {organs} organ{'s' * (organs > 1)}", taken, theirs, gflop=work)


def step() -> Iterator[Row]:
  """One cube with two organs: views, masks, gradient, AdamW; values within blocks kept, and computed anew."""
  for remat in (False, True):
    settings = cube_programs.settings_of(NAME, remat=remat, organs=2)
    work = cube_programs.step_flop(cube_programs.settings_of(NAME, remat=False, organs=2)) / 1e9
    ours = cube_programs.Step(settings)
    taken, theirs = seconds(ours, RUNS), peer("cube_step", NAME, 2, remat, runs=RUNS)
    note = f"temporary {ours.temporary / 2**30:.2f} GiB; the peer's views are ready"
    yield Row(f"{NAME}, step, {'remat' if remat else 'all kept'}", taken, theirs, gflop=work, note=note)


STAGES: dict[str, Callable[[], Iterator[Row]]] = {"cubes": forward, "cube-step": step}
