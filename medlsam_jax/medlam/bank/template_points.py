"""From templates to the points of each organ, and the network's outputs there. Points are working voxels (z, y, x)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from medlsam_jax import label_boxes, notices, working_grid
from medlsam_jax.errors import TemplateError
from medlsam_jax.geometry import PATCH_EDGE, WORKING_SPACING_MM, Convention
from medlsam_jax.io import label_values
from medlsam_jax.medlam.bank import points, template_order
from medlsam_jax.medlam.bank.kept_outputs import KeptOutputs, TemplateOutputs
from medlsam_jax.medlam.search import boxes, programs
from medlsam_jax.medlam.search.calls import fetched
from medlsam_jax.medlam.search.patches import Patches
from medlsam_jax.network import Network
from medlsam_jax.progress import Progress
from medlsam_jax.template_masks.organ_crops import OrganCrop
from medlsam_jax.working_grid import WorkingGrid

if TYPE_CHECKING:
  from medlsam_jax.io.templates import Template

OPERANDS = "float32"
"""Of a bank's products, on every platform: a search may be in a hurry, but what it compares with is made once."""
_CALLS_AHEAD = 8
"""On an accelerator: enough for it to have work, and what is lost when a build is killed stays little."""
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


class Plans(list[OrganPlan]):
  """Plans in the order of the bank, and `notes`: what was left out or is in doubt, a sentence each."""

  def __init__(self, plans: Iterable[OrganPlan] = (), notes: Iterable[str] = ()):
    super().__init__(plans)
    self.notes = tuple(notes)


@dataclasses.dataclass(frozen=True, eq=False)
class _Mask:
  """An organ's voxels inside its own box, and where that lies."""

  voxels: Bool[np.ndarray, "z y x"]
  low: Int[np.ndarray, "3"]

  def points(self, parts: int) -> Int[np.ndarray, "n 3"]:
    """Six points for each part, voxels of the working grid."""
    return points.part_points(self.voxels, parts).reshape(-1, 3) + self.low


@dataclasses.dataclass(frozen=True, eq=False)
class _Marked:
  """One template on the working grid."""

  template: Template
  labels: np.ndarray | None
  where: dict[int, label_boxes.LabelBox]
  """Boxes of the label values that survived resampling."""
  grid: WorkingGrid

  @classmethod
  def of(cls, template: Template, convention: Convention) -> _Marked:
    """Resamples the label map."""
    grid = working_grid.working_grid(template.scan.grid, convention)
    if template.labels is None:
      return cls(template, None, {}, grid)
    labels, _ = working_grid.labels_to_working_grid(template.labels, convention)
    return cls(template, labels, label_boxes.find_labels(labels), grid)

  def mask(self, organ: str) -> _Mask | None:
    """Voxels of an organ that is given as a mask and survived resampling."""
    value = self.template.values.get(organ, 0)
    box = self.where.get(value)
    if self.labels is None or box is None:
      return None
    return _Mask(self.labels[box] == value, np.array([part.start for part in box]))

  def tiny_mask(self, organ: str) -> _Mask | None:
    """Of an organ too small for half of any working voxel: the voxels that hold its own; None where it has none."""
    if self.template.labels is None or organ not in self.template.values:
      return None
    voxels = np.argwhere(self.template.labels.array == self.template.values[organ])
    if not len(voxels):
      return None
    where = _inside(self.grid.from_scan(voxels), self.grid)
    low = where.min(0)
    mask = np.zeros(where.max(0) - low + 1, bool)
    mask[tuple((where - low).T)] = True
    return _Mask(mask, low)

  def six_points(self, organ: str) -> np.ndarray:
    """An organ that is given by points, as voxels inside the grid."""
    return _inside(boxes.points_from_scan(self.template.points[organ], self.grid), self.grid)

  def places(self) -> dict[str, template_order.Place]:
    """Where organs lie, those too that were not asked for."""
    places = {}
    for organ, value in (self.template.unused | self.template.values).items():
      box = self.where.get(value)
      if box is not None:
        low, high = np.array([(part.start, part.stop - 1) for part in box]).T
        places[organ] = template_order.Place.of(low, high, self.grid.shape)
    for organ in self.template.points:
      six = self.six_points(organ)
      places[organ] = template_order.Place.of(six.min(0), six.max(0), self.grid.shape)
    return places


