"""Dice of held-out scans, each organ of each slice being asked for by its tight box.

The boxes come from the truth: this measures how well boxes are filled, not whether they are found.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from medlsam_jax import platform
from medlsam_jax.sam.labelled_slices import LabelledSlices
from medlsam_jax.sam.network.sam import Sam

BOXES_AT_ONCE = 4
EmbeddingOf = Callable[[PyTree, int], Float[Array, "g g c"]]
"""Variables of the network and the position of an image -> its embedding."""


@functools.lru_cache(maxsize=2)
def _decoder(module: Sam) -> Callable[[PyTree, Array | np.ndarray, Array], Array]:
  def decode(variables: PyTree, embedding: Array, boxes: Array) -> Array:
    with platform.asked(module.dtype):
      return module.apply(variables, embedding[None].astype(jnp.float32), boxes=boxes, method="decode")[0][:, 0]

  return jax.jit(decode)


class MaskValidation:
  """Scores a network's variables."""

  def __init__(self, module: Sam, slices: LabelledSlices, embedding_of: EmbeddingOf):
    self._slices, self._embedding_of, self._decode = slices, embedding_of, _decoder(module)

  def __call__(self, variables: PyTree) -> dict[str, dict[str, float]]:
    """Scan -> organ -> Dice over the slices that are looked at."""
    counts: dict[tuple[str, str], np.ndarray] = {}
    slices = self._slices
    for number, item in enumerate(slices.items):
      embedding, fit = self._embedding_of(variables, number), slices.fit_of(item)
      boxes = np.stack([slices.box(item, organ) for organ in item.organs])
      for organ, logits in zip(item.organs, self._answers(variables, embedding, boxes), strict=True):
        inside, truth = fit.from_logits(logits) > 0, slices.mask(item, organ)
        counted = np.array([np.count_nonzero(inside & truth), np.count_nonzero(inside) + np.count_nonzero(truth)])
        key = (slices.scans[item.scan].name, organ)
        counts[key] = counts.get(key, 0) + counted
    scores: dict[str, dict[str, float]] = {}
    for (scan, organ), (shared, sizes) in counts.items():
      scores.setdefault(scan, {})[organ] = float(2 * shared / sizes)
    return scores

  def _answers(self, variables: PyTree, embedding: Array | np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
    answers: list[np.ndarray] = []
    for start in range(0, len(boxes), BOXES_AT_ONCE):
      some = boxes[start : start + BOXES_AT_ONCE]
      padded = np.concatenate([some, np.repeat(some[-1:], BOXES_AT_ONCE - len(some), 0)])
      answers.extend(np.asarray(self._decode(variables, embedding, jnp.asarray(padded)))[: len(some)])
    return answers


def means_of(scores: dict[str, dict[str, float]]) -> dict[str, float]:
  """`validation_dice`, the mean over organs of their means over scans, and each organ's as `organ_NAME_dice`."""
  organs: dict[str, list[float]] = {}
  for each in scores.values():
    for organ, score in each.items():
      organs.setdefault(organ, []).append(score)
  means = {organ: float(np.mean(each)) for organ, each in organs.items()}
  return {
    "validation_dice": float(np.mean(list(means.values()))),
    **{f"organ_{organ}_dice": score for organ, score in means.items()},
  }
