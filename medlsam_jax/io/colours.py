"""Colours of organs, the same in the picture, in boxes and in label maps: by an organ's place in the list."""

from __future__ import annotations

import colorsys

FIRST = (
  (0.86, 0.39, 0.33), (0.35, 0.68, 0.84), (0.47, 0.75, 0.36), (0.93, 0.73, 0.25),
  (0.65, 0.50, 0.83), (0.94, 0.56, 0.70), (0.30, 0.73, 0.66), (0.75, 0.62, 0.46),
)  # fmt: skip
"""Red, green and blue from 0 to 1."""
_GOLDEN = 0.618034
"""Steps of this share of the circle of hues come to no earlier one soon."""


def of(place: int) -> tuple[float, float, float]:
  """Colour of the organ at this place of a list, from 0; after the first eight, hues that go round the circle."""
  if place < len(FIRST):
    return FIRST[place]
  turn = place - len(FIRST)
  return colorsys.hls_to_rgb(turn * _GOLDEN % 1, (0.62, 0.48, 0.74)[turn % 3], 0.65)
