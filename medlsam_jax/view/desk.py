"""What lies on the desk: the scans, their results, the templates; each request of the page is a method, without HTTP.

Places that come from the page are of `frame.Frame`; scans are named by their number in the list, files by nothing.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medlsam_jax.errors import InputError
from medlsam_jax.evaluation import bank_check
from medlsam_jax.finding import GIVEN, Finding
from medlsam_jax.geometry import FACES, Box, Volume, faces_from_points
from medlsam_jax.io import colours, nifti
from medlsam_jax.io.decisions import Decisions
from medlsam_jax.io.label_table import LABELS_FILE, read_label_table
from medlsam_jax.io.label_values import next_free
from medlsam_jax.io.packaged_banks import folder_of
from medlsam_jax.io.scan_result import ScanResult
from medlsam_jax.io.scans import ListedScan
from medlsam_jax.view import results
from medlsam_jax.view.engine import Engine
from medlsam_jax.view.frame import SHOWN_VOXELS, Frame, numbers_of
from medlsam_jax.view.jobs import Job, Jobs
from medlsam_jax.view.results import Shown
from medlsam_jax.view.worklist import Entry

OPEN_SCANS = 2
"""Scans that are kept in memory: the one that is looked at, and the one that comes next."""
KEPT_RESULTS = 4
LONGEST_NAME = 80
RESULT, BEFORE, OTHER = "result", "before", "other"
"""Results of a scan: as it is now, before it was corrected, and of the folder to compare with."""


@dataclasses.dataclass(frozen=True)
class Folders:
  """Where results are read and written."""

  out: Path
  """What is made or corrected here goes to this folder, and is shown in place of what is in `results`."""
  results: Path | None = None
  other: Path | None = None
  """Results, or label maps, to compare with."""


@dataclasses.dataclass(frozen=True)
class _Open:
  volume: Volume
  frame: Frame


class Desk:
  """All that the page can ask for.

  Args:
    entries: the scans, in the order in which to look at them.
    provenance: of what is made here, for its files.
  """

  def __init__(
    self,
    entries: Sequence[Entry],
    folders: Folders,
    engine: Engine,
    jobs: Jobs,
    provenance: Callable[[], Mapping[str, object]],
    most_voxels: int = SHOWN_VOXELS,
  ) -> None:
    self.entries, self.folders, self.engine, self.jobs = list(entries), folders, engine, jobs
    self.decisions = Decisions(folders.results or folders.out)
    self._provenance, self._most_voxels = provenance, most_voxels
    self._open: OrderedDict[int, _Open] = OrderedDict()
    self._read: OrderedDict[tuple[int, str], tuple[object, Shown | None]] = OrderedDict()
    self._reading: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
    self._drafts: dict[int, dict[str, Any]] = {}
    self._colours: dict[str, int] = {}
    self._lock = threading.Lock()
    self._saving = threading.Lock()
    """Held while marks of templates are read, changed and written: two at once would lose one."""

  def overview(self) -> dict[str, Any]:
    """The list of scans, names of organs, and what can be done."""
    rows = []
    for number, entry in enumerate(self.entries):
      row = {"id": number, "name": entry.scan.name, "score": round(entry.score, 2), "reasons": entry.reasons}
      row |= {"verdicts": entry.verdicts, "error": entry.error, **self.decisions.of(entry.scan.name)}
      rows.append({**row, "is_corrected": self._is_corrected(entry.scan)})
    choice = self.engine.choice
    return {
      "scans": rows,
      "organs": [{"name": organ, "colour": self._colour(organ)} for organ in self._organ_names()],
      "templates": str(self.engine.folder.path),
      "template_scans": list(self.engine.folder.scans()),
      "bank": choice.file or choice.bank,
      "can_find": self.engine.has_bank(),
      "can_grow": choice.file is None,
      "out": str(self.folders.out),
      "other": None if self.folders.other is None else self.folders.other.name,
    }

  def about(self, number: int) -> dict[str, Any]:
    """One scan: its voxels' place, its organs by each result, what is marked in it as a template."""
    scan, opened = self._scan(number), self._opened(number)
    shown = self._shown(number, RESULT)
    others = {}
    for which in (BEFORE, OTHER):
      other = self._shown(number, which)
      if other is not None:
        dice = results.agreement(shown, other) if shown is not None else {}
        others[which] = {"organs": self._organs(other, opened.frame), "dice": dice}
    marked = self.engine.folder.marked(scan, opened.volume)
    points = {organ: self._marked_points(six, opened) for organ, (six, _) in marked.points.items()}
    return {
      "id": number,
      "name": scan.name,
      "frame": opened.frame.about(),
      "doubts": (*opened.volume.doubts, *(() if shown is None else shown.doubts)),
      "notes": opened.volume.notes,
      "organs": [] if shown is None else self._organs(shown, opened.frame),
      "others": others,
      "marked": {"points": points, "masks": list(marked.masks)},
      "draft": self._drafts.get(number, {}),
      "is_corrected": self._is_corrected(scan),
      **self.decisions.of(scan.name),
    }

  def read_ahead(self, number: int) -> None:
    """Reads a scan that will be asked for next."""
    self._opened(number)

  def volume_bytes(self, number: int) -> bytes:
    """The scan as a NIfTI file in the page's frame, 16 bits a voxel."""
    opened = self._opened(number)
    return nifti.scan_bytes(opened.frame.scan(opened.volume.array), opened.frame.shown_affine)

  def label_bytes(self, number: int, which: str) -> bytes:
    """Labels of each shown voxel, x running fastest: i + 1 for the i-th organ that has one; one or two bytes each."""
    shown = self._shown(number, which)
    if shown is None or shown.labels is None:
      raise InputError("this scan has no masks in that result")
    names = shown.labels.names
    numbers = [names[organ] for organ in shown.organs if organ in names]
    return self._opened(number).frame.labels(shown.labels.array, numbers).tobytes()

  def keep_draft(self, number: int, draft: Mapping[str, Any]) -> None:
    """Remembers points that are not saved yet, for a page that is opened again."""
    self._scan(number)
    self._drafts[number] = dict(draft)

  def save_points(self, number: int, points: object) -> dict[str, Any]:
    """Makes the scan a template by six points for each organ, page mm in any order.

    Raises:
      InputError, OutputError: as `TemplateFolder.save_points`.
    """
    scan, opened = self._scan(number), self._opened(number)
    if not isinstance(points, dict) or not points:
      raise InputError("no organ was marked")
    voxels = {
      _organ_name(organ): opened.frame.from_page(numbers_of(six, (len(FACES), 3), f"{organ}: six points"))
      for organ, six in points.items()
    }
    with self._saving:
      path = self.engine.folder.save_points(scan, opened.volume, voxels)
    for organ in voxels:
      self._drafts.get(number, {}).pop(organ, None)
    return {"file": path.name, "folder": str(path.parent), "organs": list(voxels)}

  def find(self, number: int, organs: Sequence[str] | None, placed_too: bool = False) -> Job:
    """Starts to look for organs of the bank in a scan, and to paint them.

    Args:
      organs: those to look for; None for all of the bank.
      placed_too: whether all means those too that a person has placed, which lose their boxes and masks.
    """
    scan = self._scan(number)

    def work(job: Job) -> dict[str, Any]:
      job.stage("reading the scan")
      opened, shown = self._opened(number), self._shown(number, RESULT)
      placed = [] if shown is None else [organ for organ, each in shown.findings.items() if each.verdict == GIVEN]
      kept = [] if placed_too else placed
      findings = self.engine.find(self.engine.folder.name_of(scan), opened.volume, organs, job, kept)
      return self._paint(number, findings, (), job)

    return self.jobs.start(f"Find organs in {scan.name}", work)

  def segment(self, number: int, organs: object) -> Job:
    """Starts to paint organs again where they were put by hand: a box or six points of each, page mm.

    Raises:
      InputError: that is no box, and no six points.
    """
    scan, opened = self._scan(number), self._opened(number)
    if not isinstance(organs, dict) or not organs:
      raise InputError("no organ was placed")
    values = self._values(number, list(map(_organ_name, organs)))
    findings = {organ: _placed(organ, values[organ], said, opened.frame) for organ, said in organs.items()}
    return self.jobs.start(
      f"Segment {', '.join(findings)} in {scan.name}", lambda job: self._paint(number, findings, list(findings), job)
    )

  def add(self, number: int, organs: Sequence[str]) -> Job:
    """Starts to make masks of a scan's result a template, and to check the bank before and after."""
    scan = self._scan(number)

    def work(job: Job) -> dict[str, Any]:
      opened, shown = self._opened(number), self._shown(number, RESULT)
      if shown is None or shown.labels is None:
        raise InputError(f"{scan.name}: nothing is painted yet; segment it first")
      folder, checks = self.engine.folder, not self.engine.choice.file
      before = self.engine.check(organs, job) if checks else []
      job.stage("saving the template")
      with self._saving:
        moved = folder.save_masks(scan, opened.volume, shown.labels, organs)
      job.keeps(f"{scan.name} is a template now, in {folder.path}; the bank was not checked with it")
      after = self.engine.check(organs, job) if checks else []
      return {
        "folder": str(folder.path),
        "points_replaced": moved,
        "check": [_change(organ, folder.name_of(scan), before, after) for organ in organs],
        "templates": len({row.scan for row in after}),
        "bank_file": self.engine.choice.file,
      }

    return self.jobs.start(f"Add {scan.name} to the templates", work)

  def decide(self, number: int, decision: str | None, note: str) -> None:
    """Keeps what the person decided about a scan; None takes it back."""
    self.decisions.decide(self._scan(number).name, decision, note)

  def _paint(self, number: int, findings: Mapping[str, Finding], by_hand: Sequence[str], job: Job) -> dict[str, Any]:
    """Paints some organs, lays them over what is there, and writes the result."""
    scan, opened = self._scan(number), self._opened(number)
    painted = self.engine.paint(self.engine.folder.name_of(scan), opened.volume, findings, job)
    job.stage("saving the result")
    known = self._shown(number, RESULT)
    merged = results.merged(known, findings, painted)
    assert merged.labels is not None
    result = ScanResult(scan.name, opened.volume, merged.findings, merged.labels)
    result.write(self.folders.out, results.origin_of(known, findings, by_hand, self._provenance()))
    return {"organs": list(findings), "out": str(self.folders.out)}

  def _values(self, number: int, organs: Sequence[str]) -> dict[str, int]:
    """Label values of organs in the result of a scan: those it has, else the next free ones."""
    shown = self._shown(number, RESULT)
    values = {} if shown is None else shown.values()
    for organ in organs:
      if organ not in values:
        values[organ] = next_free(values.values())
    return values

  def _scan(self, number: int) -> ListedScan:
    if not 0 <= number < len(self.entries):
      raise InputError(f"no scan {number} in this list")
    return self.entries[number].scan

  def _opened(self, number: int) -> _Open:
    scan = self._scan(number)
    with self._reading[number]:  # a scan that is read ahead keeps nobody else waiting
      with self._lock:
        if number in self._open:
          self._open.move_to_end(number)
          return self._open[number]
      volume = self.engine.choice.reading.read(scan)
      opened = _Open(volume, Frame.of(volume.grid, self._most_voxels))
      with self._lock:
        self._open[number] = opened
        while len(self._open) > OPEN_SCANS:
          self._open.popitem(last=False)
      return opened

  def _is_corrected(self, scan: ListedScan) -> bool:
    return self.folders.results is not None and results.has_result(self.folders.out, scan)

  def _shown(self, number: int, which: str) -> Shown | None:
    scan = self._scan(number)
    corrected = self._is_corrected(scan)
    folder: Path | None = {
      RESULT: self.folders.out if corrected or self.folders.results is None else self.folders.results,
      BEFORE: self.folders.results if corrected else None,
      OTHER: self.folders.other,
    }.get(which)
    if folder is None:
      return None
    stamp = results.stamp(folder, scan)
    with self._lock:
      known = self._read.get((number, which))
    if known is not None and known[0] == stamp:
      return known[1]
    shown = results.read(folder, scan, self._opened(number).volume)
    with self._lock:
      self._read[number, which] = (stamp, shown)
      while len(self._read) > KEPT_RESULTS:
        self._read.popitem(last=False)
    return shown

  def _organs(self, shown: Shown, frame: Frame) -> list[dict[str, Any]]:
    volumes_ml, painted, rows = shown.volumes_ml(), 0, []
    names = {} if shown.labels is None else shown.labels.names
    for organ in shown.organs:
      finding, said = shown.findings.get(organ), shown.said.get(organ, {})
      painted += organ in names
      trust = said.get("confidence")
      rows.append(
        {
          "name": organ,
          "colour": self._colour(organ),
          "label": painted if organ in names else 0,
          "volume_ml": round(volumes_ml.get(organ, 0.0), 2),
          "verdict": None if finding is None else finding.verdict,
          "doubts": () if finding is None else finding.doubts,
          "box": None if finding is None else frame.box_to_page(finding.box),
          "points": None if finding is None else np.round(frame.to_page(finding.whole_points), 4).tolist(),
          "right_probability": trust.get("right_probability") if isinstance(trust, dict) else None,
        }
      )
    return rows

  def _marked_points(self, world: np.ndarray, opened: _Open) -> list[list[float]]:
    voxels = opened.volume.grid.voxel_from_world(world)
    return (np.round(opened.frame.to_page(voxels), 4) + 0.0).tolist()

  def _organ_names(self) -> list[str]:
    names: dict[str, None] = {}
    if self.engine.choice.bank:
      names |= dict.fromkeys(read_label_table(folder_of(self.engine.choice.bank) / LABELS_FILE))
    return list(names | dict.fromkeys((*self.engine.folder.organs(), *self._colours)))

  def _colour(self, organ: str) -> str:
    colour = colours.of(self._colours.setdefault(organ, len(self._colours)))
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)


