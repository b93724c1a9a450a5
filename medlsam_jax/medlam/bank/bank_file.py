"""A template bank on disk: one .safetensors file of arrays, with a header of strings that says what they are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from medlsam_jax.errors import OutputError, TemplateError
from medlsam_jax.io.atomic import atomically
from medlsam_jax.template_masks.organ_crops import OrganCrop

FORMAT = "medlsam_jax bank 1"


def write(path: str | os.PathLike[str], tensors: dict[str, np.ndarray], header: dict[str, str]) -> None:
  """Write a bank; the file appears whole or not at all.

  Raises:
    OutputError: it cannot be written.
  """
  path = Path(path)
  # safetensors writes the buffer as it lies in memory, so that a transposed view would be written wrongly
  whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
  try:
    with atomically(path) as temporary:
      save_file(whole, temporary, metadata={"format": FORMAT, **header})
  except (OSError, SafetensorError) as error:
    raise OutputError(f"{path}: the bank cannot be written ({error})") from error


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Arrays by name and the header of a bank.

  Raises:
    TemplateError: the file is missing, truncated, or not a bank of this version.
  """
  path = Path(path)
  if not path.is_file():
    raise TemplateError(f"{path}: no such bank; build one with `medlsam bank build`")
  try:
    with safe_open(path, framework="numpy") as file:
      header = dict(file.metadata() or {})
      tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
  except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
    raise TemplateError(f"{path}: truncated, damaged or not a template bank ({error}); build it again") from error
  if header.get("format") != FORMAT:
    raise TemplateError(f"{path}: not a template bank of this version ({FORMAT}); build one with `medlsam bank build`")
  return tensors, header


def check_organ(
  organ: object,
  value: object,
  templates: tuple[object, ...],
  faces: np.ndarray,
  positions: np.ndarray,
  features: dict[int, np.ndarray],
  places: np.ndarray | None = None,
) -> None:
  """Holds what a file says of an organ against itself: a search would read past its end, or average what is no number.

  Raises:
    ValueError: no name, template, value; shapes that disagree; faces that are no points; NaN or infinite values.
  """
  names = isinstance(organ, str) and organ and all(isinstance(name, str) for name in templates)
  if not names or not templates or len(set(templates)) < len(templates):
    raise ValueError(f"{organ!r} is of the templates {list(templates)}")
  if type(value) is not int or value < 1:
    raise ValueError(f"{organ}: label value {value!r}")
  if positions.ndim != 3 or positions.shape[0] != len(templates) or positions.shape[2] != 3:
    raise ValueError(f"{organ}: positions of shape {positions.shape} for {len(templates)} templates")
  points = positions.shape[1]
  if faces.ndim != 2 or faces.shape[1] != 6 or not len(faces) or faces.dtype.kind not in "iu":
    raise ValueError(f"{organ}: faces of shape {faces.shape} and type {faces.dtype}")
  if faces.min() < 0 or faces.max() >= points:
    raise ValueError(f"{organ}: faces from {faces.min()} to {faces.max()} of {points} points")
  if places is not None and (places.shape != positions.shape or places.dtype.kind not in "iu"):
    raise ValueError(f"{organ}: places of shape {places.shape} and type {places.dtype} for positions {positions.shape}")
  for stride, volume in features.items():
    edge = volume.shape[2] if volume.ndim == 6 else 0
    if stride < 1 or not edge or volume.shape[:5] != (len(templates), points, edge, edge, edge) or not volume.shape[5]:
      raise ValueError(f"{organ}: features of shape {volume.shape} at stride {stride} for {points} points")
  arrays = {"positions": positions} | {f"features.{stride}": volume for stride, volume in features.items()}
  for title, array in arrays.items():
    if array.dtype.kind != "f" or not np.isfinite(array).all():
      raise ValueError(f"{organ}: {title} with NaN or infinite values, or of type {array.dtype}")


def crops_of(arrays: dict[str, np.ndarray], templates: int) -> tuple[OrganCrop | None, ...]:
  """Pictures and masks of an organ's templates, in their order; empty where the file has none.

  Raises:
    ValueError: arrays that do not go together.
  """
  crops: list[OrganCrop | None] = []
  for number in range(templates):
    parts = {name: arrays.get(f"crop.{number}.{name}") for name in ("image", "mask", "edges", "step_mm")}
    crops.append(None if all(part is None for part in parts.values()) else _crop(**parts))
  return tuple(crops) if any(crop is not None for crop in crops) else ()


def _crop(
  image: np.ndarray | None, mask: np.ndarray | None, edges: np.ndarray | None, step_mm: np.ndarray | None
) -> OrganCrop:
  if image is None or mask is None or edges is None or step_mm is None:
    raise ValueError("a crop without its image, mask, edges or step")
  kinds = [array.dtype for array in (image, mask)]
  if image.ndim != 3 or image.shape != mask.shape or not image.size or kinds != [np.uint8, np.uint8]:
    raise ValueError(f"a crop of shape {image.shape} and type {kinds[0]} with a mask of {mask.shape} and {kinds[1]}")
  if edges.shape != (2, 3) or edges.dtype != np.float32 or not (edges[0] < edges[1]).all():
    raise ValueError(f"a crop around the box {edges.tolist()}")
  if step_mm.shape != (3,) or step_mm.dtype != np.float32 or not (step_mm > 0).all():
    raise ValueError(f"a crop of the step {step_mm.tolist()} mm")
  return OrganCrop(image, mask, edges, step_mm)


def check_together(organs: list[dict[int, np.ndarray]], rows: int) -> None:
  """Holds the organs of a file against each other.

  Args:
    organs: features of each, by name.
    rows: organs that the header lists.

  Raises:
    ValueError: two of one name, features of other scales or sizes.
  """
  if len(organs) < rows:
    raise ValueError(f"{rows} organs of {len(organs)} names")
  kinds = {tuple(sorted((stride, *volume.shape[2:]) for stride, volume in features.items())) for features in organs}
  if len(kinds) > 1:
    raise ValueError(f"organs with features of different scales and sizes: {sorted(kinds)}")
