"""What may make an organ hard to segment in a slice: how wound its boundary is, its contrast, size and shape."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, UInt8

ENOUGH_DICE = 0.97
MOST_ORDERS = 40
RING = 0.1
"""Share of its size by which the box is widened for the ring around an organ."""
_OUTLINE_POINTS = 400


@dataclasses.dataclass(frozen=True)
class Factors:
  """Factors of one organ in one slice."""

  boundary_order: int
  """Elliptic Fourier order at which the outline's area has Dice 0.97 with the mask's largest piece; at most 40."""
  intensity_difference: float
  """Mean inside less mean of the rest of the box widened by a tenth, grey levels of 0..255."""
  size_mm2: float
  aspect_ratio: float
  """Long over short side of the box, in mm."""


def factors_of(
  mask: Bool[np.ndarray, "row column"], grey: UInt8[np.ndarray, "row column"], spacing_mm: tuple[float, float]
) -> Factors:
  """Factors of a mask with at least one pixel; `spacing_mm` of rows and columns."""
  y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  height, width = len(range(y[0], y[-1] + 1)), len(range(x[0], x[-1] + 1))
  add_y, add_x = int(np.ceil(RING * height / 2)), int(np.ceil(RING * width / 2))
  ring = np.zeros_like(mask)
  ring[max(0, y[0] - add_y) : y[-1] + 1 + add_y, max(0, x[0] - add_x) : x[-1] + 1 + add_x] = True
  ring &= ~mask
  outside = float(grey[ring].mean()) if ring.any() else float(grey[mask].mean())
  sides = sorted((height * spacing_mm[0], width * spacing_mm[1]))
  return Factors(
    boundary_order(mask),
    float(grey[mask].mean()) - outside,
    float(mask.sum() * spacing_mm[0] * spacing_mm[1]),
    float(sides[1] / sides[0]),
  )


def outline_of(mask: Bool[np.ndarray, "row column"]) -> Float[np.ndarray, "n 2"]:
  """Closed outline (x, y) of the largest piece, through the middles of pixel edges; the first point is not repeated."""
  from contourpy import contour_generator

  padded = np.pad(mask, 1).astype(float)
  lines = [np.asarray(line) for line in contour_generator(z=padded).lines(0.5)]
  longest = max(lines, key=lambda line: abs(_signed_area(line)))
  return longest[:-1] - 1


def _signed_area(line: np.ndarray) -> float:
  x, y = line[:, 0], line[:, 1]
  return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


def elliptic_fourier(outline: Float[np.ndarray, "n 2"], orders: int) -> Float[np.ndarray, "orders 2 2"]:
  """Coefficients `[order, x or y, cosine or sine]` (Kuhl and Giardina 1982, "Elliptic Fourier features")."""
  from pyefd import elliptic_fourier_descriptors

  return elliptic_fourier_descriptors(np.concatenate([outline, outline[:1]]), order=orders).reshape(orders, 2, 2)


def boundary_order(mask: Bool[np.ndarray, "row column"]) -> int:
  """Least order whose outline encloses the mask's largest piece (holes filled) with Dice of at least 0.97."""
  from matplotlib.path import Path

  outline = outline_of(mask)
  y, x = np.nonzero(np.ones(mask.shape, bool))
  pixels = np.stack([x, y], -1)
  piece = Path(outline).contains_points(pixels)
  if not piece.any():
    return 1
  near = np.zeros(len(pixels), bool)
  near[np.flatnonzero(((pixels >= outline.min(0) - 3) & (pixels <= outline.max(0) + 3)).all(1))] = True
  pixels, piece = pixels[near], piece[near]
  coefficients = elliptic_fourier(outline, MOST_ORDERS)
  turn = np.linspace(0, 2 * np.pi, _OUTLINE_POINTS, endpoint=False)
  order = np.arange(1, MOST_ORDERS + 1)[:, None]
  waves = np.stack([np.cos(order * turn), np.sin(order * turn)], 1)
  parts = np.einsum("oaw,owt->ota", coefficients, waves)
  curves = np.cumsum(parts, 0)
  centre = _centre(outline)
  for number, curve in enumerate(curves, 1):
    inside = Path(curve - _centre(curve) + centre).contains_points(pixels)
    if 2 * np.count_nonzero(inside & piece) / max(1, inside.sum() + piece.sum()) >= ENOUGH_DICE:
      return number
  return MOST_ORDERS


def _centre(outline: np.ndarray) -> np.ndarray:
  """Mean along the outline, which is what the constant term stands for."""
  after = np.roll(outline, -1, 0)
  length = np.linalg.norm(after - outline, axis=1)
  return np.asarray(((outline + after) / 2 * length[:, None]).sum(0) / length.sum())
