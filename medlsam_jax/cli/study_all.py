"""`medlsam study all`: the papers' tables on a folder of labelled scans; reads truth, to score and as an oracle."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from medlsam_jax.cli import options
from medlsam_jax.errors import ConfigError

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal

MODELS = ("litemedsam", "sam-vit-b", "medsam", "templates")
TABLES = ("localization", "templates", "scales", "intervals", "models", "boxes", "crops")


def add_to(studies: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    studies,
    "all",
    "make the papers' tables on labelled scans: localization, templates, scales, parts, painters, boxes, crops",
    "  medlsam study all --data labelled/ --tables localization,templates --seconds 600 --out study/\n"
    "  labelled/ is a folder of NAME_ct.nii.gz with NAME_seg.nii.gz, or a data set as TotalSegmentator, nnU-Net,\n"
    "  BIDS, WORD or StructSeg have it. Writes study/study.html, study.md and TABLE.csv; what is scored is kept in\n"
    "  study/study.jsonl, and the same command goes on there.",
  )
  data = parser.add_argument_group("what is studied")
  data.add_argument("--data", required=True, metavar="PATH", help="labelled scans: queries, and templates unless named")
  data.add_argument("--templates", metavar="PATH", help="folder or list of templates (default: some of --data)")
  data.add_argument(
    "--split",
    metavar="FILE",
    help="which scans are templates, the first of them in most tables, and which queries: JSON or CSV (default: "
    "splits_final.json or meta.csv of --data, the published split of WORD and StructSeg, else the first scans by name)",
  )
  data.add_argument(
    "--count", type=options.positive_int, default=5, metavar="N", help="templates of most tables (default: 5)"
  )
  data.add_argument(
    "--pool", type=options.positive_int, default=12, metavar="N", help="templates to draw from, at most (default: 12)"
  )
  data.add_argument("--scans", type=options.positive_int, metavar="N", help="the first N queries only")
  options.add_organs(data)
  data.add_argument("--labels", metavar="FILE", help="labels.json for all scans (default: the one beside them)")
  options.add_reading(data, "the queries")
  asked = parser.add_argument_group("what is asked")
  asked.add_argument("--tables", type=options.names, metavar="A,B", help=f"of {', '.join(TABLES)} (default: all)")
  asked.add_argument(
    "--counts", type=_numbers, default=(1, 3, 5, 7), metavar="N,N", help="numbers of templates (default: 1,3,5,7)"
  )
  asked.add_argument(
    "--repeats", type=options.positive_int, default=3, metavar="N", help="choices of each (default: 3)"
  )
  asked.add_argument(
    "--intervals", type=_numbers, default=(6, 15, 30), metavar="MM,MM", help="heights of parts (default: 6,15,30)"
  )
  asked.add_argument(
    "--models",
    type=options.names,
    default=list(MODELS),
    metavar="A,B",
    help="what paints: names or files of networks, TITLE=FILE, templates, prompted, or none; the first paints parts of "
    f"organs, too; those whose weights are not here are named as missing (default: {','.join(MODELS)})",
  )
  options.add_network(asked)
  asked.add_argument("--search", choices=("exact", "fast", "atlas", "vote", "vote-fast"), help="default: vote-fast")
  asked.add_argument("--template-edge", type=options.positive_int, metavar="VOXELS", help="as of medlsam bank build")
  asked.add_argument("--seed", type=options.whole_number, default=0, help="draws where the search starts (default: 0)")
  parser.add_argument("--seconds", type=options.whole_number, metavar="N", help="begin nothing after so long")
  parser.add_argument("--virtual", action="store_true", help="say that the scans are virtual patients or phantoms")
  parser.add_argument("--out", default="out", metavar="DIR", help="folder for the tables (default: out)")
  options.add_quiet(parser)
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Asks what was not asked yet, and writes all tables; 1 if anything failed."""
  unknown = [name for name in arguments.tables or () if name not in TABLES]
  if unknown:
    raise ConfigError(f"--tables: {', '.join(unknown)} unknown; known are {', '.join(TABLES)}")
  from medlsam_jax.cli.studying import Studying

  return Studying.prepare(arguments, terminal).run()


def _numbers(text: str) -> tuple[int, ...]:
  """`1,3,5` -> its whole numbers above 0, in order."""
  return tuple(sorted({options.positive_int(name) for name in options.names(text)}))
