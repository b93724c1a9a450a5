"""What templates say of the scans that fine-tuning learns from: searched and voted once, and kept in files."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medlsam_jax import pipeline
from medlsam_jax.cli import networks_and_banks
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.errors import InputError, TemplateError
from medlsam_jax.finding import OUTSIDE
from medlsam_jax.geometry import Box
from medlsam_jax.io.templates import Template
from medlsam_jax.label_boxes import find_labels
from medlsam_jax.loading import load
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.network import Network
from medlsam_jax.sam.finetuning.mask_batches import labelled
from medlsam_jax.sam.finetuning.settings import FinetuneDataSettings, FinetuneSettings
from medlsam_jax.sam.finetuning.template_questions import FOLDER
from medlsam_jax.sam.labelled_slices import LabelledScan
from medlsam_jax.template_masks.masks import votes
from medlsam_jax.template_masks.votes import Vote
from medlsam_jax.template_masks.votes_file import FOUND, JITTERED, file_name, read_votes, write_votes
from medlsam_jax.train.run_folder import Folder, at, folder_of_a_run, local_copy, whole_file


@dataclasses.dataclass(frozen=True)
class _Maker:
  """Searches scans and has the templates vote on them."""

  network: Network
  bank: Bank
  data: FinetuneDataSettings
  seed: int

  @property
  def made_from(self) -> str:
    """All that a vote depends on besides its scan."""
    digest = hashlib.sha256()
    for organ, crops in sorted(self.bank.crops.items()):
      digest.update(organ.encode())
      for crop in crops:
        digest.update(crop.image.tobytes() + crop.mask.tobytes())
    return f"{self.network.sha256}|{digest.hexdigest()}|{self.data.vote_jitter_mm:g}|{self.seed}"

  def votes(self, person: Template, learns: bool) -> dict[str, dict[str, Vote]]:
    """From found boxes; for scans to learn from besides from their labels' own, moved at random."""
    # a template would vote for its own label
    bank = self.bank.without(person.name) if person.name in self.bank.templates else self.bank
    organs = [organ for organ in bank.crops if organ in person.values]
    if not organs:
      return {}
    found = pipeline.localize(self.network, bank, person.scan, self.seed, organs=organs)
    made: dict[str, dict[str, Sequence[Box]]] = {
      FOUND: {organ: each.parts for organ, each in found.items() if each.verdict != OUTSIDE}
    }
    if learns and self.data.vote_jitter_mm:
      made[JITTERED] = self._jittered(person, organs)
    grid, crops = person.scan.grid, bank.crops
    return {
      kind: {organ: vote.shown(grid) for organ, vote in votes(person.scan, boxes, crops)}
      for kind, boxes in made.items()
    }

  def _jittered(self, person: Template, organs: Sequence[str]) -> dict[str, Sequence[Box]]:
    assert person.labels is not None
    rng = np.random.default_rng([self.seed, *person.name.encode()])
    where = find_labels(person.labels.array)
    boxes: dict[str, Sequence[Box]] = {}
    for organ in organs:
      move = rng.normal(0, self.data.vote_jitter_mm, (2, 3)) / person.scan.spacing_mm
      low, high = np.sort(Box.from_slices(where[person.values[organ]]).array() + move, 0)
      boxes[organ] = (Box.from_corners(low, high),)
    return boxes


def make(arguments: argparse.Namespace, settings: FinetuneSettings, workdir: Folder, terminal: Terminal) -> None:
  """Makes the files of votes that are not there yet, for the scans of a run.

  Raises:
    TemplateError: the bank cannot be used, or its templates have no mask of any organ.
    InputError: a scan cannot be used.
    OutputError: a file cannot be written.
  """
  data = settings.data
  network = load(arguments.localizer)
  bank, _, _ = networks_and_banks.bank_of(arguments, network, terminal)
  if not bank.crops:
    raise TemplateError(f"{arguments.bank}: its templates have no masks to vote with; build it from label maps")
  maker = _Maker(network, bank, data, settings.seed)
  folder = at(data.votes) if data.votes else workdir / FOLDER
  people = [(person, True) for person in labelled(data.scans, data)]
  people += [(person, False) for person in labelled(data.validation, data)]
  made_from = maker.made_from
  with folder_of_a_run(folder), terminal.bar("templates vote on the scans to learn from") as bar:
    for done, (person, learns) in enumerate(people):
      bar(done, len(people))
      assert person.labels is not None
      shown = LabelledScan.of(person.name, person.scan, person.labels, person.values)
      path = folder / file_name(person.name, shown.hu)
      if not _is_made(path, made_from):
        made = maker.votes(person, learns)
        with whole_file(path) as part:
          write_votes(part, made, made_from)
    bar(len(people), len(people))


def _is_made(path: Folder, made_from: str) -> bool:
  if not path.exists():
    return False
  try:
    return read_votes(Path(local_copy(str(path))))[1] == made_from
  except InputError:  # damaged: made anew
    return False
