"""Rows of the prompt study -> one CSV, and one HTML page whose plots are in it."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from medlsam_jax.evaluation.prompt_making import DISTURBANCES, LEVEL_FRAME, LEVELS_PX, MODE_TITLES, MODES
from medlsam_jax.evaluation.prompts import CHOICES, FACTORS, StudyRow, spearman
from medlsam_jax.io.atomic import write_text
from medlsam_jax.pages.page import Section, page
from medlsam_jax.pages.table import table

COLOURS = {"oracle": "#b8b8b8", "predicted": "#2f6db3", "single": "#d9822b"}
FACTOR_TITLES = {
  "boundary_order": "boundary complexity (Fourier order)",
  "intensity_difference": "intensity difference (absolute, grey levels)",
  "size_mm2": "size (mm²)",
  "aspect_ratio": "aspect ratio",
}
_LEAD = (
  "<p>S1 everything; S2 one point; S3 five points; S4 five points and five outside; S5 box; S6 box and one point. "
  "<b>Oracle</b>: the best of three candidates against the truth, which nobody has in use. <b>Predicted</b>: the "
  "candidate that the network rates highest. <b>Single</b>: its single answer. Everything mode names no organ, so "
  "that it has an oracle only.</p>"
)
_NOTE = (
  "Slices and organs of one person are not independent: p-values would be too small, and none are given. Prompts are "
  "made from the truth. Empty answers count with Dice 0 and the slice's diagonal. Research use only; not a medical "
  "device."
)


def write_csv(path: str | os.PathLike[str], rows: Sequence[StudyRow]) -> None:
  """One line per answer.

  Raises:
    OutputError: the file cannot be written; so does `write_html`.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  names = [field.name for field in dataclasses.fields(StudyRow)]
  writer.writerow(names)
  for row in rows:
    cells = [getattr(row, name) for name in names]
    writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in cells])
  write_text(path, text.getvalue())


def write_html(path: str | os.PathLike[str], rows: Sequence[StudyRow], about: dict[str, str]) -> None:
  """The page; `about`: what was studied, shown at its top."""
  of_organs = f"<p>Mean Dice of the single answer.</p>{_image(_by_organ(rows))}"
  parts = [
    Section("By mode", _table(mode_table(rows)) + _image(_by_mode(rows))), Section("By organ", of_organs),
  ]  # fmt: skip
  if any(row.disturbance for row in rows):
    levels = ", ".join(f"{low:g}-{high:g}" for low, high in LEVELS_PX)
    said = f"<p>Levels: {levels} px of a slice of {LEVEL_FRAME} pixels an edge.</p>"
    parts.append(Section("Disturbed prompts", said + _image(_by_level(rows))))
  said = "<p>Spearman correlation of Dice with each factor.</p>"
  parts.append(Section("What makes it hard", said + _table(factor_table(rows)) + _image(_by_factor(rows))))
  lead = table(["what", "value"], list(about.items())) + _LEAD
  write_text(path, page("Prompt study", lead, parts, _NOTE))


def mode_table(rows: Sequence[StudyRow]) -> list[list[str]]:
  """Mean scores by mode and choice, undisturbed, under a heading."""
  table = [["mode", "choice", "answers", "Dice", "Jaccard", "Hausdorff mm"]]
  for mode in MODES:
    for choice in CHOICES:
      chosen = [row for row in rows if (row.mode, row.choice, row.disturbance) == (mode, choice, "")]
      if chosen:
        means = [np.mean([getattr(row, name) for row in chosen]) for name in ("dice", "jaccard", "hausdorff_mm")]
        title = f"{mode} {MODE_TITLES[mode]}"
        table.append([title, choice, str(len(chosen)), f"{means[0]:.3f}", f"{means[1]:.3f}", f"{means[2]:.1f}"])
  return table


def factor_table(rows: Sequence[StudyRow]) -> list[list[str]]:
  """Spearman correlations by mode, of the single answer (of the oracle for S1), under a heading."""
  table = [["mode", *(FACTOR_TITLES[factor] for factor in FACTORS)]]
  for mode in dict.fromkeys(row.mode for row in sorted(rows, key=lambda row: row.mode)):
    correlations = spearman(rows, mode, "oracle" if mode == "S1" else "single")
    cells = ["-" if np.isnan(correlations[factor][0]) else f"{correlations[factor][0]:+.2f}" for factor in FACTORS]
    table.append([f"{mode} {MODE_TITLES[mode]}", *cells])
  return table


def _modes(rows: Sequence[StudyRow]) -> list[str]:
  return [mode for mode in MODES if any(row.mode == mode and not row.disturbance for row in rows)]


