"""Labelled scans of a run of training adapters: those to learn from, on the working spacing, and those held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medlsam_jax import notices
from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.geometry import Volume
from medlsam_jax.io.alignment import align_labels
from medlsam_jax.label_boxes import find_labels
from medlsam_jax.phantom.people import make_phantom
from medlsam_jax.sam.finetuning.mask_batches import VALIDATION_SEED, labelled
from medlsam_jax.sam3d.training.cube_validation import HeldOut
from medlsam_jax.sam3d.training.labelled_cubes import SpacedScan
from medlsam_jax.sam3d.training.settings import CubeDataSettings


class _Labelled(NamedTuple):
  name: str
  scan: Volume
  labels: Volume
  values: dict[str, int]


class ScansToLearn(NamedTuple):
  """What is learned from."""

  scans: list[SpacedScan]
  organs: tuple[str, ...]
  """By their numbers in the scans, from 1."""


def scans_to_learn(data: CubeDataSettings, margin: int) -> ScansToLearn:
  """The training set; `margin` voxels of the working spacing around organs.

  Raises:
    ConfigError: it is empty.
    InputError: a scan cannot be used, or an organ is nowhere in it, as labelled or on the working spacing.
  """
  people = _all(data.scans, data.first_phantom_seed, data.phantoms, data)
  if not people:
    raise ConfigError("nothing to learn from: give data.scans, or a number of data.phantoms")
  shown = {organ for each in people for organ in _present(each)}
  if missing := [organ for organ in data.organs if organ not in shown]:
    raise InputError(f"data.scans {', '.join(data.scans) or '(phantoms)'}: no scan shows {', '.join(missing)}")
  organs = tuple(data.organs or sorted(shown))
  if len(organs) > 255:
    raise ConfigError(f"{len(organs)} organs; one adapter file learns 255 at most: name fewer in data.organs")
  scans = []
  for each in people:
    numbers = {value: organs.index(organ) + 1 for organ, value in each.values.items() if organ in organs}
    if _present(each) & set(organs):
      scans.append(SpacedScan.of(each.name, each.scan, each.labels, numbers, data.spacing_mm, margin))
    else:
      notices.warn(f"{each.scan.source}: shows none of the organs that are to be learned; left out")
  left = {number for scan in scans for number in scan.boxes}
  if lost := [organ for number, organ in enumerate(organs, 1) if number not in left]:
    raise InputError(
      f"data.spacing_mm {data.spacing_mm}: so coarse that nothing is left of {', '.join(lost)} in any scan; take a "
      "finer one, or leave these organs out of data.organs"
    )
  return ScansToLearn(scans, organs)


def scans_to_validate(data: CubeDataSettings, learnt: ScansToLearn) -> list[HeldOut]:
  """Held-out scans with the organs of them that are learned.

  Raises:
    InputError: a scan cannot be used, or none shows an organ that is learned.
    ConfigError: a scan is among those to learn from, too.
  """
  people = _all(data.validation, VALIDATION_SEED, data.validation_phantoms, data)
  known = {Path(scan.source).resolve() for scan in learnt.scans}
  if both := sorted(each.scan.source for each in people if Path(each.scan.source).resolve() in known):
    raise ConfigError(f"data.validation: {', '.join(both)} would be trained on, too; take it from one of the two")
  held_out = []
  for each in people:
    aligned = align_labels(each.labels, each.scan.grid, each.scan.source, each.scan.file_grid)
    present = _present(each)
    values = {organ: value for organ, value in each.values.items() if organ in learnt.organs and organ in present}
    held_out.append(HeldOut(each.name, each.scan.source, each.scan, aligned.array, values))
  shown = {organ for each in held_out for organ in each.values}
  if people and not shown:
    raise InputError(
      f"data.validation {', '.join(data.validation) or '(phantoms)'}: shows none of {', '.join(learnt.organs)}; give "
      "scans that have them, or leave data.validation out"
    )
  if people and (unseen := sorted(set(learnt.organs) - shown)):
    notices.warn(f"data.validation shows nothing of {', '.join(unseen)}; what is learned of them is not measured")
  return held_out


def _all(entries: Sequence[str], first_seed: int, phantoms: int, data: CubeDataSettings) -> list[_Labelled]:
  people = [
    _Labelled(each.name, each.scan, each.labels, each.values)
    for each in labelled(tuple(entries), data)
    if each.labels is not None
  ]
  for seed in range(first_seed, first_seed + phantoms):
    made = make_phantom(seed)
    values = {organ: value for organ, value in made.names.items() if not data.organs or organ in data.organs}
    people.append(_Labelled(f"phantom_{seed}", made.scan, made.labels, values))
  return people


def _present(each: _Labelled) -> set[str]:
  found = find_labels(each.labels.array)
  return {organ for organ, value in each.values.items() if value in found}
