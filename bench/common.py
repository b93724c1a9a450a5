"""What all stages share: the row of the table, made-up data and networks."""

import dataclasses
import importlib.util
from typing import Any

import jax
import numpy as np

from bench.timing import seconds
from medlsam_jax.io.templates import Template
from medlsam_jax.medlam.network.medlam import MedLAM, init_variables
from medlsam_jax.network import Network
from medlsam_jax.phantom.people import make_phantom

HAVE_TORCH = importlib.util.find_spec("torch") is not None


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table; seconds of one run, `peer_s` None where the peer is not installed or has no such mode."""

  stage: str
  ours_s: float
  peer_s: float | None = None
  target: float | None = None
  """The ratio to reach."""
  gflop: float | None = None
  """Work of the plain algorithm, from which the share of the matrix product's speed is worked out."""
  dtype: str = "float32"
  note: str = ""


def drawn(shapes: Any) -> Any:
  """Weights of these shapes as host arrays: what `init` would give takes longer to compile than to run."""
  rng = np.random.default_rng(0)

  def draw(path: Any, shape: Any) -> np.ndarray:
    if getattr(path[-1], "key", "") in ("var", "scale"):
      return np.ones(shape.shape, np.float32)
    fan_in = np.prod(shape.shape[:-1]) if len(shape.shape) > 1 else 2500
    return rng.standard_normal(shape.shape, dtype=np.float32) / np.float32(np.sqrt(fan_in))

  return jax.tree_util.tree_map_with_path(draw, shapes)


def network(base_channels: int) -> Network:
  """A MedLAM with random weights."""
  module = MedLAM(base_channels=base_channels)
  variables = drawn(jax.eval_shape(lambda key: init_variables(module, key), jax.random.key(0)))
  return Network(module, variables, "medlam", f"<random {base_channels}>", {"working_grid": "published"})


def gflop_of(module: MedLAM, scales: tuple[int, ...]) -> float:
  """Work of one patch by direct convolution, multiplications and additions."""
  b, total = module.base_channels, 0.0
  down = ((64, 1, 2, 2), (32, 2, 2, 2), (16, 2, 2, 4), (8, 4, 4, 8), (4, 8, 8, 16))
  up = ((8, 24, 8, 8), (4, 12, 4, 4), (2, 6, 4, 4), (1, 6, 4, 4))
  for level, (edge, inside, first, second) in enumerate(down):
    entering = 1 if level == 0 else inside * b
    total += edge**3 * (entering * first * b + first * b * second * b)
  for stride, inside, first, second in up:
    if scales and stride >= min(scales):
      total += (64 // stride) ** 3 * (inside * first + first * second) * b * b
  return 2 * 27 * total / 1e9


def templates(count: int, organs: tuple[str, ...]) -> list[Template]:
  """Phantoms with marked organs."""
  made = []
  for seed in range(1, count + 1):
    phantom = make_phantom(seed)
    values = {name: phantom.names[name] for name in organs}
    made.append(Template(f"phantom_{seed}", phantom.scan, phantom.labels, values, {}, {}))
  return made


def patches(count: int) -> np.ndarray:
  """Random intensities."""
  return np.random.default_rng(0).random((count, 64, 64, 64, 1), dtype=np.float32)


def for_torch(array: np.ndarray) -> Any:
  """Channels second, as PyTorch has them."""
  import torch

  return torch.from_numpy(np.moveaxis(array, -1, 1).copy()).to(torch_device())


def torch_device() -> Any:
  """The accelerator if PyTorch has one, else the CPU; `CUDA_VISIBLE_DEVICES=` keeps it off where JAX has none."""
  import torch

  return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def peer(name: str, *arguments: Any, runs: int, warm: bool = True, **named: Any) -> float | None:
  """Seconds of a call that `bench.peers` makes, None without PyTorch."""
  if not HAVE_TORCH:
    return None
  from bench import peers

  return seconds(getattr(peers, name)(*arguments, **named), runs, warm)