def _by_mode(rows: Sequence[StudyRow]) -> Figure:
  """Spread of Dice: a box plot for each mode and choice."""
  modes, figure = _modes(rows), Figure(figsize=(9, 3.6), layout="constrained")
  axes = figure.add_subplot()
  for number, choice in enumerate(CHOICES):
    places, values = [], []
    for place, mode in enumerate(modes):
      scores = [r.dice for r in rows if (r.mode, r.choice, r.disturbance) == (mode, choice, "")]
      if scores:
        places.append(place + (number - 1) * 0.26)
        values.append(scores)
    if values:
      drawn = axes.boxplot(values, positions=places, widths=0.22, patch_artist=True, flierprops={"markersize": 2})
      for box in drawn["boxes"]:
        box.set_facecolor(COLOURS[choice])
      for line in drawn["medians"]:
        line.set_color("black")
      axes.plot([], [], "s", color=COLOURS[choice], label=choice)
  axes.set_xticks(range(len(modes)), [f"{mode}\n{MODE_TITLES[mode]}" for mode in modes], fontsize=8)
  axes.set_xlim(-0.6, len(modes) - 0.4)
  axes.set(ylabel="Dice", ylim=(-0.02, 1.02))
  axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.13), frameon=False)
  return figure


def _by_organ(rows: Sequence[StudyRow]) -> Figure:
  """Organs by modes as a table of colours."""
  modes, organs = _modes(rows), sorted({row.organ for row in rows})
  means = np.full((len(organs), len(modes)), np.nan)
  for y, organ in enumerate(organs):
    for x, mode in enumerate(modes):
      choice = "oracle" if mode == "S1" else "single"
      scores = [r.dice for r in rows if (r.organ, r.mode, r.choice, r.disturbance) == (organ, mode, choice, "")]
      if scores:
        means[y, x] = np.mean(scores)
  figure = Figure(figsize=(7, 0.9 + 0.28 * len(organs)), layout="constrained")
  axes = figure.add_subplot()
  axes.imshow(means, cmap="viridis", vmin=0, vmax=1, aspect="auto")
  axes.set_xticks(range(len(modes)), [f"{m} (oracle)" if m == "S1" else m for m in modes], fontsize=8)
  axes.set_yticks(range(len(organs)), organs, fontsize=8)
  for y, x in zip(*np.nonzero(~np.isnan(means)), strict=True):
    colour = "black" if means[y, x] > 0.6 else "white"
    axes.text(x, y, f"{means[y, x]:.2f}", ha="center", va="center", fontsize=7, color=colour)
  return figure


def _by_level(rows: Sequence[StudyRow]) -> Figure:
  """Dice against how far prompts were moved."""
  figure = Figure(figsize=(9, 3), layout="constrained")
  titles = ["none", *(f"{low:g}-{high:g}" for low, high in LEVELS_PX)]
  for axes, (how, mode) in zip(figure.subplots(1, len(DISTURBANCES), sharey=True), DISTURBANCES.items(), strict=True):
    for choice in CHOICES:
      means = []
      for level in range(len(titles)):
        key = (mode, choice, how if level else "", level)
        scores = [r.dice for r in rows if (r.mode, r.choice, r.disturbance, r.level) == key]
        means.append(np.mean(scores) if scores else np.nan)
      axes.plot(titles, means, "o-", color=COLOURS[choice], label=choice, markersize=4)
    axes.set(title=f"{how} ({mode})", xlabel="px", ylim=(0, 1))
  figure.axes[0].set_ylabel("mean Dice")
  figure.axes[0].legend(fontsize=8, frameon=False, loc="lower left")
  return figure


def _by_factor(rows: Sequence[StudyRow]) -> Figure:
  """Dice of boxes (or of the last mode there is) against each factor."""
  mode = "S5" if "S5" in _modes(rows) else _modes(rows)[-1]
  choice = "oracle" if mode == "S1" else "single"
  chosen = [row for row in rows if (row.mode, row.choice, row.disturbance) == (mode, choice, "")]
  correlations = spearman(rows, mode, choice)
  figure = Figure(figsize=(9, 6), layout="constrained")
  for axes, factor in zip(figure.subplots(2, 2, sharey=True).ravel(), FACTORS, strict=True):
    values = np.abs([getattr(row, factor) for row in chosen])
    axes.plot(values, [row.dice for row in chosen], "o", markersize=3, alpha=0.5, color=COLOURS["predicted"])
    if factor == "size_mm2":
      axes.set_xscale("log")
    axes.set(xlabel=FACTOR_TITLES[factor], title=f"{mode}: Spearman {correlations[factor][0]:+.2f}")
  for axes in figure.axes[::2]:
    axes.set_ylabel("Dice")
  return figure


def _image(figure: Figure) -> str:
  data = io.BytesIO()
  figure.savefig(data, format="png", dpi=110)
  return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def _table(rows: list[list[str]]) -> str:
  heading, *body = rows
  return table(heading, body)
