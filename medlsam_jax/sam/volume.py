"""A scan and boxes of its organs -> the voxels of a label map on the scan's own grid, slice by slice.

Each slice that any organ needs is encoded once and all its boxes are decoded together. On a CPU, while the network
computes on one slice, another thread prepares the next one (`sliced_scan`) and paints the one before; elsewhere slices
are painted on the device (`device_painting`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Integer

from medlsam_jax import platform
from medlsam_jax.geometry import Box, Volume
from medlsam_jax.progress import Progress
from medlsam_jax.sam import device_painting
from medlsam_jax.sam.clean_up import clean_labels
from medlsam_jax.sam.device_propagation import DeviceSweep
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam.propagation import AXES, HostSweep, PropagationSettings, paint_middle_out
from medlsam_jax.sam.segmentation_settings import LITEMEDSAM, SegmentationSettings
from medlsam_jax.sam.sliced_scan import SlicedScan
from medlsam_jax.sam.slices import ImageFit


def paint_volume(
  volume: Volume,
  boxes: Mapping[str, Sequence[Box]],
  values: Mapping[str, int],
  predictor: Predictor,
  settings: SegmentationSettings = LITEMEDSAM,
  propagation: PropagationSettings | None = None,
  progress: Progress | None = None,
) -> Integer[np.ndarray, "z y x"]:
  """Paints every organ inside its boxes.

  Where organs overlap the voxel goes to the more probable one, and to the earlier in `boxes` on a tie.

  Args:
    volume: the scan, HU.
    boxes: organ -> its parts in scan voxels (z, y, x). They may overlap, leave gaps, reach outside the scan (clipped)
      or have crossed corners (sorted); one-slice boxes prompt slice by slice. An organ without any, or with all of them
      outside the scan, stays empty, with a warning.
    values: organ -> label value, of these organs at least.
    predictor: encodes and decodes.
    settings: how slices and boxes are prepared.
    propagation: how slices depend on one another, and the planes to cut; None: boxes alone, axial slices.
    progress: called after each slice; with several planes for each one's slices in turn.

  Returns:
    Label values in the order of the scan's voxels, in the smallest unsigned integer type.

  Raises:
    InputError: a box with NaN, NaN or infinite voxels in a slice that is needed.
  """
  propagation = propagation or PropagationSettings()
  values = {organ: values[organ] for organ in boxes}
  answers = []
  for plane in tuple(AXES) if propagation.axes == "all" else (propagation.axes,):
    scan = SlicedScan(volume, AXES[plane], predictor, settings)
    array, labels = scan.blank(values)
    if propagation.mode == "boxes":
      paint_slices = device_painting.paint_slices if platform.slices_together() else _paint_slices
      paint_slices(scan, boxes, values, labels, progress)
    else:
      sweep = DeviceSweep if platform.slices_together() else HostSweep
      paint_middle_out(scan, boxes, values, labels, propagation.margin_px, progress, sweep)
    if settings.largest_component or settings.fill_holes:
      clean_labels(labels, settings.largest_component, settings.fill_holes)
    answers.append(array)
  return answers[0] if len(answers) == 1 else majority(*answers)


def majority(
  first: Integer[np.ndarray, "z y x"], second: Integer[np.ndarray, "z y x"], third: Integer[np.ndarray, "z y x"]
) -> Integer[np.ndarray, "z y x"]:
  """The label that at least two of three maps give a voxel; 0 where all differ."""
  agreed = np.where((first == second) | (first == third), first, 0)
  return np.where(second == third, second, agreed).astype(first.dtype)


def _paint_slices(
  scan: SlicedScan,
  boxes: Mapping[str, Sequence[Box]],
  values: Mapping[str, int],
  labels: Integer[np.ndarray, "slice row column"],
  progress: Progress | None,
) -> None:
  """Each slice by its boxes alone."""
  plan = scan.plan(boxes)

  def paint(index: int, logits: np.ndarray) -> None:
    labels[index] = _resolve([values[organ] for organ, _ in plan[index]], logits, scan.fit, labels.dtype)

  with ThreadPoolExecutor(1, "slices") as beside:
    painting: Future[None] | None = None
    for done, (index, embedding) in enumerate(scan.embeddings(sorted(plan), beside), 1):
      if embedding is not None:
        edges = np.stack([box for _, box in plan[index]])
        logits, _ = scan.predictor.decode(embedding, scan.prompts(edges))
        if painting is not None:
          painting.result()
        painting = beside.submit(paint, index, logits)
      if progress is not None:
        progress(done, len(plan))
    if painting is not None:
      painting.result()


def _resolve(
  values: Sequence[int], logits: Float[np.ndarray, "k low low"], fit: ImageFit, dtype: np.dtype
) -> Integer[np.ndarray, "row column"]:
  """Label of each pixel: the organ of the largest logit (hence probability) above zero, else 0."""
  best = np.zeros((fit.rows, fit.columns), np.float32)
  labels = np.zeros((fit.rows, fit.columns), dtype)
  for value, low in zip(values, logits, strict=True):
    inside = fit.from_positive_logits(low)
    if inside is not None:
      window, full = inside
      better = full > best[window]
      best[window][better] = full[better]
      labels[window][better] = value
  return labels
