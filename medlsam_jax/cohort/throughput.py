"""How fast a cohort goes and what it waits for: scans a minute, busy devices, seconds by stage, memory."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path

from medlsam_jax import display
from medlsam_jax.cohort.memory import peak_bytes, resident_bytes
from medlsam_jax.cohort.outcome import STAGES, Outcome
from medlsam_jax.errors import OutputError

FILE = "throughput.jsonl"
WRITE_EVERY_S = 30.0


@dataclasses.dataclass
class Throughput:
  """Sums over the scans of one run."""

  devices: int = 1
  """Of a cluster: that have done a scan."""
  begun: float = dataclasses.field(default_factory=time.monotonic)
  scans: int = 0
  """That ended, failed ones among them."""
  failed: int = 0
  seconds: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
  first: tuple[float, float] | None = None
  """When the first scan was done, s from the beginning, and how long its device took, programs being compiled."""
  reader_peak_bytes: int = 0
  worker_peak_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
  """Of a cluster's processes, by name."""

  def add(self, outcome: Outcome) -> None:
    """Counts a scan."""
    self.scans += 1
    self.failed += outcome.error is not None
    for stage, seconds in outcome.seconds.items():
      self.seconds[stage] += seconds
    if self.first is None and outcome.error is None:
      self.first = (time.monotonic() - self.begun, outcome.seconds["device"])
    if outcome.about is not None:
      self.reader_peak_bytes = max(self.reader_peak_bytes, outcome.about.peak_bytes)
    if outcome.worker is not None:
      self.worker_peak_bytes[outcome.worker.name] = outcome.worker.peak_bytes
      self.devices = len(self.worker_peak_bytes)

  def numbers(self) -> dict[str, object]:
    """All of it, rounded; `scans_a_minute_later` is without the first scan, which waits for programs to compile."""
    wall = time.monotonic() - self.begun
    done = self.scans - self.failed
    later = None
    if self.first is not None and done > 1 and wall > self.first[0]:
      later = round(60 * (done - 1) / (wall - self.first[0]), 2)
    return {
      "seconds": round(wall, 2),
      "scans": self.scans,
      "failed": self.failed,
      "scans_a_minute": round(60 * done / wall, 2) if wall else 0.0,
      "scans_a_minute_later": later,
      "devices": self.devices,
      "device_busy": round(self.seconds["device"] / (wall * self.devices), 3) if wall else 0.0,
      "stage_seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
      "first_device_seconds": None if self.first is None else round(self.first[1], 2),
      "memory_mib": resident_bytes() >> 20,
      "peak_memory_mib": peak_bytes() >> 20,
      "reader_peak_memory_mib": self.reader_peak_bytes >> 20,
      "worker_peak_memory_mib": max(self.worker_peak_bytes.values(), default=0) >> 20,
    }

  def sentence(self) -> str:
    """The same for people."""
    said = self.numbers()
    count = max(self.scans, 1)
    stages = ", ".join(f"{stage} {self.seconds[stage] / count:.2f} s" for stage in STAGES)
    later = said["scans_a_minute_later"]
    workers = ""
    if self.worker_peak_bytes:
      who = display.count(len(self.worker_peak_bytes), "worker")
      workers = f", of {who} {said['worker_peak_memory_mib']} at most"
    return (
      f"{said['scans_a_minute']} scans a minute{'' if later is None else f' ({later} after the first)'}; devices busy "
      f"{self.seconds['device'] / ((time.monotonic() - self.begun) * self.devices):.0%} of {said['seconds']} s; a scan "
      f"on average: {stages}; memory {said['peak_memory_mib']} MiB, reading {said['reader_peak_memory_mib']} at most"
      f"{workers}"
    )


def append(folder: Path, numbers: Mapping[str, object]) -> None:
  """Adds a line to the folder's file.

  Raises:
    OutputError: it cannot be written.
  """
  line = json.dumps({"ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **numbers})
  try:
    with (folder / FILE).open("a") as file:
      file.write(line + "\n")
  except OSError as error:
    raise OutputError(f"{folder / FILE}: cannot be written ({error.strerror or error})") from error
