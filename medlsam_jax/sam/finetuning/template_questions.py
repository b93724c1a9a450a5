"""Questions of fine-tuning that templates ask: their vote of an organ in a slice, by box and mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from etils import epath
from jaxtyping import Float32

from medlsam_jax.errors import InputError
from medlsam_jax.sam.labelled_slices import LabelledScan, LabelledSlices, Shown
from medlsam_jax.sam.segmentation_settings import LITEMEDSAM
from medlsam_jax.sam.template_prompts import edges_of, mask_of, plane_of
from medlsam_jax.template_masks.votes import Vote
from medlsam_jax.template_masks.votes_file import FOUND, Votes, file_name, read_votes
from medlsam_jax.train.run_folder import local_copy

FOLDER = "votes"
Plane = Float32[np.ndarray, "row column"]
Question = tuple[Float32[np.ndarray, "4"], Float32[np.ndarray, "low low"]]
"""Box (x0, y0, x1, y1) in pixels of the network's image, and logits of the mask."""


@dataclasses.dataclass(frozen=True)
class TemplateQuestions:
  """What templates say of each scan, in the order of `scans`."""

  scans: Sequence[LabelledScan]
  votes: Sequence[Votes]

  @classmethod
  def read(cls, scans: Sequence[LabelledScan], folder: epath.Path) -> TemplateQuestions:
    """From the files of `folder`.

    Raises:
      InputError: a scan has no file there, or one that cannot be used.
    """
    votes = []
    for scan in scans:
      path = folder / file_name(scan.name, scan.hu)
      if not path.exists():
        raise InputError(
          f"{scan.source}: the templates' votes are not in {folder}; `medlsam finetune --bank` makes them"
        )
      votes.append(read_votes(Path(local_copy(str(path))))[0])
    return cls(scans, votes)

  def asked(self, scan: int, index: int) -> set[str]:
    """Organs that a vote sees in a slice."""
    return {
      organ
      for votes in self.votes[scan].values()
      for organ in votes
      if self._plane(scan, index, votes, organ) is not None
    }

  def asked_or_labelled(self, scan: int, index: int) -> set[str]:
    """Organs that the vote from found boxes sees in a slice, or that are there."""
    there = self.scans[scan]
    labelled = {organ for organ, value in there.values.items() if np.any(there.labels[index] == value)}
    found = self.votes[scan].get(FOUND, {})
    return labelled | {organ for organ in found if self._plane(scan, index, found, organ) is not None}

  def drawn(
    self, slices: LabelledSlices, item: Shown, organ: str, rng: np.random.Generator, jitter_px: int
  ) -> Question:
    """One of the votes that see the organ in the slice, the box moved outward at random."""
    planes = [self._plane(item.scan, item.index, votes, organ) for votes in self.votes[item.scan].values()]
    seen = [plane for plane in planes if plane is not None]
    plane = seen[rng.integers(len(seen))]
    box = slices.prompt(item, edges_of(plane), rng, jitter_px)
    return box, mask_of(plane, slices.fit_of(item), slices.low_size)

  def found(self, item: Shown, organ: str) -> Plane | None:
    """The vote from found boxes; None where it does not see the organ in the slice."""
    return self._plane(item.scan, item.index, self.votes[item.scan].get(FOUND, {}), organ)

  def as_painted(self, slices: LabelledSlices, item: Shown, plane: Plane) -> Question:
    """The question that painting a scan would ask."""
    box = slices.prompt(item, edges_of(plane), margin_px=LITEMEDSAM.margin_px)
    return box, mask_of(plane, slices.fit_of(item), slices.low_size)

  def _plane(self, scan: int, index: int, votes: Mapping[str, Vote], organ: str) -> Plane | None:
    _, rows, columns = self.scans[scan].hu.shape
    return plane_of(votes[organ], index, rows, columns) if organ in votes else None


def questions_to_learn(slices: LabelledSlices, folder: epath.Path) -> tuple[TemplateQuestions, LabelledSlices]:
  """What templates say of these scans, and the slices in which they see an organ that is labelled somewhere.

  Raises:
    InputError: votes are missing, or see nothing.
  """
  questions = TemplateQuestions.read(slices.scans, folder)
  asking = slices.asking(questions.asked)
  if not len(asking):
    raise InputError(f"{folder}: the templates' votes see no organ in any slice that is looked at (data.slice_step)")
  return questions, asking


def questions_to_validate(slices: LabelledSlices, folder: epath.Path) -> tuple[TemplateQuestions, LabelledSlices]:
  """The same of held-out scans; what is there and no vote sees counts, too.

  Raises:
    InputError: votes are missing.
  """
  questions = TemplateQuestions.read(slices.scans, folder)
  return questions, slices.asking(questions.asked_or_labelled)
