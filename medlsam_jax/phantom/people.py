"""Made-up labelled CT of a torso from a seed: a population for the demo, the tests and the first pre-training.

Accuracy on phantoms is no evidence of clinical accuracy: they are cartoons with plausible HU, drawn from implicit
shapes. A seed is a person; field of view, spacing and orientation are choices of the scan, and the same seed shows
the same anatomy under all of them (only the scanner's noise is drawn anew for each grid).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

from medlsam_jax.errors import ConfigError
from medlsam_jax.geometry import Grid, Volume, reorient
from medlsam_jax.io.atomic import atomically, folder_for, write_text
from medlsam_jax.phantom import organs as organs
from medlsam_jax.phantom import trunk as trunk
from medlsam_jax.phantom.canvas import Window, smooth_lattice
from medlsam_jax.phantom.subject import LABEL_VALUES, Subject

AIR_HU = -1000.0
_WARP_STEPS_MM = ((190.0, 9.0), (85.0, 6.0), (42.0, 2.2))
"""Control point distance and std in mm of the smooth deformations of the whole body."""
_BODY_CODES = "RAS"
_ORDER: tuple[Callable[[Subject, Window], None], ...] = (
  trunk.paint_trunk,
  trunk.paint_muscles,
  trunk.paint_lungs,
  organs.paint_gullet,
  organs.paint_heart,
  trunk.paint_spine,
  trunk.paint_ribs,
  trunk.paint_pelvis,
  organs.paint_liver,
  organs.paint_spleen,
  organs.paint_kidneys,
  organs.paint_vessels,
  organs.paint_bladder,
  organs.paint_pancreas,
  organs.paint_stomach,
  organs.paint_colon,
  organs.paint_small_bowel,
)
"""Later organs lie over earlier ones."""


@dataclasses.dataclass(frozen=True)
class Phantom:
  """A made-up scan: HU (float32), labels (uint8) on the same grid, and the value of each organ in `labels`."""

  scan: Volume
  labels: Volume
  names: dict[str, int]
  """Organs that have at least one voxel in the field of view."""


def make_phantom(
  seed: int,
  spacing_mm: tuple[float, float, float] = (3.0, 3.0, 3.0),
  axis_codes: str = "RAS",
  *,
  noise_hu: float | None = None,
  z_range_mm: tuple[float, float] | None = None,
  origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Phantom:
  """The CT of subject `seed`.

  Args:
    seed: a person; anatomy, contrast medium and texture follow from it.
    spacing_mm: voxel edges of the returned array, (z, y, x).
    axis_codes: orientation of the returned array, nearest directions of its x, y, z axes, such as `LPS`.
    noise_hu: std of the scanner's noise; None: drawn for the subject, 8 to 22.
    z_range_mm: lowest and highest slice relative to the top of the sacrum; None: drawn for the subject, about 400 mm
      from the upper femurs to the heart.
    origin_mm: RAS position of the middle of the field of view at the level of the top of the sacrum.

  Raises:
    ConfigError: if a spacing is not positive or `z_range_mm` is empty.
  """
  if min(spacing_mm) <= 0:
    raise ConfigError(f"spacing_mm of a phantom must be positive, got {spacing_mm}")
  subject = Subject.draw(seed)
  frame = subject.rng("field of view")
  bottom = float(frame.uniform(-175, -118))
  drawn = (bottom, max(bottom + float(frame.uniform(345, 430)), 235.0))
  low, high = z_range_mm or (drawn[0] * subject.stretch[2], drawn[1] * subject.stretch[2])
  if high <= low:
    raise ConfigError(f"z_range_mm of a phantom must rise, got {z_range_mm}")
  half_x = (150 + 0.75 * subject.visceral_mm + subject.fat_mm + 16) * subject.stretch[0]
  back = (100 + 1.35 * subject.fat_mm + 30) * subject.stretch[1]
  front = (100 + 1.6 * max(subject.visceral_mm, 0) + subject.fat_mm + 12) * subject.stretch[1]
  body = _ras_grid(Grid((1, 1, 1), np.eye(4)), axis_codes, spacing_mm)
  axes = [
    start + step * np.arange(max(1, int(np.floor((stop - start) / step)) + 1))
    for start, stop, step in zip((low, -back, -half_x), (high, front, half_x), body, strict=True)
  ]
  hu, label = _paint(subject, axes)
  std = subject.noise_hu if noise_hu is None else noise_hu
  hu += _scanner_noise(subject, hu.shape, body, std)
  affine = np.diag([body[2], body[1], body[0], 1.0])
  affine[:3, 3] = np.array([axes[2][0], axes[1][0], axes[0][0]]) + origin_mm
  ras = Grid(hu.shape, affine)
  np.clip(hu, -1024, 3000, out=hu)
  grid = _turned(ras, axis_codes)
  source = f"<phantom {seed}>"
  names = {name: value for name, value in LABEL_VALUES.items() if (label == value).any()}
  return Phantom(
    Volume(np.ascontiguousarray(reorient(hu, ras, axis_codes), dtype=np.float32), grid, source),
    Volume(np.ascontiguousarray(reorient(label, ras, axis_codes)), grid, source),
    names,
  )


def _ras_grid(unit: Grid, axis_codes: str, spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
  """Spacing along the body's z, y, x of an array with orientation `axis_codes` and that spacing."""
  order, _ = unit.axes_to(axis_codes)
  result = [0.0, 0.0, 0.0]
  for axis, body_axis in enumerate(order):
    result[body_axis] = float(spacing_mm[axis])
  return result[0], result[1], result[2]


