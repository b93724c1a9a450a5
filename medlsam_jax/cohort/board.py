"""A cohort's throughput for TensorBoard, where its writer is installed (with the extra `train`)."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medlsam_jax.errors import OutputError

if TYPE_CHECKING:
  from tensorboardX.event_file_writer import EventsWriter

FOLDER = "tensorboard"


class Board:
  """Draws the numbers of a run; a later one on the same folder goes on. To be closed."""

  def __init__(self, folder: Path) -> None:
    self._folder = folder / FOLDER
    self._file: EventsWriter | None = None

  def add(self, numbers: Mapping[str, Any], step: int) -> None:
    """Draws `numbers`, those of a group under its name, without what is None; written when this returns.

    Raises:
      OutputError: they cannot be written.
    """
    if importlib.util.find_spec("tensorboardX") is None:
      return
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    try:
      if self._file is None:
        self._folder.mkdir(exist_ok=True)
        # not `SummaryWriter`, whose thread ends silently on a full disk
        self._file = EventsWriter(str(self._folder / "events"))
      for name, value in _flat(numbers):
        self._file.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
      self._file.flush()
    except OSError as error:
      raise OutputError(f"{self._folder}: cannot be written ({error.strerror or error})") from error

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      self._file.close()


def _flat(numbers: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
  for name, value in numbers.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f"{above}{name}/")
    elif value is not None:
      yield above + name, value
