"""Small scans with organs, and the network of the published program's numbers."""

from pathlib import Path

import jax
import numpy as np
import pytest

from medlsam_jax import loading
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.io.templates import Template
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.network import Network

GOLDEN = Path(__file__).parents[1] / "golden"
VALUES = {"liver": 1, "kidney": 2}
LIVER = ((3, 4, 5), (16, 12, 14))
KIDNEY = ((20, 8, 4), (23, 12, 9))


@pytest.fixture(scope="session")
def network() -> Network:
  """Base width 2, random weights; results have to equal the published program's."""
  return loading.load(GOLDEN / "medlam_random.pth")


def _grid(shape, codes="LAS", spacing_mm=3.0) -> Grid:
  """Axis-aligned; `codes` as of `Grid.axis_codes`."""
  affine = np.eye(4)
  affine[:3, :3] = 0
  letters = (("L", "R"), ("P", "A"), ("I", "S"))
  for axis, letter in enumerate(codes):
    world = next(i for i, pair in enumerate(letters) if letter in pair)
    affine[world, axis] = spacing_mm * (1 if letter == letters[world][1] else -1)
  return Grid(shape, affine)


@pytest.fixture(scope="session")
def make_grid():
  return _grid


@pytest.fixture(scope="session")
def make_template():
  """A noisy block with a box per organ at 3 mm; organs as `name=(low, high)` corners, inclusive voxels."""

  def make(name="a", seed=0, points=None, shape=(30, 24, 26), **organs) -> Template:
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    for organ, (low, high) in organs.items():
      labels[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = VALUES[organ]
    scan = Volume(rng.normal(40, 30, shape).astype(np.float32) + 100 * labels, _grid(shape), f"{name}_ct.nii.gz")
    given = {organ: np.asarray(where, float) for organ, where in (points or {}).items()}
    return Template(
      name,
      scan,
      Volume(labels, scan.grid, f"{name}_seg.nii.gz") if organs else None,
      {organ: VALUES[organ] for organ in organs},
      given,
      {organ: VALUES[organ] for organ in given},
    )

  return make


@pytest.fixture(scope="module")
def templates(make_template):
  """Two people, the second of whom has a kidney, too."""
  return [make_template("a", liver=LIVER), make_template("b", 1, liver=LIVER, kidney=KIDNEY)]


@pytest.fixture(scope="module")
def bank(network, templates) -> Bank:
  """Their whole organs."""
  return Bank.build(network, templates, "WPL", convention="consistent")


@pytest.fixture
def other_network(network) -> Network:
  """The same settings, other weights."""
  params = {**network.params, "fc3": {**network.params["fc3"], "bias": network.params["fc3"]["bias"] + 1}}
  return Network(network.module, {"params": params}, network.kind, "other.safetensors", dict(network.header))


@pytest.fixture(scope="module")
def quick_compiler():
  """For programs that run a few times and are not worth optimising."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
