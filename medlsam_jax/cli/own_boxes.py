"""`segment --boxes FILE`: boxes of the user's own in place of a search."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from medlsam_jax.cli import provenance
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Volume
from medlsam_jax.io import box_input
from medlsam_jax.io.scans import ListedScan


def check_boxes(arguments: argparse.Namespace) -> None:
  """Refuses options of a search together with `--boxes`; a bank may come along for its masks.

  Raises:
    ConfigError: there is one.
  """
  for option in ("templates", "save_bank", "mode", "interval_mm", "template_edge", "labels", "steps", "search"):
    if getattr(arguments, option) is not None:
      name = option.replace("_", "-")
      raise ConfigError(f"--{name} is about finding organs; with --boxes nothing is searched: leave one of them away")


def check_boxes_queries(arguments: argparse.Namespace, queries: Sequence[ListedScan]) -> None:
  """Boxes and points belong to one scan.

  Raises:
    ConfigError: `--boxes` or `--points` with several.
  """
  for option in ("boxes", "points"):
    if getattr(arguments, option) is not None and len(queries) != 1:
      raise ConfigError(f"--{option} is for one scan; {arguments.query} names {len(queries)}")


def given_boxes(
  arguments: argparse.Namespace,
  listed: ListedScan,
  title: str,
  terminal: Terminal,
  read: Callable[[ListedScan], Volume],
) -> tuple[Volume, dict[str, Finding]]:
  """Reads a scan and the user's boxes for it.

  Raises:
    InputError: as `box_input.read_boxes`, or `--organs` names one that has no box.
  """
  with terminal.bar(f"{title}: reading"):
    scan = read(listed)
  findings = box_input.read_boxes(arguments.boxes, scan)
  for organ in arguments.organs or ():
    if organ not in findings:
      raise InputError(f"{arguments.boxes}: no box for organ {organ!r}; it has: {', '.join(findings)}")
  return scan, {organ: each for organ, each in findings.items() if organ in (arguments.organs or findings)}


def provenance_of_boxes(arguments: argparse.Namespace) -> dict[str, object]:
  """Where a result from given boxes comes from; what painted it is added by `painting.merged`."""
  return {"boxes": provenance.of_file(arguments.boxes), "versions": provenance.of_machine()}
