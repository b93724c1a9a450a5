"""Colour tables beside a label map: for 3D Slicer (`.ctbl`) and ITK-SNAP (a file of label descriptions)."""

from __future__ import annotations

import os

from medlsam_jax.io.atomic import write_text
from medlsam_jax.io.painted import PaintedMap


def write_slicer_table(path: str | os.PathLike[str], labels: PaintedMap) -> None:
  """A line for each value: index, name without spaces, red, green, blue and opacity from 0 to 255.

  Raises:
    OutputError: it cannot be written.
  """
  lines = [f"{each.value} {'_'.join(each.organ.split())} {_bytes(each.colour)} 255" for each in labels.organs]
  write_text(path, "\n".join(["# Color table file", "0 Background 0 0 0 0", *lines]) + "\n")


def write_snap_labels(path: str | os.PathLike[str], labels: PaintedMap) -> None:
  """A line for each value: index, red, green, blue, opacity 0 to 1, shown in slices, shown as a surface, name.

  Raises:
    OutputError: it cannot be written.
  """
  lines = [f'{each.value:5d} {_bytes(each.colour)} 1 1 1 "{_quoted(each.organ)}"' for each in labels.organs]
  head = ["# ITK-SnAP Label Description File", "# IDX R G B A VIS MSH LABEL", '    0 0 0 0 0 0 0 "Clear Label"']
  write_text(path, "\n".join([*head, *lines]) + "\n")


def _bytes(colour: tuple[float, float, float]) -> str:
  return " ".join(str(round(part * 255)) for part in colour)


def _quoted(name: str) -> str:
  return name.replace('"', "'")
