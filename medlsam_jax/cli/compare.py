"""`medlsam evaluate --compare`: ways to paint beside each other on the same boxes, of the labels or of the search."""

from __future__ import annotations

import argparse

from medlsam_jax.cli import options
from medlsam_jax.errors import ConfigError

EXAMPLE = (
  "  Ways to paint on the same boxes, here slices, slices voted over three axes, and adapters for volumes:\n"
  "  medlsam evaluate --query test/ --compare slices,axes,volume=adapters.safetensors --boxes-from labels --out scores/"
)
BY_SLICES, BY_TEMPLATES = ("slices", "propagate", "axes", "tight"), ("templates", "prompted")
CLEANED = "+clean-up"
"""Behind a way: its masks as `--clean-up` leaves them."""


def add_to(group: options.Options) -> None:
  """`--compare`, `--boxes-from`, `--seconds`."""
  group.add_argument(
    "--compare",
    type=options.names,
    metavar="WAY,WAY",
    help="paint each scan in several ways, and hold all against the first: slices (--model, prompted by the organ's "
    "box), propagate and axes (the same with --propagate, and with --axes all), tight (with the labels' own box in "
    "each slice, which no search gives), templates and prompted (as --masks), or the name or file of a network, "
    "adapters for volumes too; TITLE=FILE says what to call it, and WAY+clean-up has its masks as --clean-up leaves "
    "them, painted once for both",
  )
  group.add_argument(
    "--boxes-from",
    choices=("labels", "found"),
    help="labels: an oracle's boxes, without a search; found: those of the search, which needs --templates or --bank "
    "(default: found)",
  )
  group.add_argument(
    "--seconds",
    type=options.whole_number,
    metavar="N",
    help="begin no scan after so long; what was scored is kept, and the same command goes on (0: show it)",
  )


def check(arguments: argparse.Namespace) -> None:
  """Refuses what does not go with a comparison.

  Raises:
    ConfigError: naming the option.
  """
  from medlsam_jax.cli import networks_and_banks

  for option in ("predictions", "no_masks", "skip_existing", "masks", "propagate", "axes"):
    if getattr(arguments, option):
      name = option.replace("_", "-")
      raise ConfigError(f"--{name} and --compare do not go together: --compare says which ways to paint are scored")
  if arguments.query is None:
    raise ConfigError("--compare paints scans: give them with --query PATH, their labels beside them")
  titles = [title for title, _ in titled(arguments.compare)]
  if twice := next((title for title in titles if titles.count(title) > 1), None):
    raise ConfigError(f"--compare has two ways called {twice}; write TITLE=FILE")
  words = [plain(way) for _, way in titled(arguments.compare)]
  if arguments.model is not None and not set(words) & set(BY_SLICES):
    raise ConfigError(f"--model is what {', '.join(BY_SLICES)} paint with, and --compare has none of them")
  if "tight" in words and arguments.boxes_from != "labels":
    raise ConfigError("--compare tight prompts with the labels' own boxes: it needs --boxes-from labels")
  if searches(arguments):
    networks_and_banks.check_search(arguments)
  elif arguments.templates is not None or arguments.bank is not None:
    raise ConfigError("--boxes-from labels searches nothing, and no way uses templates: leave --templates and --bank")


def check_unused(arguments: argparse.Namespace) -> None:
  """Refuses options of a comparison without one.

  Raises:
    ConfigError: naming the option.
  """
  for option in ("boxes_from", "seconds"):
    if getattr(arguments, option) is not None:
      raise ConfigError(f"--{option.replace('_', '-')} is about --compare, which is missing")


def searches(arguments: argparse.Namespace) -> bool:
  """Whether a bank is needed, for its boxes or its masks."""
  return arguments.boxes_from != "labels" or any(plain(way) in BY_TEMPLATES for _, way in titled(arguments.compare))


def titled(compare: list[str]) -> list[tuple[str, str]]:
  """Titles for the table, and what paints."""
  pairs = [each.rpartition("=") for each in compare]
  return [(title or way, way) for title, _, way in pairs]


def plain(way: str) -> str:
  """A way without its clean-up."""
  return way.removesuffix(CLEANED)