def _turned(ras: Grid, axis_codes: str) -> Grid:
  """The grid of an array of `ras` after `reorient` to `axis_codes`."""
  order, flip = ras.axes_to(axis_codes)
  affine = np.eye(4)
  origin = ras.affine[:3, 3].copy()
  for axis in range(3):
    column = ras.affine[:3, 2 - order[axis]]
    affine[:3, 2 - axis] = -column if flip[axis] else column
    if flip[axis]:
      origin = origin + column * (ras.shape[order[axis]] - 1)
  affine[:3, 3] = origin
  shape = (ras.shape[order[0]], ras.shape[order[1]], ras.shape[order[2]])
  return Grid(shape, affine)


def _paint(subject: Subject, axes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """HU without noise, and labels, on a RAS grid whose voxels lie at `axes` (z, y, x; mm)."""
  stretch = subject.stretch
  shape = tuple(len(axis) for axis in axes)
  shift = [
    sum(std * smooth_lattice(axes, step, subject.seed, f"warp {axis} {step}") for step, std in _WARP_STEPS_MM)
    for axis in "zyx"
  ]
  straight = [axis / s for axis, s in zip(axes, stretch[::-1], strict=True)]
  z = (straight[0][:, None, None] + shift[0]).astype(np.float32)
  y = (straight[1][None, :, None] + shift[1]).astype(np.float32)
  x = (straight[2][None, None, :] + shift[2]).astype(np.float32)
  fields = {
    name: smooth_lattice(axes, step, subject.seed, name).astype(np.float32)
    for name, step in (("coarse", 24.0), ("medium", 8.0), ("fine", 4.0))
  }
  steps = [float(axis[1] - axis[0]) if len(axis) > 1 else 3.0 for axis in axes]
  scan = Window(
    x=x,
    y=y,
    z=z,
    axes=(straight[0], straight[1], straight[2]),
    blur_mm=max(2.0, float(np.prod(steps) ** (1 / 3))),
    hu=np.full(shape, AIR_HU, np.float32),
    label=np.zeros(shape, np.uint8),
    fields=fields,
  )
  muscle, skin = trunk.trunk_distance(subject, scan)
  fields.update(muscle=muscle, skin=skin, cavity=muscle + trunk.wall_mm(subject, scan))
  for paint in _ORDER:
    paint(subject, scan)
  scan.label[skin > 0] = 0
  np.copyto(scan.hu, AIR_HU, where=skin > scan.blur_mm)
  _paint_couch(subject, scan, axes)
  return scan.hu, scan.label


def _paint_couch(subject: Subject, scan: Window, axes: list[np.ndarray]) -> None:
  """The scanner's couch: a thin curved sheet behind the back, not touching it."""
  behind = scan.fields["skin"].min(axis=(0, 2)) < 6
  back = axes[1][np.argmax(behind)]
  sheet = np.abs(axes[1][:, None] - (back - 14 + 0.0007 * axes[2][None, :] ** 2)) - 1.5
  sheet = np.where(np.abs(axes[2])[None, :] < 190, sheet, 9.0)
  cover = np.clip(0.5 - sheet / 3.0, 0, 1)[None]
  cover = np.where(scan.fields["skin"] > 6, cover, 0)
  scan.hu[...] += (cover * (-250 - scan.hu)).astype(np.float32)


def _scanner_noise(
  subject: Subject, shape: tuple[int, ...], spacing_mm: tuple[float, ...], std: float
) -> Float[np.ndarray, "z y x"]:
  """Noise with the grain of a reconstruction: correlated over about 1.5 mm, in the slice more than across."""
  rng = subject.rng("scanner", str(shape))
  white = rng.standard_normal(shape, dtype=np.float32)
  grain = gaussian_filter(white, [w / s for w, s in zip((1.0, 1.6, 1.6), spacing_mm, strict=True)], mode="wrap")
  grain /= max(float(grain.std()), 1e-6)
  return np.float32(std) * (0.85 * grain + 0.53 * white)


def write_phantoms(
  directory: str | os.PathLike,
  seeds: Iterable[int],
  spacing_mm: tuple[float, float, float] | Callable[[int], tuple[float, float, float]] = (3.0, 3.0, 3.0),
  axis_codes: str | Callable[[int], str] = "RAS",
  *,
  name: str = "phantom_{seed:03d}",
  progress: Callable[[int], None] | None = None,
) -> list[Path]:
  """Write `NAME_ct.nii.gz` (int16 HU) and `NAME_seg.nii.gz` (uint8) for each seed, and one `labels.json`.

  `spacing_mm` and `axis_codes` may be functions of the seed. `progress` is called with each finished seed.

  Returns:
    The paths of the scans, in the order of `seeds`.

  Raises:
    OutputError: if the directory or a file cannot be written.
  """
  import nibabel

  folder = Path(directory)
  written = []
  with folder_for(folder):
    for seed in seeds:
      spacing = spacing_mm(seed) if callable(spacing_mm) else spacing_mm
      codes = axis_codes(seed) if callable(axis_codes) else axis_codes
      phantom = make_phantom(seed, spacing, codes)
      stem = name.format(seed=seed)
      for ending, array in (("seg", phantom.labels.array), ("ct", np.round(phantom.scan.array).astype(np.int16))):
        target = folder / f"{stem}_{ending}.nii.gz"
        with atomically(target, ".nii.gz") as part:
          nibabel.save(nibabel.Nifti1Image(array.T, phantom.scan.affine), part)
      written.append(target)
      if progress is not None:
        progress(seed)
    write_text(folder / "labels.json", json.dumps(LABEL_VALUES, indent=1))
  return written
