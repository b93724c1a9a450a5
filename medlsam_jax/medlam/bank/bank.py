"""The template bank: what marked scans leave behind once the network has seen them, in working voxels (z, y, x).

For every organ it keeps, per template and per point, the anatomical coordinate and the features around the point at
each scale (MedLSAM, section 3.2). Every template's own outputs stay, so that templates can be left out and compared.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from jaxtyping import Float32, Int

from medlsam_jax import display, notices
from medlsam_jax.errors import ConfigError, TemplateError, WeightsError
from medlsam_jax.geometry import PATCH_EDGE, WORKING_SPACING_MM, Convention
from medlsam_jax.installation import version
from medlsam_jax.medlam.bank import bank_file, template_points
from medlsam_jax.medlam.bank.kept_outputs import KeptOutputs
from medlsam_jax.network import Network
from medlsam_jax.progress import Progress
from medlsam_jax.template_masks.organ_crops import OrganCrop

if TYPE_CHECKING:
  from medlsam_jax.io.templates import Template

PUBLISHED_TEMPLATE_EDGE = 8
"""Working voxels along an edge of the cube of features around a template point: 24 mm."""

Mode = Literal["SPL", "WPL"]
"""Sub-patch localization cuts an organ into parts along z, whole-patch localization does not."""


@dataclasses.dataclass(frozen=True, eq=False)
class OrganBank:
  """One organ as its templates show it. Points that two parts share are kept once."""

  organ: str
  value: int
  mode: Mode
  """WPL in a bank of mode SPL where the organ is too low for parts or was given by points alone."""
  templates: tuple[str, ...]
  """Names of the templates that have the organ, in the order of the first axis below."""
  faces: Int[np.ndarray, "parts 6"]
  """Which point lies on each face of each part."""
  positions: Float32[np.ndarray, "templates points 3"]
  features: dict[int, Float32[np.ndarray, "templates points k k k c"]]
  """By stride; unit length over channels, or zero."""
  places: Int[np.ndarray, "templates points 3"] | None = None
  """Where the points lie: voxels of each template's working grid. None in files of older banks,
  with which a search cannot hold points against the templates' shapes."""
  crops: tuple[OrganCrop | None, ...] = ()
  """Picture and mask of the organ in each template, None where it was given by points; empty in old bank files."""

  def __repr__(self) -> str:
    seen = f"{display.count(self.positions.shape[1], 'point')} of {display.count(len(self.templates), 'template')}"
    return f"OrganBank {self.organ} (label value {self.value}, {self.mode}): {seen}, {display.some(self.templates)}"

  @functools.cached_property
  def mean_positions(self) -> Float32[np.ndarray, "points 3"]:
    """Anatomical coordinate of each point, mean over templates."""
    return self.positions.sum(0, dtype=np.float32) / np.float32(len(self.positions))

  @functools.cached_property
  def taps(self) -> dict[int, Float32[np.ndarray, "points k k k c"]]:
    """Features of each point, mean over templates."""
    return {stride: volume.mean(0, dtype=np.float32) for stride, volume in self.features.items()}

  def arrays(self) -> dict[str, np.ndarray]:
    """By the name that they have in a bank file."""
    named = {"faces": np.asarray(self.faces, np.int32), "positions": self.positions}
    named |= {} if self.places is None else {"places": np.asarray(self.places, np.int32)}
    for number, crop in enumerate(self.crops):
      named |= {} if crop is None else {f"crop.{number}.{name}": array for name, array in vars(crop).items()}
    return named | {f"features.{stride}": volume for stride, volume in self.features.items()}

  @classmethod
  def from_arrays(cls, row: dict[str, Any], arrays: dict[str, np.ndarray]) -> OrganBank:
    """The inverse of `arrays`; `row` holds the fields that are no arrays."""
    features = {int(name.split(".")[1]): a for name, a in arrays.items() if name.startswith("features.")}
    organ, value, templates, mode = row["organ"], row["value"], tuple(row["templates"]), _one_of(row["mode"], Mode)
    faces, positions, places = arrays["faces"], arrays["positions"], arrays.get("places")
    bank_file.check_organ(organ, value, templates, faces, positions, features, places)
    crops = bank_file.crops_of(arrays, len(templates))
    return cls(organ, value, cast(Mode, mode), templates, faces, positions, features, places, crops)

  def only(self, kept: Sequence[str]) -> OrganBank:
    """The same organ with these templates alone."""
    index = [self.templates.index(name) for name in kept]
    features = {stride: volume[index] for stride, volume in self.features.items()}
    places = None if self.places is None else self.places[index]
    crops = tuple(self.crops[i] for i in index) if self.crops else ()
    return dataclasses.replace(
      self,
      templates=tuple(kept),
      positions=self.positions[index],
      features=features,
      places=places,
      crops=crops,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Bank:
  """All organs of a set of templates, for one network."""

  network_sha256: str
  mode: Mode
  interval_mm: float
  """Height of an SPL part that was asked for, after rounding to whole working slices."""
  convention: Convention
  organs: dict[str, OrganBank]
  versions: dict[str, str]
  """Of the libraries that built it."""
  notes: tuple[str, ...] = ()
  """What building left out or doubts, a sentence each."""
  operands: str = ""
  """What products had when it was built, `float32` on every platform; empty in a bank from before this was kept, whose
  products were the platform's: TF32 on a GPU."""

  def __repr__(self) -> str:
    organs = f"{display.count(len(self.organs), 'organ')} ({display.some(self.organs)})"
    templates = f"{display.count(len(self.templates), 'template')} ({display.some(self.templates)})"
    noted = f", {display.count(len(self.notes), 'note')}" if self.notes else ""
    return f"Bank of {organs} from {templates}: {self.mode}, network {self.network_sha256[:12]}{noted}"

  def _repr_html_(self) -> str:
    return display.html_table("\n".join((repr(self), *self.notes)), self.table())

  @property
  def templates(self) -> list[str]:
    """Names of all templates, in order of appearance."""
    return list(dict.fromkeys(name for organ in self.organs.values() for name in organ.templates))

  @classmethod
  def build(
    cls,
    network: Network,
    templates: Sequence[Template],
    mode: Mode = "SPL",
    interval_mm: float = 12.0,
    *,
    organs: Sequence[str] | None = None,
    convention: Convention | None = None,
    template_edge: int | None = None,
    progress: Progress | None = None,
    kept: KeptOutputs | None = None,
  ) -> Bank:
    """Run the network at the points of every organ of every template.

    Args:
      network: a MedLAM.
      templates: an organ may be missing from some; they are left out for it.
      mode: SPL cuts organs into min(shortest z extent // interval, 6) parts, if they are higher than the interval.
      interval_mm: height of a part, rounded to whole slices of 3 mm with a warning (published: 12).
      organs: names, in the order of the bank; None takes all.
      convention: of the working grid; None takes the one the network was trained with, else `consistent`.
      template_edge: working voxels along an edge of the cube of features that is kept around a point; None takes what
        the network asks for, else the published 8.
      progress: called with points done and in all, first with none done.
      kept: a folder of the caller's that keeps what was computed as it comes, so that a build that was stopped goes on
        where it was. The caller clears it.

    Raises:
      TemplateError: no template, two of one name, an organ in none of them, no organ at all.
      ConfigError: an unknown mode or convention, an interval that is not above 0, a `template_edge` that does not hold
        an even number of features at every scale or exceeds a patch.
      WeightsError: the network cannot localize, or its header is damaged.
    """
    if mode not in get_args(Mode):
      raise ConfigError(f"mode {mode!r}; choose SPL or WPL")
    slices = _interval_slices(interval_mm)
    convention = convention or cast(Convention, network.header.get("working_grid", "consistent"))
    if convention not in get_args(Convention):
      raise ConfigError(f"working grid {convention!r}; choose published or consistent")
    edge = edge_of(network, template_edge)
    plans = template_points.plan(templates, organs, convention, slices if mode == "SPL" else None)
    outputs = template_points.run(network, templates, plans, convention, edge, progress, kept)
    crops = {each.name: template_points.crops_of(each, [plan.organ for plan in plans]) for each in templates}
    banks = {plan.organ: _organ_bank(plan, outputs, crops) for plan in plans}
    versions = {name: version(name) for name in ("medlsam_jax", "jax", "flax")}
    doubtful = [f"template {each.name}: {doubt}" for each in templates for doubt in each.scan.doubts]
    notes = (*getattr(templates, "left_out", ()), *doubtful, *plans.notes)
    height = slices * WORKING_SPACING_MM
    return cls(network.sha256, mode, height, convention, banks, versions, notes, template_points.OPERANDS)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Write one .safetensors file; it appears whole or not at all.

    Raises:
      OutputError: it cannot be written.
    """
    tensors: dict[str, np.ndarray] = {}
    for number, organ in enumerate(self.organs.values()):
      tensors |= {f"{number}.{name}": array for name, array in organ.arrays().items()}
    rows = [
      {"organ": organ.organ, "value": organ.value, "mode": organ.mode, "templates": organ.templates}
      for organ in self.organs.values()
    ]
    header = {
      "network_sha256": self.network_sha256,
      "mode": self.mode,
      "interval_mm": repr(self.interval_mm),
      "convention": self.convention,
      "organs": json.dumps(rows),
      "versions": json.dumps(self.versions),
      "notes": json.dumps(self.notes),
      "operands": self.operands,
    }
    bank_file.write(path, tensors, header)

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> Bank:
    """Read what `save` wrote.

    Raises:
      TemplateError: the file is missing, truncated, or not a bank of this version, or its arrays do not go together.
    """
    tensors, header = bank_file.read(path)
    try:
      organs = {}
      for number, row in enumerate(json.loads(header["organs"])):
        start = f"{number}."
        arrays = {name.removeprefix(start): array for name, array in tensors.items() if name.startswith(start)}
        organs[row["organ"]] = OrganBank.from_arrays(row, arrays)
      bank_file.check_together([organ.features for organ in organs.values()], len(json.loads(header["organs"])))
      return cls(
        header["network_sha256"],
        cast(Mode, _one_of(header["mode"], Mode)),
        float(header["interval_mm"]),
        cast(Convention, _one_of(header["convention"], Convention)),
        organs,
        json.loads(header["versions"]),
        tuple(map(str, json.loads(header.get("notes", "[]")))),
        header.get("operands", ""),
      )
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
      raise TemplateError(f"{path}: a damaged template bank ({error!r}); build it again") from error

  @property
  def template_edge(self) -> int | None:
    """Working voxels along an edge of the cube of features around a point; None without features."""
    first = next(iter(self.organs.values()), None)
    return next((volume.shape[2] * stride for stride, volume in first.features.items()), None) if first else None

  def mixed_with(self, operands: str, platform: str) -> str:
    """What to say of a search with such operands on a platform (`cpu`, `gpu`, `tpu`); empty where both are alike."""
    if self.operands == operands or (platform == "cpu" and not self.operands):
      return ""
    if self.operands:
      return f"the bank was made with {self.operands} operands, and is searched with {operands} ones"
    return (
      "the bank does not say with what precision it was made: if on a GPU or TPU by an earlier version, less than "
      "float32; `medlsam bank build` makes it anew"
    )

  @property
  def crops(self) -> dict[str, list[OrganCrop]]:
    """Picture and mask of each organ in the templates that have its mask; organs without any are left out."""
    shown = {name: [crop for crop in organ.crops if crop is not None] for name, organ in self.organs.items()}
    return {name: crops for name, crops in shown.items() if crops}

  def check_network(self, network: Network) -> None:
    """Refuse a network whose coordinates and features mean something else.

    Raises:
      TemplateError: the bank was built with other weights.
    """
    if self.network_sha256 != network.sha256:
      raise TemplateError(
        f"the bank was built with another network (weights {self.network_sha256[:12]}) than {network.source} "
        f"({network.sha256[:12]}); build it again with `medlsam bank build`"
      )

  def without(self, template: str) -> Bank:
    """The bank as if that template had not been given; organs that only it has are gone."""
    kept = {}
    for name, organ in self.organs.items():
      others = [other for other in organ.templates if other != template]
      if others:
        kept[name] = organ.only(others)
    return dataclasses.replace(self, organs=kept)

  def subset(self, organs: Sequence[str]) -> Bank:
    """The bank of these organs alone, in this order.

    Raises:
      TemplateError: one is not in the bank.
    """
    for name in organs:
      if name not in self.organs:
        raise TemplateError(f"organ {name!r} is not in the bank; it has {', '.join(self.organs)}")
    return dataclasses.replace(self, organs={name: self.organs[name] for name in organs})

  def table(self) -> list[list[str]]:
    """`info` as text under a heading, its first row."""
    rows = [
      [
        organ.organ,
        str(organ.value),
        organ.mode,
        str(len(organ.faces)),
        str(organ.positions.shape[1]),
        ", ".join(organ.templates),
      ]
      for organ in self.organs.values()
    ]
    return [["organ", "label", "mode", "parts", "points", "templates"], *rows]

  def info(self) -> list[dict[str, object]]:
    """One row per organ: name, label value, mode, parts, distinct points, and the templates used."""
    return [
      {
        "organ": organ.organ,
        "value": organ.value,
        "mode": organ.mode,
        "parts": len(organ.faces),
        "points": organ.positions.shape[1],
        "templates": list(organ.templates),
      }
      for organ in self.organs.values()
    ]


def _organ_bank(
  plan: template_points.OrganPlan,
  outputs: Mapping[str, Mapping[str, template_points.Outputs]],
  crops: Mapping[str, Mapping[str, OrganCrop]],
) -> OrganBank:
  """One organ from what the network gave at its points, and its pictures; both by template and organ."""
  values = [outputs[name][plan.organ] for name in plan.points]
  return OrganBank(
    organ=plan.organ,
    value=plan.value,
    mode="SPL" if plan.is_cut else "WPL",
    templates=tuple(plan.points),
    faces=plan.faces,
    positions=np.stack([position for position, _ in values]),
    features={stride: np.stack([taps[stride] for _, taps in values]) for stride in values[0][1]},
    places=np.stack(list(plan.points.values())),
    crops=tuple(crops[name].get(plan.organ) for name in plan.points),
  )


def edge_of(network: Network, wanted: int | None = None) -> int:
  """Edge of the cube kept around a point: as given, as the network's header says, or as published."""
  asked = network.header.get("template_edge", str(PUBLISHED_TEMPLATE_EDGE))
  if wanted is None and not asked.isdecimal():
    raise WeightsError(f"{network.source}: template_edge {asked!r} in its header is not a whole number")
  edge = int(asked) if wanted is None else wanted
  step = 2 * max(network.module.feature_scales, default=1)
  if not 0 < edge <= PATCH_EDGE or edge % step:
    raise ConfigError(
      f"template_edge {edge}; it must be a multiple of {step} for this network, and at most {PATCH_EDGE}"
    )
  return edge


def _interval_slices(interval_mm: float) -> int:
  """Whole working slices nearest to an interval, at least one."""
  if not interval_mm > 0:
    raise ConfigError(f"interval of {interval_mm} mm; it must be above 0")
  slices = max(round(interval_mm / WORKING_SPACING_MM), 1)
  if abs(slices * WORKING_SPACING_MM - interval_mm) > 1e-6:
    notices.warn(
      f"an interval of {interval_mm:g} mm is not a multiple of {WORKING_SPACING_MM:g} mm slices: "
      f"{slices * WORKING_SPACING_MM:g} mm is used",
    )
  return slices


def _one_of(value: str, kind: object) -> str:
  """The value, if it is one of a Literal's; ValueError otherwise."""
  if value not in get_args(kind):
    raise ValueError(f"{value!r} is none of {get_args(kind)}")
  return value
