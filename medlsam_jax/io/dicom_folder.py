"""Which files and which series of a folder make the volume, and what is left out of it and why."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from medlsam_jax import display
from medlsam_jax.errors import InputError
from medlsam_jax.io.dicom_frames import Frame, Series, read_frames
from medlsam_jax.io.dicom_geometry import Stack, place_slices
from medlsam_jax.io.dicom_headers import Unusable, has_mark

THREADS = min(4, os.cpu_count() or 1)
_DIRECTORY_FILE = "DICOMDIR"
_NAMES_SHOWN, _SERIES_SHOWN = 4, 12
_LOST_SHARE, _LOST_ONE_OF, _UNREADABLE_SHARE = 0.1, 4, 0.25
_MAJORITY = 2 / 3


class NoSuchSeries(InputError):
  """A folder does not have the series that was asked for, by any way of naming one."""


@dataclasses.dataclass
class Contents:
  """What a folder holds, from headers."""

  source: str
  frames: list[Frame] = dataclasses.field(default_factory=list)
  left_out: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  """Reason to names of files."""
  damaged: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  """Series to the names of its slices among `left_out`."""
  unreadable: int = 0
  """Files among `left_out` that are DICOM and may be slices of any series."""
  mended: dict[str, list[str]] = dataclasses.field(default_factory=dict)

  def notes(self) -> list[str]:
    """What was left out or mended, a sentence each."""
    notes = [f"{self.source}: {text} ({names(files)})" for text, files in self.mended.items()]
    return [f"{self.source}: left out {self.reasons()}", *notes] if self.left_out else notes

  def reasons(self) -> str:
    """Names and why they are left out, for a message."""
    return with_reasons(self.left_out)


def files_below(directory: Path) -> list[Path]:
  """The files of a folder; where none of them is a DICOM image, those of all folders below it. Hidden ones are not."""
  direct = next(_walk(directory), (directory, []))[1]
  return direct if any(map(_may_be_image, direct)) else [path for _, files in _walk(directory) for path in files]


def _may_be_image(path: Path) -> bool:
  return path.name.upper() != _DIRECTORY_FILE and has_mark(path)


def _walk(directory: Path) -> Iterator[tuple[Path, list[Path]]]:
  for root, folders, files in os.walk(directory):
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    shown = sorted(name for name in files if not name.startswith(".") and name.upper() != _DIRECTORY_FILE)
    # a pipe or a broken link is no file, and opening the former waits for ever
    yield Path(root), [path for name in shown if (path := Path(root, name)).is_file()]


def names(items: Iterable[str]) -> str:
  """The first few of many names."""
  return display.some(items, _NAMES_SHOWN)


def with_reasons(left_out: dict[str, list[str]]) -> str:
  """Names by reason, the first few of both."""
  listed = [f"{names(files)}: {reason}" for reason, files in left_out.items()]
  more = sum(map(len, list(left_out.values())[_NAMES_SHOWN:]))
  return "; ".join(listed[:_NAMES_SHOWN]) + (f"; and {more} more" if more else "")


def too_many(lost: int, slices: int) -> bool:
  """Whether a series has lost more slices than it can be read without: a tenth of them, or one of a few."""
  return lost > max(_LOST_SHARE * slices, int(slices >= _LOST_ONE_OF))


def read_contents(files: list[Path], source: str) -> Contents:
  """The headers of all files, each read once.

  Raises:
    InputError: no file holds an image with a place in space; the reasons are named.
  """
  contents = Contents(source)
  with ThreadPoolExecutor(THREADS) as pool:
    for path, result in zip(files, pool.map(frames_or_reason, files), strict=True):
      if isinstance(result, Unusable):
        contents.left_out.setdefault(str(result), []).append(path.name)
        contents.unreadable += result.unreadable
        if result.series:
          contents.damaged.setdefault(result.series, []).append(path.name)
        continue
      frames, mended, reasons = result
      contents.frames.extend(frames)
      for text in sorted(mended):
        contents.mended.setdefault(text, []).append(path.name)
      for reason, count in reasons.items():
        contents.left_out.setdefault(reason, []).append(f"{count} frames of {path.name}")
        contents.damaged.setdefault(frames[0].series.uid, []).extend([path.name] * count)
  if not contents.frames:
    why = f" ({contents.reasons()})" if contents.left_out else ""
    raise InputError(f"{source}: no DICOM slices here{why}; give the folder that holds one CT series")
  return contents


def frames_or_reason(path: Path) -> tuple[list[Frame], set[str], dict[str, int]] | Unusable:
  """`read_frames`, or why there are none."""
  try:
    return read_frames(path)
  except Unusable as error:
    return error
  except Exception as error:  # a header damaged in a way that nobody foresaw costs its file, not the folder
    return Unusable(f"a header that cannot be read ({type(error).__name__}: {error})")


def choose(
  contents: Contents, series: str | None, whole_copy: Callable[[Frame, Frame], Frame | None]
) -> tuple[Stack, list[str]]:
  """The series that makes a volume, and notes about those that do not.

  `series` names one by its UID, its number, or an ending of the UID that no other has. Without it, the one CT series
  is taken of which slices make a volume; original images before derived ones.

  Raises:
    InputError: several make a volume, none does, or `series` names none or several; each is listed.
  """
  groups: dict[str, list[Frame]] = {}
  for frame in contents.frames:
    groups.setdefault(frame.series.uid, []).append(frame)
  if series is not None:
    groups = {uid: groups[uid] for uid in [_named(series, groups, contents.source)]}
  if len(groups) == 1 and not set(contents.damaged) - set(groups):
    (frames,) = groups.values()
    return _stack(frames, contents, whole_copy), []
  tried: dict[str, Stack | InputError] = {}
  for uid, frames in groups.items():
    try:
      tried[uid] = _stack(frames, contents, whole_copy)
    except InputError as error:
      tried[uid] = error
  chosen = _only_volume(groups, tried, contents) if series is None else next(iter(groups))
  stack = tried[chosen]
  if isinstance(stack, InputError):
    raise stack
  others = [_described(frames[0].series, tried[uid]) for uid, frames in groups.items() if uid != chosen]
  if not others:
    return stack, []
  took = _described(groups[chosen][0].series, stack)
  return stack, [f"{contents.source}: took series {took}; left out {_listed(others)}"]


def _named(series: str, groups: dict[str, list[Frame]], source: str) -> str:
  uids = list(groups)
  ways = (
    [uid for uid in uids if uid == series],
    [uid for uid in uids if series and groups[uid][0].series.number == series],
    [uid for uid in uids if series and uid.endswith(series)],
  )
  for matching in ways:
    if len(matching) == 1:
      return matching[0]
  listed = _listed([_described(frames[0].series, frames) for frames in groups.values()])
  count = max(map(len, ways))
  error = InputError if count else NoSuchSeries
  raise error(
    f"{source}: {count or 'no'} series here {'are' if count else 'is'} called {series!r}; there are: {listed}"
  )


def _only_volume(groups: dict[str, list[Frame]], tried: dict[str, Stack | InputError], contents: Contents) -> str:
  volumes = [uid for uid, stack in tried.items() if isinstance(stack, Stack) and len(stack.frames) > 1]
  ct = [uid for uid in volumes if groups[uid][0].series.modality == "CT"]
  volumes = ct or volumes
  originals = [uid for uid in volumes if not groups[uid][0].series.derived]
  volumes = originals if len(originals) == 1 else volumes
  if len(volumes) == 1:
    size = len(groups[volumes[0]])
    larger = [uid for uid, stack in tried.items() if isinstance(stack, InputError) and len(groups[uid]) > size]
    lost = [uid for uid, files in contents.damaged.items() if uid not in groups and len(files) > size]
    if not larger and not lost:
      return volumes[0]
  listed = [_described(frames[0].series, tried[uid]) for uid, frames in groups.items()]
  listed += [f"{uid}: {len(files)} damaged slices" for uid, files in contents.damaged.items() if uid not in groups]
  damage = f" (left out {contents.reasons()})" if contents.damaged else ""
  raise InputError(
    f"{contents.source}: {len(listed)} series, {len(volumes) or 'none'} of which can be taken alone; choose with "
    f"series=UID (--series), an ending of the UID or the series number: {_listed(listed)}{damage}"
  )


def _listed(series: list[str]) -> str:
  more = f"; and {len(series) - _SERIES_SHOWN} more" if len(series) > _SERIES_SHOWN else ""
  return "; ".join(series[:_SERIES_SHOWN]) + more


def _described(series: Series, what: Stack | InputError | list[Frame]) -> str:
  facts = [f"number {series.number}"] if series.number else []
  facts += [repr(series.description)] if series.description else []
  facts += [f"kernel {series.kernel}"] if series.kernel else []
  facts += [series.modality or "no Modality", *(["derived"] if series.derived else [])]
  text = f"{series.uid} ({', '.join(facts)}): "
  if isinstance(what, list):
    return f"{text}{len(what)} images"
  if isinstance(what, InputError):
    return f"{text}no volume, {what}"
  if len(what.frames) == 1:
    return f"{text}1 image"
  return f"{text}{len(what.frames)} slices, {what.grid.spacing_mm[0]:.2f} mm apart"


def _stack(frames: list[Frame], contents: Contents, whole_copy: Callable[[Frame, Frame], Frame | None]) -> Stack:
  damaged = contents.damaged.get(frames[0].series.uid, [])
  lost = len(damaged) + contents.unreadable
  if too_many(len(damaged), len(frames) + len(damaged)) or lost > _UNREADABLE_SHARE * (len(frames) + lost):
    raise InputError(f"{contents.source}: {lost} of {len(frames) + lost} slices are damaged ({contents.reasons()})")
  kept, notes = _one_layout(frames, contents.source)
  stack = place_slices(kept, contents.source, whole_copy)
  return dataclasses.replace(stack, notes=(*notes, *stack.notes))


def _one_layout(frames: list[Frame], source: str) -> tuple[list[Frame], list[str]]:
  """The slices of one size, direction and pixel spacing: all, or the large majority, the others named."""
  layouts: list[list[Frame]] = []
  for frame in frames:
    for layout in layouts:
      if not _difference(layout[0], frame):
        layout.append(frame)
        break
    else:
      layouts.append([frame])
  layouts.sort(key=len, reverse=True)
  if len(layouts) == 1:
    return frames, []
  first, others = layouts[0], [frame for layout in layouts[1:] for frame in layout]
  different = f"{first[0].name} and {layouts[1][0].name} differ in {_difference(first[0], layouts[1][0])}"
  if len(first) <= _MAJORITY * len(frames):
    raise InputError(f"{source}: {different}; give the slices of one kind alone ({len(first)} and {len(others)} here)")
  return first, [f"{source}: left out {names(frame.name for frame in others)}: {different}"]


def _difference(first: Frame, other: Frame) -> str:
  if first.shape != other.shape:
    return f"rows and columns ({first.shape} and {other.shape})"
  if np.abs(first.orientation - other.orientation).max() > 1e-3:
    return (
      f"orientation ({first.orientation.ravel().round(3).tolist()} and {other.orientation.ravel().round(3).tolist()})"
    )
  if np.abs(first.pixel_spacing - other.pixel_spacing).max() > 1e-3:
    return f"pixel spacing ({first.pixel_spacing.tolist()} and {other.pixel_spacing.tolist()} mm)"
  return ""
