"""The prompt study: which prompts work on CT slices, by mode S1-S6, with and without knowledge of the truth.

For every organ of every slice the network is asked with prompts made from the truth. Of the three candidate masks the
study keeps the best against the truth (`oracle`, as published); beside it stand what can be had without the truth:
the candidate of highest predicted IoU (`predicted`) and the network's single answer (`single`). Everything mode (S1)
does not say which mask is which organ: there is only an oracle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage, stats
from scipy.spatial import distance

from medlsam_jax import metrics
from medlsam_jax.evaluation import prompt_making as making
from medlsam_jax.evaluation.mask_factors import Factors, factors_of
from medlsam_jax.progress import Progress
from medlsam_jax.sam.everything import EverythingSettings, segment_everything
from medlsam_jax.sam.labelled_slices import LabelledSlices, Shown
from medlsam_jax.sam.predictor import EncodedImage, Predictor
from medlsam_jax.sam.prompts import Prompt

CHOICES = ("oracle", "predicted", "single")
FACTORS = tuple(field.name for field in dataclasses.fields(Factors))
_AT_ONCE = 16
"""Prompts of one run of the decoder: a single program serves the whole study."""


@dataclasses.dataclass(frozen=True)
class StudyRow:
  """One answer: of an organ in a slice, to one prompt, by one choice among the candidates."""

  scan: str
  slice: int
  organ: str
  mode: str
  disturbance: str
  """Empty: none."""
  level: int
  """1 to 3; 0 without a disturbance."""
  choice: str
  dice: float
  jaccard: float
  hausdorff_mm: float
  """An empty answer is as far away as the slice's corners from one another."""
  boundary_order: int
  intensity_difference: float
  size_mm2: float
  aspect_ratio: float


@dataclasses.dataclass(frozen=True)
class StudySettings:
  """What to ask."""

  modes: tuple[str, ...] = making.MODES
  disturb: bool = True
  everything: EverythingSettings = dataclasses.field(
    default_factory=lambda: EverythingSettings(predicted_iou=0.0, stability=0.0)
  )
  """For S1; without filters by default: their limits were chosen for SAM on photographs."""
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class _Question:
  organ: str
  mode: str
  disturbance: str
  level: int
  prompt: Prompt


def run_study(
  slices: LabelledSlices,
  spacings_mm: Sequence[tuple[float, float]],
  predictor: Predictor,
  settings: StudySettings | None = None,
  progress: Progress | None = None,
) -> list[StudyRow]:
  """Asks for every organ of every slice in every mode.

  Args:
    slices: what to ask about, with the truth.
    spacings_mm: rows and columns of each of its scans.
    predictor: answers.
    progress: called with slices done and in all.

  Raises:
    InputError: a slice that the network does not take.
  """
  settings = settings or StudySettings()
  rows: list[StudyRow] = []
  for done, item in enumerate(slices.items, 1):
    grey, spacing = slices.grey(item), spacings_mm[item.scan]
    masks = {organ: slices.mask(item, organ) for organ in item.organs}
    about = {organ: factors_of(mask, grey, spacing) for organ, mask in masks.items()}
    image = predictor.encode_images([grey])[0]
    questions = list(_questions(item, masks, settings))
    answers = _answered(predictor, image, questions, masks)
    predictions = [(q, choice, mask) for q, by_choice in answers for choice, mask in by_choice.items()]
    if "S1" in settings.modes:
      everything = [each.mask for each in segment_everything(grey, predictor, settings.everything)]
      predictions += [(_Question(o, "S1", "", 0, Prompt()), "oracle", best_of(everything, m)) for o, m in masks.items()]
    for question, choice, mask in predictions:
      truth = masks[question.organ]
      rows.append(
        StudyRow(
          slices.scans[item.scan].name,
          item.index,
          question.organ,
          question.mode,
          question.disturbance,
          question.level,
          choice,
          metrics.dice(mask, truth),
          metrics.jaccard(mask, truth),
          hausdorff_mm(mask, truth, spacing),
          **dataclasses.asdict(about[question.organ]),
        )
      )
    if progress is not None:
      progress(done, len(slices))
  return rows


