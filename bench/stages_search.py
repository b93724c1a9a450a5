"""Correlation, bank and search."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bench.common import Row, network, peer, templates
from bench.timing import seconds
from medlsam_jax.medlam.bank.bank import Bank, Mode
from medlsam_jax.medlam.search.correlation import correlate
from medlsam_jax.medlam.search.search import find
from medlsam_jax.medlam.search.search_settings import PRESETS, SearchSettings
from medlsam_jax.phantom.people import make_phantom

FIVE = ("spleen", "kidney_right", "liver", "aorta", "vertebrae_L3")
SIXTEEN = (
  *FIVE, "kidney_left", "stomach", "urinary_bladder", "sacrum", "hip_left", "hip_right", "pancreas", "colon",
  "inferior_vena_cava", "vertebrae_L2", "vertebrae_L4",
)  # fmt: skip
INTERVAL_MM = 12.0


def correlation() -> Iterator[Row]:
  """MSS correlation at full resolution for six points, by the width of the features."""
  for channels, targets in ((8, (None, None)), (96, (0.025, 0.012))):
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.standard_normal((6, 64, 64, 64, channels), dtype=np.float32))
    taps = jnp.asarray(rng.standard_normal((6, 8, 8, 8, channels), dtype=np.float32))
    theirs = peer("correlation", channels, runs=1)
    exact = jax.jit(lambda f, t: jax.lax.map(lambda ft: correlate(*ft), (f, t)))
    rough = jax.jit(lambda f, t: jax.lax.map(lambda ft: correlate(*ft, jnp.bfloat16), (f, t)))
    error = float(jnp.abs(rough(features, taps) - exact(features, taps)).max() / jnp.abs(exact(features, taps)).max())
    stage, work = (
      f"MSS correlation, full resolution, {channels} channels, 6 points",
      6 * 2 * 512 * channels * 64**3 / 1e9,
    )
    yield Row(stage, seconds(partial(exact, features, taps)), theirs, targets[0], work)
    note = f"error {error:.0e}; peer float32"
    yield Row(stage, seconds(partial(rough, features, taps)), theirs, targets[1], work, "bfloat16", note)


def localize(
  base_channels: int,
  organs: tuple[str, ...],
  mode: Mode,
  count: int,
  rows: tuple[tuple[str, float], ...],
  bank_target: float,
) -> Iterator[Row]:
  """The bank, per template, and one scan with a ready bank, resampling to the working grid included."""
  ours, marked = network(base_channels), templates(count, organs)
  name = f"width {base_channels}, {len(organs)} organs, {mode}"

  def build() -> Bank:
    return Bank.build(ours, marked, mode, INTERVAL_MM)

  bank = build()
  points = [6 * len(organ.faces) for organ in bank.organs.values()]
  # beyond a few organs the peer's time grows in proportion: two of them stand for all
  measured = points if len(points) <= len(FIVE) else points[:2]
  share = sum(points) / sum(measured)
  peer_bank, peer_scan = (
    None if time is None else time * share
    for time in (peer(name, base_channels, measured, runs=1, warm=False) for name in ("bank", "scan"))
  )
  note = "ours with resampling, peer without" + (", extrapolated from two organs" if share > 1 else "")
  yield Row(f"bank of {name}, per template", seconds(build, 1) / count, peer_bank, bank_target, note=note)
  query = make_phantom(4).scan
  for preset, target in rows:
    settings = PRESETS[preset] if preset in PRESETS else SearchSettings(dtype="bfloat16")
    taken = seconds(lambda settings=settings: find(ours, bank, query, settings=settings) and None, 1)
    row_note = f"{sum(points)} points; peer float32" + (", extrapolated from two organs" if share > 1 else "")
    yield Row(f"localize {name}, {preset}", taken, peer_scan, target, dtype=settings.operands, note=row_note)


FEW = (("exact", 0.35), ("exact with bfloat16 operands", 0.35))
STAGES: dict[str, Callable[[], Iterator[Row]]] = {
  "correlation": correlation,
  "localize-wpl": lambda: localize(2, FIVE, "WPL", 2, FEW, 1.0),
  "localize-spl": lambda: localize(2, FIVE, "SPL", 2, FEW, 1.0),
  "localize-24": lambda: localize(24, FIVE[:2], "WPL", 1, (("exact", 0.1), ("fast", 0.03)), 0.5),
  "localize-16": lambda: localize(24, SIXTEEN, "WPL", 1, (("fast", 0.02), ("atlas", 0.01)), 0.5),
}
