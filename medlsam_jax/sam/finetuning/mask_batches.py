"""Labelled slices -> batches of images or embeddings, boxes and masks, which follow from the seed and the step."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from medlsam_jax import notices
from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.io.templates import Template, read_templates
from medlsam_jax.phantom.people import make_phantom
from medlsam_jax.sam.finetuning.settings import FinetuneDataSettings, LabelledDataSettings
from medlsam_jax.sam.finetuning.slice_order import SliceOrder
from medlsam_jax.sam.finetuning.template_questions import TemplateQuestions
from medlsam_jax.sam.labelled_slices import LabelledScan, LabelledSlices
from medlsam_jax.sam.network.sam import SamVariant
from medlsam_jax.sam.slices import ImageFit
from medlsam_jax.sam.template_prompts import Window

VALIDATION_SEED = 10**6
"""First phantom seed of validation."""


class MaskBatch(NamedTuple):
  """`n` questions with their answers."""

  inputs: Float[np.ndarray, "n ..."]
  """Images `(n, s, s, 3)`, or embeddings `(n, g, g, c)` where the encoder stays as it is."""
  boxes: Float32[np.ndarray, "n 4"]
  """(x0, y0, x1, y1) pixels of the network's image."""
  truth: Bool[np.ndarray, "n low low"]
  masks: Float32[np.ndarray, "n low low"] | None = None
  """Logits of mask prompts, where there are any."""


class MaskSource:
  """This process's rows of any step's batch: slices in shuffled order, epoch after epoch, an organ drawn for each."""

  def __init__(
    self,
    slices: LabelledSlices,
    embeddings: Float[np.ndarray, "n g g c"] | None,
    settings: FinetuneDataSettings,
    seed: int,
    rows: range,
    steps: int,
    questions: TemplateQuestions | None = None,
  ):
    self._slices, self._embeddings, self._settings, self._questions = slices, embeddings, settings, questions
    self._seed, self._steps = seed, steps
    self._order = SliceOrder(len(slices), settings.images_per_step, seed, rows)

  def __len__(self) -> int:
    return self._steps

  def __getitem__(self, step: int) -> MaskBatch:
    inputs, boxes, truth, masks = [], [], [], []
    jitter_px = self._settings.jitter_px
    for place, chosen in self._order.of_step(step):
      item, rng = self._slices.items[chosen], np.random.default_rng([self._seed, 1, place])
      organ = item.organs[rng.integers(len(item.organs))]
      shown = self._slices.image(item) if self._embeddings is None else self._embeddings[chosen]
      answer = self._slices.low_mask(item, organ)
      if self._questions is None:
        box = self._slices.box(item, organ, rng, jitter_px)
      else:
        box, mask = self._questions.drawn(self._slices, item, organ, rng, jitter_px)
        if self._settings.window_cells:
          fit, grid = self._slices.fit_of(item), len(shown)
          window = Window.around(box, self._settings.window_cells, grid, fit.image_size // grid)
          shown, box, mask, answer = window.cell(shown), window.box(box), window.low(mask), window.low(answer)
        masks.append(mask)
      inputs.append(shown)
      boxes.append(box)
      truth.append(answer)
    return MaskBatch(np.stack(inputs), np.stack(boxes), np.stack(truth), np.stack(masks) if masks else None)


def slices_to_learn(data: FinetuneDataSettings, variant: SamVariant) -> LabelledSlices:
  """The training set.

  Raises:
    ConfigError: it is empty.
    InputError: a scan cannot be used, or an organ is nowhere in it.
  """
  scans = _scans(data.scans, data) + _phantoms(data.first_phantom_seed, data.phantoms, data.organs)
  if not scans:
    raise ConfigError("nothing to learn from: give data.scans, or a number of data.phantoms")
  slices = _slices(scans, data, variant, data.windows, data.least_pixels, data.slice_step)
  missing = [organ for organ in data.organs if organ not in slices.organs]
  if missing or not len(slices):
    raise InputError(
      f"data.scans {', '.join(data.scans) or '(phantoms)'}: no slice shows {', '.join(missing) or 'any organ'} with at "
      f"least {data.least_pixels:g} pixels (data.least_pixels, data.slice_step {data.slice_step}); name organs that "
      "are there"
    )
  return slices


def slices_to_validate(
  data: FinetuneDataSettings, variant: SamVariant, learnt: LabelledSlices
) -> LabelledSlices | None:
  """Held-out slices, however small an organ is in them; None where none are set aside.

  Raises:
    InputError: a scan cannot be used, or no slice shows an organ that is learned.
    ConfigError: a scan is among those to learn from, too.
  """
  scans = _scans(data.validation, data) + _phantoms(VALIDATION_SEED, data.validation_phantoms, data.organs)
  known = {Path(scan.source).resolve() for scan in learnt.scans}
  both = sorted(scan.source for scan in scans if Path(scan.source).resolve() in known)
  if both:
    raise ConfigError(f"data.validation: {', '.join(both)} would be trained on, too; take it from one of the two")
  if not (data.validation or data.validation_phantoms):
    return None
  slices = _slices(scans, data, variant, data.windows[:1], 0.0, data.validation_slice_step)
  shown = set(slices.organs) & set(learnt.organs)
  if not shown:
    wanted = ", ".join(sorted(learnt.organs))
    raise InputError(
      f"data.validation {', '.join(data.validation) or '(phantoms)'}: no slice shows any of {wanted} "
      f"(data.organs, data.validation_slice_step {data.validation_slice_step}); give scans that have them, or leave "
      "data.validation out"
    )
  if unseen := sorted(set(learnt.organs) - shown):
    notices.warn(f"data.validation shows nothing of {', '.join(unseen)}; what is learned of them is not measured")
  return slices


def _slices(
  scans: list[LabelledScan],
  data: FinetuneDataSettings,
  variant: SamVariant,
  windows: tuple[str, ...],
  least_pixels: float,
  step: int,
) -> LabelledSlices:
  def fit(rows: int, columns: int) -> ImageFit:
    return ImageFit(rows, columns, variant.image_size, variant.scaling, variant.resampling)

  return LabelledSlices(scans, fit, variant.pixels, 4 * variant.grid, windows, step, least_pixels)


def labelled(entries: tuple[str, ...], data: LabelledDataSettings) -> list[Template]:
  """The scans with label maps of folders and lists.

  Raises:
    InputError: a scan cannot be used.
  """
  read = [
    each
    for entry in entries
    for each in read_templates(entry, data.organs or None, series=data.series or None, hu_offset=data.hu_offset or None)
  ]
  return [each for each in read if each.labels is not None and each.values]


def _scans(entries: tuple[str, ...], data: FinetuneDataSettings) -> list[LabelledScan]:
  people = labelled(entries, data)
  return [LabelledScan.of(each.name, each.scan, each.labels, each.values) for each in people if each.labels is not None]


def _phantoms(first_seed: int, count: int, organs: tuple[str, ...]) -> list[LabelledScan]:
  scans = []
  for seed in range(first_seed, first_seed + count):
    made = make_phantom(seed)
    values = {organ: value for organ, value in made.names.items() if not organs or organ in organs}
    scans.append(LabelledScan.of(f"phantom_{seed}", made.scan, made.labels, values))
  return scans