def _questions(item: Shown, masks: dict[str, np.ndarray], settings: StudySettings) -> Iterator[_Question]:
  for organ, mask in masks.items():
    for mode in settings.modes:
      if mode != "S1":
        yield _Question(organ, mode, "", 0, making.prompt_of(mode, mask))
    for number, (how, mode) in enumerate(making.DISTURBANCES.items() if settings.disturb else ()):
      for level in range(len(making.LEVELS_PX)):
        name = [ord(letter) for letter in organ]
        rng = np.random.default_rng([settings.seed, item.scan, item.index, number, level, *name])
        prompt = making.disturbed(making.prompt_of(mode, mask), how, level, mask.shape, rng)
        yield _Question(organ, mode, how, level + 1, prompt)


def _answered(
  predictor: Predictor, image: EncodedImage, questions: list[_Question], masks: dict[str, np.ndarray]
) -> Iterator[tuple[_Question, dict[str, Bool[np.ndarray, "row column"]]]]:
  for start in range(0, len(questions), _AT_ONCE):
    some = questions[start : start + _AT_ONCE]
    # repeated up to one size, with as many tokens in every run, so that nothing is compiled anew
    prompts = [question.prompt for question in some]
    prompts += [_FILLER] * (_AT_ONCE - len(some))
    low, quality = predictor.answer(image, prompts, multimask=True)
    single, _ = predictor.answer(image, prompts)
    for number, question in enumerate(some):
      candidates = list(image.upsampled(low[number]) > 0)
      yield (
        question,
        {
          "oracle": best_of(candidates, masks[question.organ]),
          "predicted": candidates[int(np.argmax(quality[number]))],
          "single": image.upsampled(single[number])[0] > 0,
        },
      )


_FILLER = Prompt(box=np.array([0.0, 0.0, 1.0, 1.0]))


def best_of(candidates: Sequence[np.ndarray], truth: Bool[np.ndarray, "row column"]) -> Bool[np.ndarray, "row column"]:
  """The candidate of the highest Dice; an empty mask where there are none."""
  return max(candidates, key=lambda mask: metrics.dice(mask, truth), default=np.zeros_like(truth))


def hausdorff_mm(
  first: Bool[np.ndarray, "row column"], second: Bool[np.ndarray, "row column"], spacing_mm: tuple[float, float]
) -> float:
  """Hausdorff distance of two outlines (pixels with a neighbour outside), mm; one empty: the slice's diagonal."""
  if not first.any() or not second.any():
    both = not first.any() and not second.any()
    return 0.0 if both else float(np.linalg.norm(np.multiply(first.shape, spacing_mm)))
  outlines = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.array(spacing_mm) for mask in (first, second)]
  there, back = distance.directed_hausdorff(*outlines)[0], distance.directed_hausdorff(*outlines[::-1])[0]
  return float(max(there, back))


def spearman(rows: Sequence[StudyRow], mode: str, choice: str) -> dict[str, tuple[float, float]]:
  """Factor -> Spearman correlation with Dice and its p-value; NaN where something does not vary.

  Organs and neighbouring slices of one person are not independent: the p-value is too small.
  """
  chosen = [row for row in rows if (row.mode, row.choice, row.disturbance) == (mode, choice, "")]
  correlations = dict[str, tuple[float, float]]()
  for factor in FACTORS:
    values: Float[np.ndarray, " n"] = np.array([getattr(row, factor) for row in chosen], float)
    if factor == "intensity_difference":
      values = np.abs(values)
    scores = np.array([row.dice for row in chosen])
    if len(chosen) < 3 or np.ptp(values) == 0 or np.ptp(scores) == 0:
      correlations[factor] = (float("nan"), float("nan"))
      continue
    test = stats.spearmanr(values, scores)
    correlations[factor] = (float(test.statistic), float(test.pvalue))
  return correlations