def _organ_name(organ: str) -> str:
  name = organ.strip()
  if not name or len(name) > LONGEST_NAME or any(ord(letter) < 32 for letter in name):
    raise InputError(f"{organ!r:.60} is no name for an organ; give one such as liver")
  return name


def _placed(organ: str, value: int, said: object, frame: Frame) -> Finding:
  """A box, six points or both, as a person placed them, as `io.box_input` reads them from a file."""
  said = said if isinstance(said, dict) else {}
  ordered = None
  if said.get("points") is not None:
    points = frame.from_page(numbers_of(said["points"], (len(FACES), 3), f"{organ}: six points"))
    ordered = faces_from_points(np.clip(points, 0, np.array(frame.grid.shape) - 1))
  if said.get("box") is not None or ordered is None:
    box = frame.box_from_page(said.get("box"))
    if ordered is not None and np.abs(Box.of_points(ordered).array() - box.array()).max() > 1:
      ordered = None  # a face was moved away from its point, which lies on no face any more
  else:  # a click lies in a voxel, and boxes are made of whole voxels
    box = Box.from_corners(np.rint(ordered.min(0)), np.rint(ordered.max(0)))
  return Finding.of_boxes(organ, value, [box], points=ordered)


def _change(organ: str, scan: str, before: Sequence[Any], after: Sequence[Any]) -> dict[str, Any]:
  """The bank's check of an organ before and after a scan was added, over the templates that were there before."""
  old = bank_check.by_organ([row for row in before if row.scan != scan]).get(organ)
  new = bank_check.by_organ([row for row in after if row.scan != scan]).get(organ)
  own = bank_check.by_organ([row for row in after if row.scan == scan]).get(organ)
  return {
    "organ": organ,
    "before": None if old is None else dataclasses.asdict(old),
    "after": None if new is None else dataclasses.asdict(new),
    "this_scan_by_the_others": None if own is None else dataclasses.asdict(own),
  }
