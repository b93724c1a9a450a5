"""The network and the bank behind the page: find, paint, and see how the bank's own check changes when it grows."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from medlsam_jax import loading, pipeline
from medlsam_jax.errors import TemplateError
from medlsam_jax.evaluation import bank_check
from medlsam_jax.evaluation.case import Row
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Volume
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.packaged_banks import folder_of
from medlsam_jax.io.scans import ReadingOptions
from medlsam_jax.io.templates import Templates, annotations_beside, read_templates
from medlsam_jax.io.weights.fetch import PUBLISHED, cached_weights
from medlsam_jax.medlam.bank.bank import Bank, Mode
from medlsam_jax.medlam.bank.kept_outputs import KeptOutputs
from medlsam_jax.network import Network
from medlsam_jax.view.jobs import Job
from medlsam_jax.view.template_folder import TemplateFolder


@dataclasses.dataclass(frozen=True)
class Choice:
  """What was asked for on the command line."""

  network: str = "open"
  bank: str | None = None
  """Name of a bank of the package; its templates come before those of the folder."""
  file: str | None = None
  """A bank that was built before; it cannot grow."""
  seed: int = 0
  reading: ReadingOptions = dataclasses.field(default_factory=ReadingOptions)


class Engine:
  """Holds what takes long to make: network, templates, bank, what its last check said. Used by one thread, the jobs'.

  Args:
    kept: gives the bank of the package alone, where it was built before.
  """

  def __init__(
    self, choice: Choice, folder: TemplateFolder, kept: Callable[[Network], Bank | None] = lambda network: None
  ) -> None:
    self.choice, self.folder, self._kept = choice, folder, kept
    self._templates: tuple[object, Templates] | None = None
    self._bank: tuple[object, Bank] | None = None
    self._rows: dict[tuple[object, tuple[str, ...]], list[Row]] = {}

  @cached_property
  def network(self) -> Network:
    """The MedLAM that looks for organs.

    Raises:
      WeightsError: it cannot be used.
    """
    return loading.load(self.choice.network)

  def has_bank(self) -> bool:
    """Whether there is anything to look for organs with."""
    return bool(self.choice.file or self.choice.bank or self.folder.scans())

  @cached_property
  def _outputs(self) -> str:
    """A folder for the network's outputs at template points, of which a bank that grows computes the new ones alone."""
    folder = tempfile.mkdtemp(prefix="medlsam-view-")
    weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
    return folder

  @property
  def latest_bank(self) -> Bank | None:
    """The bank that was used last."""
    return None if self._bank is None else self._bank[1]

  def bank(self, job: Job) -> Bank:
    """The bank of the templates as they are now, built again when they have changed.

    Raises:
      TemplateError: there are no templates, or they or the bank cannot be used.
    """
    state = self._state()
    if self._bank is None or self._bank[0] != state:
      self._bank = (state, self._ready() or self._build(job))
      self._bank[1].check_network(self.network)
    return self._bank[1]

  def find(
    self, name: str, scan: Volume, organs: Sequence[str] | None, job: Job, kept: Collection[str] = ()
  ) -> dict[str, Finding]:
    """Looks for organs of the bank; None for all but those that are `kept`.

    Raises:
      TemplateError: as `bank`; or no template but the scan itself, or all organs are kept.
    """
    bank = self.bank(job).without(name)
    if not bank.organs:
      raise TemplateError(f"{name} is the only template: mark another scan, or start with --bank headneck or torso")
    if organs is None:
      organs = [organ for organ in bank.organs if organ not in kept]
      if not organs:
        raise TemplateError(f"{name}: all organs of the bank were placed by hand, and stay as they are")
    job.stage("looking for the organs")
    return dict(pipeline.localize(self.network, bank, scan, self.choice.seed, organs=organs, progress=job))

  def paint(self, name: str, scan: Volume, findings: Mapping[str, Finding], job: Job) -> LabelMap:
    """Paints organs as `medlsam segment` does: by the templates' masks where they have some, else by LiteMedSAM.

    A scan that is a template itself does not vote for its own masks.
    """
    bank = self.bank(job).without(name) if self.has_bank() else None
    crops = pipeline.crops_of(findings, True, "auto", bank)
    if any(organ not in crops for organ in findings):
      self._fetch(pipeline.PAINTER, job)
    job.stage("painting")
    return pipeline.segment(scan, findings, bank=bank, progress=job)

  def check(self, organs: Sequence[str], job: Job) -> list[Row]:
    """The bank's own check, of some organs; what was checked before is remembered.

    Raises:
      TemplateError: as `bank`; or the bank is a file, whose templates are not at hand.
    """
    if self.choice.file:
      raise TemplateError(f"{self.choice.file} is built already, and grows by no scan; start with --templates instead")
    if not self.has_bank():
      return []
    bank = self.bank(job)
    known = tuple(organ for organ in organs if organ in bank.organs)
    key = (self._state(), known)
    if key not in self._rows:
      job.stage(f"checking the bank: {len(bank.templates)} templates, each by the others")
      part = bank.subset(known)
      templates = [each for each in self._read(job) if each.name in part.templates]
      self._rows[key] = bank_check.check(self.network, part, templates, self.choice.seed, job) if known else []
    return self._rows[key]

  def _ready(self) -> Bank | None:
    """A bank that need not be built."""
    if self.choice.file:
      return Bank.load(self.choice.file)
    return self._kept(self.network) if self.choice.bank and not self.folder.scans() else None

  def _build(self, job: Job) -> Bank:
    templates = self._read(job)
    mode: Mode = "SPL" if self.choice.bank is None else "WPL"
    job.stage(f"building the bank from {len(templates)} templates")
    return Bank.build(self.network, templates, mode, progress=job, kept=KeptOutputs(self._outputs))

  def _read(self, job: Job) -> Templates:
    state = self._state()
    if self._templates is None or self._templates[0] != state:
      places = [folder_of(self.choice.bank)] if self.choice.bank else []
      places += [self.folder.path] if self.folder.scans() else []
      if not places:
        raise TemplateError(
          "no templates yet: mark six points of an organ and save them, or start with --bank headneck or torso"
        )
      job.stage("reading templates")
      # --series and --hu-offset speak of the scans that are looked at, as in `medlsam segment`
      self._templates = (state, read_templates(places))
    return self._templates[1]

  def _state(self) -> object:
    """Changes whenever a file of the templates does."""
    files = [file for scan in self.folder.scans().values() for file in (scan.path, *annotations_beside(scan))]
    return self.choice.file or tuple((str(file), _changed(file)) for file in files)

  def _fetch(self, name: str, job: Job) -> None:
    if name in PUBLISHED and not cached_weights(name).is_file():
      job.stage(f"fetching the published weights {name}, once")
      loading.get(name, progress=lambda done, total: job(done, total or 0))


def _changed(path: Path) -> tuple[int, int]:
  told = path.stat()
  return told.st_mtime_ns, told.st_size
