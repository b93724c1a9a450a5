"""Scans a minute and memory of a folder of scans: the plain loop of `--query`, and a cohort's stages.

python -m bench.cohort [--scans 60] [--network tiny] [--out out/bench/cohort.json]

Each way is a command of its own in a process of its own, over the same phantoms, and is run twice: loop, pipeline,
pipeline, loop, so that other work on the machine that grows or ends meets both. The speed is taken from when results
appear, from the first to the last, so that loading and compiling do not count; memory is the process's alone (`VmRSS`),
at a quarter of the scans and at its highest after that. A cohort also hashes its inputs, reads in a child and writes a
manifest; none of that is taken off.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from rich.console import Console
from rich.table import Table

from medlsam_jax.io.scan_result import BOXES
from medlsam_jax.phantom.people import make_phantom

ROOT = Path(__file__).resolve().parents[1]
SPACING_MM = (2.5, 2.0, 2.0)
PEOPLE = 6
"""Made once each and copied: reading and searching a copy costs the same."""
_LOOK_S = 0.05


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m bench.cohort", description=__doc__)
  parser.add_argument("--scans", type=int, default=60)
  parser.add_argument("--network", default="tiny")
  parser.add_argument("--organs", default="liver,spleen")
  parser.add_argument("--out", type=Path, default=Path("out/bench/cohort.json"), help="where the figures are kept")
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as place:
    folder = Path(place)
    make_scans(folder / "scans", arguments.scans)
    search = [*prepare_bank(folder, arguments.network, arguments.organs), "--quiet"]
    ways = {"plain loop": ["--query", str(folder / "scans")], "pipeline": [str(folder / "scans")]}
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number, way in enumerate([*ways, *reversed(ways)]):
      words = ["localize", *ways[way], *search]
      rows[way].append(measure(words, folder / f"results{number}", arguments.scans))
  table = Table("way", "scans a minute", "against the loop", "memory at a quarter, MiB", "at its highest later, MiB")
  speed = {way: [row["scans_a_minute"] for row in runs] for way, runs in rows.items()}
  for way, runs in rows.items():
    ratio = np.mean(speed[way]) / np.mean(speed["plain loop"])
    said = [" ".join(str(row[name]) for row in runs) for name in ("quarter_mib", "later_mib")]
    table.add_row(way, " ".join(f"{each:.1f}" for each in speed[way]), f"{ratio:.2f}", *said)
  Console(width=120).print(table)
  arguments.out.parent.mkdir(parents=True, exist_ok=True)
  arguments.out.write_text(json.dumps(rows, indent=1))


def make_scans(folder: Path, count: int) -> None:
  """Phantoms as files."""
  folder.mkdir()
  for number in range(count):
    path = folder / f"p{number:03}_ct.nii.gz"
    if number < PEOPLE:
      scan = make_phantom(900 + number, SPACING_MM).scan
      image = nibabel.Nifti1Image(np.round(scan.array.T).astype(np.int16), scan.grid.affine)
      nibabel.save(image, path)
    else:
      path.write_bytes((folder / f"p{number % PEOPLE:03}_ct.nii.gz").read_bytes())


def prepare_bank(folder: Path, network: str, organs: str) -> list[str]:
  """Options of a search with a finished bank."""
  bank = folder / "bank.safetensors"
  templates = str(ROOT / "medlsam_jax" / "banks" / "torso")
  words = ["bank", "build", templates, "--organs", organs, "--mode", "WPL", "--network", network, "--out", str(bank)]
  subprocess.run([sys.executable, "-m", "medlsam_jax.cli.main", *words, "--quiet"], check=True, cwd=ROOT)
  return ["--bank", str(bank), "--network", network]


def measure(words: list[str], out: Path, count: int) -> dict[str, float]:
  """Runs a command and watches its results appear.

  Raises:
    RuntimeError: it failed.
  """
  ended, memory = list[float](), list[int]()
  command = [sys.executable, "-m", "medlsam_jax.cli.main", *words, "--out", str(out)]
  with subprocess.Popen(command, cwd=ROOT) as process:
    while process.poll() is None:
      there = len(list(out.glob("*" + BOXES))) if out.is_dir() else 0
      if there > len(ended):
        ended += [time.monotonic()] * (there - len(ended))
      if there * 4 >= count and (resident := resident_mib(process.pid)):
        memory.append(resident)
      time.sleep(_LOOK_S)
  if process.returncode or len(ended) < count:
    raise RuntimeError(f"{' '.join(command)}: ended with {process.returncode}")
  a_minute = 60 * (len(ended) - 1) / (ended[-1] - ended[0])
  return {"scans_a_minute": a_minute, "quarter_mib": memory[0], "later_mib": max(memory)}


def resident_mib(process: int) -> int:
  """Memory of a process, 0 when it is gone."""
  try:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
  except OSError:
    return 0


if __name__ == "__main__":
  main()
