"""From templates to the points of each organ, and the network's outputs there. Points are working voxels (z, y, x)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int

from medlsam_jax import notices
from medlsam_jax.data import ct, points
from medlsam_jax.errors import TemplateError
from medlsam_jax.geometry import PATCH_EDGE, Convention, WorkingGrid
from medlsam_jax.localization import boxes, programs
from medlsam_jax.localization.kept import KeptOutputs, TemplateOutputs
from medlsam_jax.models.network import Network

if TYPE_CHECKING:
  from medlsam_jax.data.templates import Template

Outputs = tuple[Float32[np.ndarray, "points 3"], dict[int, Float32[np.ndarray, "points k k k c"]]]
"""Anatomical coordinates and taps by stride of the points of one organ in one template."""


@dataclasses.dataclass(frozen=True, eq=False)
class OrganPlan:
  """Where the network is to look for one organ."""

  organ: str
  value: int
  is_cut: bool
  faces: Int[np.ndarray, "parts 6"]
  """Index among the organ's distinct points."""
  points: dict[str, Int[np.ndarray, "points 3"]]
  """By template name."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Marked:
  """One template on the working grid."""

  template: Template
  labels: np.ndarray | None
  grid: WorkingGrid

  def mask(self, organ: str) -> np.ndarray | None:
    """Voxels of an organ that is given as a mask and survived resampling."""
    if self.labels is None or organ not in self.template.values:
      return None
    mask = self.labels == self.template.values[organ]
    return mask if mask.any() else None

  def six_points(self, organ: str) -> np.ndarray:
    """An organ that is given by points, as voxels inside the grid."""
    nearest = np.rint(boxes.points_from_scan(self.template.points[organ], self.grid)).astype(int)
    return np.clip(nearest, 0, np.array(self.grid.shape) - 1)


def plan(
  templates: Sequence[Template], organs: Sequence[str] | None, convention: Convention, interval_slices: int | None
) -> list[OrganPlan]:
  """The points of each organ in each template that has it.

  Args:
    interval_slices: height of an SPL part; None keeps every organ whole.

  Raises:
    TemplateError: no template, two of one name, an organ in none of them or too small for the grid in all.
  """
  names = [template.name for template in templates]
  if len(set(names)) < len(names):
    raise TemplateError(f"two templates have one name; rename one of {', '.join(sorted(names))}")
  values: dict[str, int] = {}
  for template in templates:
    for organ, value in template.organs.items():
      if values.setdefault(organ, value) != value:
        raise TemplateError(f"{template.name}: {organ} has label value {value}, elsewhere {values[organ]}")
  wanted = list(values) if organs is None else list(organs)
  missing = [organ for organ in wanted if organ not in values]
  if missing or not wanted:
    raise TemplateError(
      f"no template has {', '.join(missing) or 'any organ'}; they have: {', '.join(values) or 'none'}"
    )
  marked = [_on_working_grid(template, convention) for template in templates]
  return [_plan_organ(organ, values[organ], marked, interval_slices) for organ in wanted]


def _on_working_grid(template: Template, convention: Convention) -> _Marked:
  if template.labels is None:
    return _Marked(template, None, ct.working_grid(template.scan.grid, convention))
  labels, _ = ct.labels_to_working_grid(template.labels, convention)
  return _Marked(template, labels, ct.working_grid(template.scan.grid, convention))


def _plan_organ(organ: str, value: int, marked: list[_Marked], interval_slices: int | None) -> OrganPlan:
  masks, by_points = {}, {}
  for case in marked:
    mask = case.mask(organ)
    if mask is not None:
      masks[case.template.name] = mask
    elif organ in case.template.points:
      by_points[case.template.name] = case.six_points(organ)
    elif organ in case.template.values:
      notices.warn(f"{case.template.name}: {organ} is too small for 3 mm voxels; left out for it")
  if not masks and not by_points:
    raise TemplateError(f"{organ} is too small for 3 mm voxels in every template that has it; leave it out")
  parts = 0
  if interval_slices is not None and by_points:
    notices.warn(
      f"{organ}: given by six points in {', '.join(by_points)}, which carry no parts: it is located as a whole (WPL)",
    )
  elif interval_slices is not None:
    parts = points.part_count([points.z_extent(mask) for mask in masks.values()], interval_slices)
  found = {}
  for case in marked:
    name = case.template.name
    if name in masks:
      found[name] = points.part_points(masks[name], parts).reshape(-1, 3)
    elif name in by_points:
      found[name] = by_points[name]
  # neighbouring parts share the point on the slice between them, in every template: the network sees it once
  _, first, index = np.unique(np.concatenate(list(found.values()), 1), axis=0, return_index=True, return_inverse=True)
  rank = np.argsort(np.argsort(first))
  kept = {name: where[np.sort(first)] for name, where in found.items()}
  return OrganPlan(organ, value, parts > 0, rank[index.reshape(-1)].reshape(-1, 6), kept)


def run(
  network: Network,
  templates: Sequence[Template],
  plans: list[OrganPlan],
  convention: Convention,
  edge: int,
  progress: Callable[[int, int], None] | None = None,
  kept: KeptOutputs | None = None,
) -> dict[str, dict[str, Outputs]]:
  """The network's outputs at all planned points, taps `edge` voxels wide: template name -> organ -> outputs.

  `progress` hears first that nothing is done, and of how many points; what `kept` has already comes without computing.
  """
  module, variables = programs.prepare(network)
  total = sum(len(where) for plan in plans for where in plan.points.values())
  done, results = 0, {}
  tell = progress or (lambda *_: None)
  tell(done, total)
  for template in templates:
    here = {plan.organ: plan.points[template.name] + PATCH_EDGE // 2 for plan in plans if template.name in plan.points}
    if not here:
      continue
    padded = ct.pad_for_patches(ct.to_working_grid(template.scan, convention).intensity)
    outputs = TemplateOutputs() if kept is None else kept.of(network, padded, module.feature_scales, edge)
    centres = np.concatenate(list(here.values()))
    missing = [point for point in dict.fromkeys(map(tuple, centres.tolist())) if point not in outputs.rows]
    known = len(centres) - len(missing)
    done += known
    if known:
      tell(done, total)
    try:
      for start in range(0, len(missing), programs.POINTS_PER_CALL):
        chunk = np.array(missing[start : start + programs.POINTS_PER_CALL])
        outputs.add(chunk, *_outputs(module, variables, padded, chunk, edge))
        done += len(chunk)
        tell(done, total)
    finally:
      outputs.write()
    results[template.name] = {organ: _gathered(outputs, where) for organ, where in here.items()}
  return results


def _gathered(outputs: TemplateOutputs, points: Int[np.ndarray, "points 3"]) -> Outputs:
  rows = [outputs.rows[z, y, x] for z, y, x in points.tolist()]
  taps = {stride: np.stack([row[1][stride] for row in rows]) for stride in rows[0][1]}
  return np.stack([row[0] for row in rows]), taps


def _outputs(module: programs.MedLAM, variables: dict, padded: np.ndarray, centres: np.ndarray, edge: int) -> Outputs:
  patches = programs.pad_batch(programs.crop_patches(padded, centres))
  used = np.arange(programs.POINTS_PER_CALL) < len(centres)
  position, taps = programs.template_outputs(module, variables, patches, used, module.feature_scales, edge)
  count = len(centres)
  return np.asarray(position)[:count], {stride: np.asarray(volume)[:count] for stride, volume in taps.items()}
