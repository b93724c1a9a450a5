"""Dice of held-out scans, each organ of each slice being asked for by its tight box, or by what templates say of it.

The tight boxes come from the truth: they measure how well boxes are filled, not whether they are found. Templates'
votes come from found boxes: with them it is masks as `segment` paints them, organs one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from medlsam_jax import platform
from medlsam_jax.sam.finetuning.template_questions import TemplateQuestions
from medlsam_jax.sam.labelled_slices import LabelledSlices, Shown
from medlsam_jax.sam.network.sam import Sam
from medlsam_jax.sam.template_prompts import LIKELY, asked, blended

BOXES_AT_ONCE = 4
EmbeddingOf = Callable[[PyTree, int], Float[Array, "g g c"]]
"""Variables of the network and the position of an image -> its embedding."""
Inside = Bool[np.ndarray, "row column"]


@functools.lru_cache(maxsize=2)
def _decoder(module: Sam) -> Callable[[PyTree, Array | np.ndarray, Array, Array | None], Array]:
  def decode(variables: PyTree, embedding: Array, boxes: Array, masks: Array | None) -> Array:
    embedding = embedding[None].astype(jnp.float32)
    with platform.asked(module.dtype):
      return module.apply(variables, embedding, boxes=boxes, masks=masks, method="decode")[0][:, 0]

  return jax.jit(decode)


class MaskValidation:
  """Scores a network's variables; with `questions` masks are theirs by `vote_share`, the network's by the rest."""

  def __init__(
    self,
    module: Sam,
    slices: LabelledSlices,
    embedding_of: EmbeddingOf,
    questions: TemplateQuestions | None = None,
    vote_share: float = 0.0,
    window_cells: int = 0,
  ):
    self._slices, self._embedding_of, self._decode = slices, embedding_of, _decoder(module)
    self._questions, self._vote_share, self._window_cells = questions, vote_share, window_cells
    self._cell_pixels = module.variant.image_size // module.variant.grid

  def __call__(self, variables: PyTree) -> dict[str, dict[str, float]]:
    """Scan -> organ -> Dice over the slices that are looked at."""
    counts: dict[tuple[str, str], np.ndarray] = {}
    slices = self._slices
    for number, item in enumerate(slices.items):
      embedding = self._embedding_of(variables, number)
      ask = self._boxed if self._questions is None else self._voted
      for organ, inside in ask(variables, embedding, item).items():
        truth = slices.mask(item, organ)
        counted = np.array([np.count_nonzero(inside & truth), np.count_nonzero(inside) + np.count_nonzero(truth)])
        key = (slices.scans[item.scan].name, organ)
        counts[key] = counts.get(key, 0) + counted
    scores: dict[str, dict[str, float]] = {}
    for (scan, organ), (shared, sizes) in counts.items():
      scores.setdefault(scan, {})[organ] = float(2 * shared / sizes)
    return scores

  def _boxed(self, variables: PyTree, embedding: Array | np.ndarray, item: Shown) -> dict[str, Inside]:
    """Masks by the labels' boxes."""
    fit = self._slices.fit_of(item)
    boxes = np.stack([self._slices.box(item, organ) for organ in item.organs])
    answers = self._answers(variables, embedding, boxes)
    return {organ: fit.from_logits(low) > 0 for organ, low in zip(item.organs, answers, strict=True)}

  def _voted(self, variables: PyTree, embedding: Array | np.ndarray, item: Shown) -> dict[str, Inside]:
    """Masks by the templates' votes; nothing where no vote sees the organ."""
    assert self._questions is not None
    fit = self._slices.fit_of(item)
    masks = {organ: np.zeros((fit.rows, fit.columns), bool) for organ in item.organs}

    def decode(embedding: Array | np.ndarray, box: np.ndarray, mask: np.ndarray) -> np.ndarray:
      return np.asarray(self._decode(variables, embedding, jnp.asarray(box), jnp.asarray(mask)[..., None]))

    for organ in item.organs:
      plane = self._questions.found(item, organ)
      if plane is not None:
        question = self._questions.as_painted(self._slices, item, plane)
        low = asked(decode, embedding, question, self._window_cells, self._cell_pixels)
        masks[organ] = blended(plane, fit.from_logits(low), self._vote_share) > LIKELY
    return masks

  def _answers(self, variables: PyTree, embedding: Array | np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
    answers: list[np.ndarray] = []
    for start in range(0, len(boxes), BOXES_AT_ONCE):
      some = boxes[start : start + BOXES_AT_ONCE]
      padded = np.concatenate([some, np.repeat(some[-1:], BOXES_AT_ONCE - len(some), 0)])
      answers.extend(np.asarray(self._decode(variables, embedding, jnp.asarray(padded), None))[: len(some)])
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