def _inside(points: np.ndarray, grid: WorkingGrid) -> Int[np.ndarray, "n 3"]:
  return np.clip(np.rint(points).astype(int), 0, np.array(grid.shape) - 1)


def plan(
  templates: Sequence[Template], organs: Sequence[str] | None, convention: Convention, interval_slices: int | None
) -> Plans:
  """The points of each organ in each template that has it.

  An organ too small for the grid keeps the voxels that hold its own. Templates that number an organ differently get
  one value for it. Templates whose organs lie in contradictory order are warned of (`template_order`).

  Args:
    interval_slices: height of an SPL part; None keeps every organ whole.

  Raises:
    TemplateError: no template, two of one name, an organ of `organs` that none shows, no organ at all.
  """
  names = [template.name for template in templates]
  if len(set(names)) < len(names):
    raise TemplateError(f"two templates have one name; rename one of {', '.join(sorted(names))}")
  values, differing = label_values.result_values((template.name, template.organs) for template in templates)
  wanted = list(values) if organs is None else list(organs)
  missing = [organ for organ in wanted if organ not in values]
  if missing or not wanted:
    raise TemplateError(
      f"no template has {', '.join(missing) or 'any organ'}; they have: {', '.join(values) or 'none'}"
    )
  notes = label_values.differing_numbers(differing, wanted)
  marked = [_Marked.of(template, convention) for template in templates]
  plans = []
  for organ in wanted:
    planned = _plan_organ(organ, values[organ], marked, interval_slices, notes)
    if planned is not None:
      plans.append(planned)
    elif organs is not None:
      raise TemplateError(f"{organ} has no voxels in any template; leave it out")
  if not plans:
    raise TemplateError(f"no organ has a voxel in any template: {', '.join(wanted)}")
  notes += template_order.contradictions({case.template.name: case.places() for case in marked}, wanted)
  for note in notes:
    notices.warn(note)
  return Plans(plans, notes)


def _plan_organ(
  organ: str, value: int, marked: list[_Marked], interval_slices: int | None, notes: list[str]
) -> OrganPlan | None:
  """None where no template has a voxel of it."""
  masks: dict[str, _Mask] = {}
  by_points: dict[str, np.ndarray] = {}
  tiny: list[str] = []
  for case in marked:
    name = case.template.name
    mask = case.mask(organ)
    if mask is None and organ in case.template.points:
      by_points[name] = case.six_points(organ)
    elif mask is not None:
      masks[name] = mask
    elif (small := case.tiny_mask(organ)) is not None:
      masks[name] = small
      tiny.append(name)
    elif organ in case.template.values:
      notes.append(f"{name}: {organ} has no voxels; left out for it")
  if tiny:
    notes.append(f"{organ}: smaller than the 3 mm voxels in {', '.join(tiny)}; placed there by its own voxels")
  if not masks and not by_points:
    return None
  parts = 0
  if interval_slices is not None and by_points:
    notes.append(
      f"{organ}: given by six points in {', '.join(by_points)}, which carry no parts: it is located as a whole (WPL)"
    )
  elif interval_slices is not None:
    parts = _parts(organ, {name: points.z_extent(mask.voxels) for name, mask in masks.items()}, interval_slices, notes)
  by_template = {}
  for case in marked:
    name = case.template.name
    if name in masks:
      by_template[name] = masks[name].points(parts)
    elif name in by_points:
      by_template[name] = by_points[name]
  # neighbouring parts share the point on the slice between them, in every template: the network sees it once
  _, first, index = np.unique(
    np.concatenate(list(by_template.values()), 1), axis=0, return_index=True, return_inverse=True
  )
  rank = np.argsort(np.argsort(first))
  kept = {name: where[np.sort(first)] for name, where in by_template.items()}
  return OrganPlan(organ, value, parts > 0, rank[index.reshape(-1)].reshape(-1, 6), kept)


def _parts(organ: str, extents: dict[str, int], interval_slices: int, notes: list[str]) -> int:
  """Into how many parts an organ is cut; says so where one low template decides for all."""
  parts = points.part_count(list(extents.values()), interval_slices)
  low = [name for name, extent in extents.items() if extent <= interval_slices]
  if low and 2 * len(low) < len(extents):
    height = WORKING_SPACING_MM * (min(extents.values()) + 1)
    notes.append(
      f"{organ}: only {height:g} mm high in {', '.join(low)}, too low for parts: it is located as a whole (WPL)"
    )
  return parts


