"""A scan and its templates' votes -> the voxels of a label map: slice by slice they prompt a network, by box and mask.

Both then have a say: the probability of a pixel is the vote's by a share, and the network's by the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Array, Float, Integer

from medlsam_jax.geometry import DISPLAY_AXIS_CODES, Volume
from medlsam_jax.progress import Progress
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam.segmentation_settings import LITEMEDSAM, SegmentationSettings
from medlsam_jax.sam.sliced_scan import SlicedScan
from medlsam_jax.sam.template_prompts import LIKELY, asked, blended, edges_of, mask_of, plane_of
from medlsam_jax.template_masks.votes import Vote

Planes = dict[str, Float[np.ndarray, "row column"]]
"""Organs of a slice: how likely each of its pixels is, by the templates."""


def paint_from_votes(
  volume: Volume,
  votes: Mapping[str, Vote],
  values: Mapping[str, int],
  predictor: Predictor,
  vote_share: float,
  settings: SegmentationSettings = LITEMEDSAM,
  progress: Progress | None = None,
) -> Integer[np.ndarray, "z y x"]:
  """Paints every organ in the slices in which its templates see it; the likeliest wins where organs overlap.

  Args:
    volume: the scan, HU.
    votes: of `template_masks.masks.votes`, along the working grid's directions.
    values: organ -> label value, of these organs at least.
    predictor: encodes and decodes.
    vote_share: the vote's part in a probability, from 0 (the network alone) to 1.
    settings: how slices and boxes are prepared.
    progress: called after each slice.

  Returns:
    Label values in the order of the scan's voxels, in the smallest unsigned integer type.

  Raises:
    InputError: NaN or infinite voxels in a slice that is needed.
  """
  scan = SlicedScan(volume, DISPLAY_AXIS_CODES, predictor, settings)
  array, labels = scan.blank({organ: values[organ] for organ in votes})
  plan = planes_by_slice({organ: vote.shown(volume.grid) for organ, vote in votes.items()}, scan.hu.shape)
  with ThreadPoolExecutor(1, "slices") as beside:
    for done, (index, embedding) in enumerate(scan.embeddings(sorted(plan), beside), 1):
      planes = plan[index] if embedding is None else _answered(scan, embedding, plan[index], vote_share)
      best = np.full(labels.shape[1:], LIKELY, np.float32)
      for organ, plane in planes.items():
        more = plane > best
        best[more] = plane[more]
        labels[index][more] = values[organ]
      if progress is not None:
        progress(done, len(plan))
  return array


def planes_by_slice(votes: Mapping[str, Vote], shape: tuple[int, ...]) -> dict[int, Planes]:
  """Slice -> the organs to ask for in it; votes and `shape` in the order of the slices."""
  plan: dict[int, Planes] = {}
  for organ, vote in votes.items():
    for index in range(*vote.window[0].indices(shape[0])):
      plane = plane_of(vote, index, shape[1], shape[2])
      if plane is not None:
        plan.setdefault(index, {})[organ] = plane
  return plan


def _answered(scan: SlicedScan, embedding: Array, planes: Planes, vote_share: float) -> Planes:
  """The planes of one slice once the network has been asked."""
  predictor = scan.predictor
  cells, pixels = predictor.window_cells, predictor.image_size * 4 // predictor.low_size
  boxes = scan.prompts(np.stack([edges_of(plane) for plane in planes.values()]))

  def decode(embedding: Array | np.ndarray, box: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return predictor.decode(embedding, box, mask)[0]

  answers = {}
  for (organ, plane), box in zip(planes.items(), boxes, strict=True):
    question = box.astype(np.float32), mask_of(plane, scan.fit, predictor.low_size)
    logits = asked(decode, embedding, question, cells, pixels)
    answers[organ] = blended(plane, scan.fit.from_logits(logits), vote_share)
  return answers
