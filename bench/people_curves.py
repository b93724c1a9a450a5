"""The picture of `bench.real_people`: how boxes improve with the number of templates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

REGISTRATION = (0.564, 5.3)
"""Box IoU and wall distance in mm of multi-atlas registration, quoted (`real_people.QUOTED`)."""
_AXES = (("box_iou", "box IoU"), ("wall_distance_mm", "wall distance, mm"))


def draw(counts: Mapping[str, Mapping[str, Any]], people: str, search: str, output: Path) -> None:
  """IoU and wall distance by number of templates, with 95 % intervals over people.

  Args:
    counts: figures of the table of part `k`, whose keys begin with the number of templates.
    people, search: for the title.
    output: the picture to write.
  """
  figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
  numbers = [int(name.split()[0]) for name in counts]
  whole = [each["whole"] for each in counts.values()]
  for axis, (field, label), registered in zip(axes, _AXES, REGISTRATION, strict=True):
    values = [each[field] for each in whole]
    ends = [each.get(f"{field}_95", (math.nan, math.nan)) for each in whole]  # none of one person
    axis.fill_between(numbers, *zip(*ends, strict=True), alpha=0.2)
    axis.plot(numbers, values, marker="o", label=search)
    axis.axhline(registered, color="tab:orange", linestyle="--", label="registration, five templates (quoted)")
    means = [each[f"baseline_{field}"] for each in whole]
    axis.plot(numbers, means, color="grey", linestyle=":", label="mean boxes of the templates")
    axis.set(xlabel="templates", ylabel=label, xticks=numbers, ylim=(0, None))
  axes[0].legend(loc="lower right", fontsize="small")
  figure.suptitle(f"Head and neck, {people}: {whole[0]['people']} people, organs that are whole", fontsize="medium")
  figure.savefig(output, dpi=110)
  plt.close(figure)
