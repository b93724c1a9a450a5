"""Small made-up inputs that tests of several folders use."""

import contextlib
import ctypes
import dataclasses
import gc
import json
import os
import shutil
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from template_files import SHAPE, cells, save

# Before anything of ours is imported: from here on an annotation that lies about an array fails the test that meets it.
jaxtyping.install_import_hook("medlsam_jax", "shapes.check")

ENOUGH_MEMORY_BYTES = 3 << 29
ORIENTATIONS = ("LPS", "RAS", "LAS", "RPI", "SAR", "SRA")
MINI = Path(__file__).parent / "golden" / "mini"
MINI_LABELS = {"alpha": 1, "beta": 2, "gamma": 3}


@pytest.fixture(scope="module", autouse=True)
def memory_given_back():
  """Drops compiled programs after a module that left much memory in use: one process runs all tests, under 4 GB."""
  yield
  if resident_bytes() > ENOUGH_MEMORY_BYTES:
    import jax

    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
      ctypes.CDLL(None).malloc_trim(0)


def resident_bytes():
  """Memory of this process; 0 where the system does not tell."""
  try:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  except OSError:
    return 0


@pytest.fixture(scope="session")
def mini_templates(tmp_path_factory):
  """Folder of the two mini templates with names for their three organs."""
  folder = tmp_path_factory.mktemp("templates")
  for name in ("t0", "t1"):
    for ending in ("ct", "seg"):
      shutil.copy(MINI / f"{name}_{ending}.nii.gz", folder)
  (folder / "labels.json").write_text(json.dumps(MINI_LABELS))
  return folder


@pytest.fixture(scope="session")
def mini_queries(tmp_path_factory):
  """Folder of the two mini queries with their truth."""
  folder = tmp_path_factory.mktemp("queries")
  for name in ("q0", "q1"):
    for ending in ("ct", "seg"):
      shutil.copy(MINI / f"{name}_{ending}.nii.gz", folder)
  (folder / "labels.json").write_text(json.dumps(MINI_LABELS))
  return folder


@pytest.fixture(scope="session")
def small_network_file(tmp_path_factory):
  """A MedLAM of width 1 with random weights: right in every shape, wrong in every number, and quick."""
  import jax
  from medlam_weights import drawn

  from medlsam_jax.io.weights.weights_file import write_weights
  from medlsam_jax.medlam.network.medlam import MedLAM

  path = tmp_path_factory.mktemp("weights") / "small.safetensors"
  header = {"kind": "medlam", "base_channels": "1", "patch_edge": "64", "feature_scales": "4"}
  write_weights(path, drawn(MedLAM(base_channels=1, feature_scales=(4,)), jax.random.key(0)), header)
  return path


@pytest.fixture
def unchecked_shapes():
  """For tests that hand over what no annotation allows, to see that the user is told in our words."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


def make_grid(codes="RAS", shape=(5, 6, 7), spacing=(3.0, 2.0, 1.5), origin=(-40.0, 20.0, 100.0)):
  """Axis-aligned grid: `codes`, `spacing` and `origin` in (x, y, z), `shape` in (z, y, x)."""
  from medlsam_jax.geometry import Grid

  affine = np.zeros((4, 4))
  affine[3, 3] = 1
  for axis, letter in enumerate(codes):
    row = next(i for i, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
    affine[row, axis] = spacing[axis] if letter in "RAS" else -spacing[axis]
  affine[:3, 3] = origin
  return Grid(tuple(shape), affine)


@pytest.fixture(name="make_grid", scope="session")
def make_grid_fixture():
  return make_grid


@pytest.fixture(params=ORIENTATIONS)
def codes(request):
  return request.param


@pytest.fixture
def add(tmp_path, make_grid):
  """Writes a template into the folder: a scan, and what marks it."""

  def add(name, codes="LPS", labels=None, world=None, suffix="_ct.nii.gz"):
    grid = make_grid(codes, SHAPE, (3.0, 3.0, 4.0))
    save(tmp_path / f"{name}{suffix}", np.where(cells() > 0, 50, -1000).astype(np.int16), grid)
    if labels is not None:
      save(tmp_path / f"{name}_seg.nii.gz", labels, grid)
    if world is not None:
      (tmp_path / f"{name}_points.json").write_text(json.dumps(world))
    return grid

  return add


@dataclasses.dataclass
class CompileCounter:
  count: int = 0


@pytest.fixture
def compilations():
  """Counts XLA compilations from here on."""
  import jax

  counter = CompileCounter()

  def listen(event: str, duration: float, **_) -> None:
    counter.count += event == "/jax/core/compile/backend_compile_duration"

  jax.monitoring.register_event_duration_secs_listener(listen)
  return counter
