"""Does the search say so when an organ is gone? Labelled scans, cropped along z so that organs are gone or cut.

python -m bench.absence [--network tiny] [--templates DIR --queries DIR] [--out out/bench/absence.json]

Without folders, templates and queries are phantoms. Prints, for each true state of an organ, how often each verdict
was given, then sensitivity (gone organs called outside) and specificity (whole or cut organs not called so), and the
measures that verdicts rest on. The JSON keeps one row per organ and crop, so that thresholds can be chosen without
searching again: `--rejudge FILE` applies the thresholds of the day to it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medlsam_jax.data.phantom import make_phantom
from medlsam_jax.data.templates import Template, read_templates
from medlsam_jax.geometry import WORKING_AXIS_CODES, Grid, Volume
from medlsam_jax.loading import load
from medlsam_jax.localization import confidence, search
from medlsam_jax.localization.bank import Bank

WINDOWS = {"whole": (0.0, 1.0), "lower": (0.0, 0.55), "upper": (0.45, 1.0), "middle": (0.25, 0.75)}
"""Share of the height of the scan that a crop keeps, from the feet up."""
STATES = ("whole", "cut", "gone")
VERDICTS = ("found", "partly outside", "outside field of view", "uncertain")
WHOLE_SHARE = 0.95
"""Share of an organ's voxels in the crop from which it counts as whole."""


def crop_along_z(volume: Volume, low: float, high: float) -> Volume:
  """The slices between two shares of the height, counted from the feet."""
  order, flip = volume.grid.axes_to(WORKING_AXIS_CODES)
  axis, count = order[0], volume.grid.shape[order[0]]
  first, last = round(low * count), round(high * count)
  if flip[0]:
    first, last = count - last, count - first
  array = volume.array[tuple(slice(first, last) if a == axis else slice(None) for a in range(3))]
  origin = np.zeros(3)
  origin[axis] = first
  affine = volume.affine.copy()
  affine[:3, 3] = volume.grid.world_from_voxel(origin)
  return Volume(np.ascontiguousarray(array), Grid(array.shape, affine), volume.source)


def phantom(seed: int) -> Template:
  """A phantom as a labelled scan."""
  made = make_phantom(seed)
  return Template(f"phantom_{seed}", made.scan, made.labels, made.names, {})


def states(query: Template, window: tuple[float, float], organs: list[str]) -> Iterator[tuple[str, str, float]]:
  """Organ, its true state in the crop, and the share of it there. Organs that the query itself cuts are left out."""
  assert query.labels is not None
  cropped = crop_along_z(query.labels, *window).array
  axis = query.labels.grid.axes_to(WORKING_AXIS_CODES)[0][0]
  ends = np.moveaxis(query.labels.array, axis, 0)[[0, -1]]
  for organ in organs:
    value = query.values.get(organ)
    if value is None or (ends == value).any():
      continue
    share = float((cropped == value).sum() / (query.labels.array == value).sum())
    yield organ, "gone" if share == 0 else "whole" if share >= WHOLE_SHARE else "cut", share


def measure(network_name: str, templates: list[Template], queries: list[Template], mode: str) -> list[dict]:
  """One row per query, crop and organ."""
  network = load(network_name)
  bank = Bank.build(network, templates, mode)
  rows = []
  for query in queries:
    for name, window in WINDOWS.items():
      truth = list(states(query, window, list(bank.organs)))
      if not truth:
        continue
      scan = crop_along_z(query.scan, *window)
      found = search.find(network, bank.subset([organ for organ, _, _ in truth]), scan)
      for organ, state, share in truth:
        trust = found[organ].confidence
        kept = {
          field.name: getattr(trust, field.name)
          for field in dataclasses.fields(trust)
          if field.name not in ("targets", "outside")
        }
        kept |= {"outside": trust.outside.tolist(), "targets": trust.targets.tolist(), "scan_shape": scan.grid.shape}
        kept["spacing_mm"] = scan.spacing_mm.tolist()
        rows.append({"query": query.name, "crop": name, "organ": organ, "state": state, "share": share, **kept})
      print(f"{query.name} {name}: {len(truth)} organs", flush=True)
  return rows


def verdict(row: dict, thresholds: confidence.Thresholds) -> str:
  """What `thresholds` say of a row."""
  targets = np.array(row["targets"])
  spacing = np.diag([*row["spacing_mm"][::-1], 1.0])
  grid = Grid(tuple(row["scan_shape"]), spacing)
  trust = confidence.Confidence(
    targets=targets,
    outside=np.array(row["outside"]),
    visible=confidence.visible_share(confidence.target_box(targets), grid, thresholds.margin_mm),
    similarity=row["similarity"],
    agent_spread_mm=row["agent_spread_mm"],
    template_spread_mm=row["template_spread_mm"],
  )
  return confidence.judge(trust, thresholds)


def report(rows: list[dict], thresholds: confidence.Thresholds) -> dict[str, float]:
  """Print the tables; returns sensitivity and specificity of `outside field of view`."""
  counts = Counter((row["state"], verdict(row, thresholds)) for row in rows)
  print(f"{'state':8}" + "".join(f"{v:>24}" for v in VERDICTS))
  for state in STATES:
    print(f"{state:8}" + "".join(f"{counts[state, v]:24d}" for v in VERDICTS))
  outside = VERDICTS[2]
  gone = sum(counts["gone", v] for v in VERDICTS)
  there = sum(counts[s, v] for s in STATES[:2] for v in VERDICTS)
  result = {
    "sensitivity": counts["gone", outside] / gone if gone else float("nan"),
    "specificity": 1 - sum(counts[s, outside] for s in STATES[:2]) / there if there else float("nan"),
  }
  print(f"outside field of view: sensitivity {result['sensitivity']:.3f}, specificity {result['specificity']:.3f}")
  for field in ("similarity", "agent_spread_mm", "template_spread_mm"):
    print(f"{field:20} percentiles 5 / 50 / 95:")
    for state in STATES:
      values = [row[field] for row in rows if row["state"] == state and row[field] is not None]
      if values:
        print(f"  {state:6}" + " / ".join(f"{v:8.3f}" for v in np.percentile(values, (5, 50, 95))))
  return result


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--network", default="open")
  parser.add_argument("--templates", type=Path)
  parser.add_argument("--queries", type=Path)
  parser.add_argument("--organs", nargs="*")
  parser.add_argument("--first-query", type=int, default=9100, help="seed of the first of four query phantoms")
  parser.add_argument("--mode", default="WPL", choices=("WPL", "SPL"))
  parser.add_argument("--out", type=Path, default=Path("out/bench/absence.json"))
  parser.add_argument("--rejudge", type=Path)
  options = parser.parse_args()
  if options.rejudge:
    rows = json.loads(options.rejudge.read_text())["rows"]
  else:
    read = [
      read_templates(folder, options.organs) if folder else [phantom(seed) for seed in seeds]
      for folder, seeds in (
        (options.templates, range(9000, 9003)),
        (options.queries, range(options.first_query, options.first_query + 4)),
      )
    ]
    rows = measure(options.network, *read, options.mode)
  thresholds = confidence.Thresholds()
  result = report(rows, thresholds)
  if not options.rejudge:
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"thresholds": dataclasses.asdict(thresholds), **result, "rows": rows}))
    print(options.out)


if __name__ == "__main__":
  main()
