"""Made-up pictures of people, for tests of what compares them."""

import numpy as np
from scipy import ndimage

from medlsam_jax.cohort.sketch import DEPTH, HALF, Sketch

LEVELS, SLABS = 36, 20


def _smooth(rng, scale):
  field = ndimage.gaussian_filter(rng.normal(size=(LEVELS, DEPTH, HALF, 2)), (1.5, 2, 2, 0))
  return scale * field / field.std()


class People:
  """Bodies with levels that all share, the same differences between left and right, and something of each one's own."""

  def __init__(self, lopsided=30.0, seed=0):
    rng = np.random.default_rng(seed)
    self.common, self.different = 120 + _smooth(rng, 40), _smooth(rng, lopsided)

  def one(self, seed, own=15.0):
    """A person, with another part of the body in the field."""
    rng = np.random.default_rng(1000 + seed)
    start = rng.integers(0, LEVELS - SLABS + 1)
    half = self.common + _smooth(rng, own)
    off = self.different + _smooth(rng, own)
    cells = np.concatenate([(half - off)[:, :, ::-1], half + off], 2)[start : start + SLABS]
    return Sketch(np.clip(cells, 0, 255).astype(np.uint8), np.zeros(4))


def mirrored(sketch):
  return Sketch(sketch.cells[:, :, ::-1].copy(), sketch.cut[[1, 0, 2, 3]])