def run(
  network: Network,
  templates: Sequence[Template],
  plans: Sequence[OrganPlan],
  convention: Convention,
  edge: int,
  progress: Progress | None = None,
  kept: KeptOutputs | None = None,
) -> dict[str, dict[str, Outputs]]:
  """The network's outputs at all planned points, taps `edge` voxels wide: template name -> organ -> outputs.

  `progress` hears first that nothing is done, and of how many points; what `kept` has already comes without computing.
  """
  prepared = programs.prepare(network, OPERANDS)
  total = sum(len(where) for plan in plans for where in plan.points.values())
  done, results = 0, {}
  tell = progress or (lambda *_: None)
  tell(done, total)
  for template in templates:
    here = {plan.organ: plan.points[template.name] + PATCH_EDGE // 2 for plan in plans if template.name in plan.points}
    if not here:
      continue
    padded = working_grid.pad_for_patches(working_grid.to_working_grid(template.scan, convention).intensity)
    outputs = TemplateOutputs() if kept is None else kept.of(network, padded, prepared.module.feature_scales, edge)
    centres = np.concatenate(list(here.values()))
    missing = [point for point in dict.fromkeys(map(tuple, centres.tolist())) if point not in outputs.rows]
    known = len(centres) - len(missing)
    done += known
    if known:
      tell(done, total)
    try:
      for some, computed in _computed(network, padded, np.array(missing, int).reshape(-1, 3), edge):
        outputs.add(some, *computed)
        done += len(some)
        tell(done, total)
    finally:
      outputs.write()
    results[template.name] = {organ: _gathered(outputs, where) for organ, where in here.items()}
  return results


def crops_of(template: Template, organs: Sequence[str]) -> dict[str, OrganCrop]:
  """Picture and mask of each of these organs that the template has as a mask."""
  if template.labels is None:
    return {}
  where, array = label_boxes.find_labels(template.labels.array), template.labels.array
  marked = {organ: template.values[organ] for organ in organs if template.values.get(organ) in where}
  return {organ: OrganCrop.of(template.scan, array, value, where[value]) for organ, value in marked.items()}


def _gathered(outputs: TemplateOutputs, points: Int[np.ndarray, "points 3"]) -> Outputs:
  rows = [outputs.rows[z, y, x] for z, y, x in points.tolist()]
  taps = {stride: np.stack([row[1][stride] for row in rows]) for stride in rows[0][1]}
  return np.stack([row[0] for row in rows]), taps


def _computed(
  network: Network, padded: Float[np.ndarray, "z y x"], centres: Int[np.ndarray, "n 3"], edge: int
) -> Iterator[tuple[Int[np.ndarray, "some 3"], Outputs]]:
  """Points with the network's outputs there, some at a time; fewer at a time while memory is short."""
  done = 0
  while done < len(centres):
    prepared = programs.prepare(network, OPERANDS)
    try:
      for some, outputs in _in_calls(prepared, Patches.of(prepared, padded), centres[done:], edge):
        done += len(some)
        yield some, outputs
    except jax.errors.JaxRuntimeError as error:
      programs.less_at_once(network, error)


def _in_calls(
  network: programs.Prepared, patches: Patches, centres: Int[np.ndarray, "n 3"], edge: int
) -> Iterator[tuple[Int[np.ndarray, "some 3"], Outputs]]:
  """The same with as many at a time as the network is prepared for."""
  size = network.patches_per_call
  chunks = [centres[first : first + size] for first in range(0, len(centres), size)]
  begun = fetched(network, chunks, lambda some: _outputs(network, patches, some, edge), _CALLS_AHEAD)
  for some, (position, taps) in begun:
    count = len(some)
    yield some, (np.asarray(position)[:count], {stride: np.asarray(each)[:count] for stride, each in taps.items()})


def _outputs(
  network: programs.Prepared, patches: Patches, centres: Int[np.ndarray, "some 3"], edge: int
) -> tuple[Float32[Array, "m 3"], dict[int, Float32[Array, "m k k k c"]]]:
  """Of one call, on the device; what comes after the last centre means nothing."""
  size = network.patches_per_call
  used = jax.device_put(np.arange(size) < len(centres))
  return programs.template_outputs(network, patches.at(centres, size), used, network.module.feature_scales, edge)
