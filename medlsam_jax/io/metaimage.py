"""MetaImage files (`.mha`, and `.mhd` with its data beside it), the format of ITK: scans and label maps, both ways.

A header of `Key = value` lines that ends with `ElementDataFile`, then the voxels, x running fastest, perhaps compressed
by zlib. Positions are LPS mm; `TransformMatrix` holds the direction of each axis, one after the other.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Num

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid
from medlsam_jax.io import scan_checks
from medlsam_jax.io.atomic import atomically
from medlsam_jax.io.painted import PaintedMap

SUFFIXES = (".mha", ".mhd")
_TYPES = {
  "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
  "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
  "MET_DOUBLE": "f8",
}  # fmt: skip
_LONGEST_HEADER = 1 << 16
_ORTHOGONAL = 1e-3
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def can_say(grid: Grid) -> bool:
  """Whether the format can say where a grid lies: its axes are at right angles."""
  directions = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
  return bool(np.abs(directions.T @ directions - np.eye(3)).max() <= _ORTHOGONAL)


def write_metaimage(path: str | os.PathLike[str], labels: PaintedMap) -> None:
  """Writes a label map, compressed.

  Raises:
    InputError: the scan's axes are not at right angles (a tilted gantry), which the format cannot say.
    OutputError: the file cannot be written.
  """
  lps = _TO_RAS @ labels.grid.affine
  spacing = np.linalg.norm(lps[:3, :3], axis=0)
  directions = lps[:3, :3] / spacing
  if not can_say(labels.grid):
    raise InputError(f"{path}: the scan's axes are not at right angles, which MetaImage cannot say; choose nrrd")
  array = np.ascontiguousarray(labels.array, labels.array.dtype.newbyteorder("<"))
  kind = next(name for name, code in _TYPES.items() if np.dtype(code) == array.dtype.newbyteorder("="))
  data = zlib.compress(array.tobytes(), 4)
  lines = {
    "ObjectType": "Image", "NDims": 3, "BinaryData": True, "BinaryDataByteOrderMSB": False, "CompressedData": True,
    "CompressedDataSize": len(data), "TransformMatrix": _numbers(directions.T.ravel()), "Offset": _numbers(lps[:3, 3]),
    "CenterOfRotation": "0 0 0", "ElementSpacing": _numbers(spacing), "DimSize": _numbers(array.shape[::-1]),
    "ElementType": kind, "ElementDataFile": "LOCAL",
  }  # fmt: skip
  with atomically(path) as part, part.open("wb") as file:
    file.write("".join(f"{key} = {value}\n" for key, value in lines.items()).encode())
    file.write(data)


def _numbers(values: object) -> str:
  return " ".join(f"{value + 0.0:.10g}" for value in np.asarray(values).tolist())


def read_metaimage(path: str | os.PathLike[str]) -> tuple[Num[np.ndarray, "z y x"], Grid]:
  """Voxels and where they lie.

  Raises:
    InputError: a damaged file, no volume of one number a voxel, over the size limit.
  """
  path = Path(path)
  try:
    fields, data = _split(path)
    shape = [int(size) for size in fields["DimSize"].split()]
    if len(shape) != 3 or int(fields.get("ElementNumberOfChannels", 1)) != 1 or fields["ElementType"] not in _TYPES:
      raise InputError(f"{path}: {len(shape)}D of {fields['ElementType']}; give one 3D volume of one number a voxel")
    scan_checks.refuse_size(tuple(shape), str(path))
    order = ">" if _says(fields, "BinaryDataByteOrderMSB") or _says(fields, "ElementByteOrderMSB") else "<"
    kind = np.dtype(order + _TYPES[fields["ElementType"]])
    size = int(np.prod(shape)) * kind.itemsize
    if _says(fields, "CompressedData"):
      data = zlib.decompressobj().decompress(data, size)
    elif int(fields.get("HeaderSize", 0)) < 0:
      data = data[-size:]
    if len(data) < size:
      raise InputError(f"{path}: truncated: {len(data)} bytes of voxels, {size} expected; copy it again")
    array = np.frombuffer(data, kind, int(np.prod(shape))).reshape(shape[::-1])
    grid = Grid(array.shape, _affine(fields))
  except (OSError, KeyError, ValueError, zlib.error) as error:
    raise InputError(f"{path}: truncated or damaged, cannot be read as MetaImage ({error!r})") from error
  if not np.isfinite(grid.affine).all() or np.linalg.det(grid.affine[:3, :3]) == 0:
    raise InputError(f"{path}: TransformMatrix, Offset and ElementSpacing name no place in space")
  scan_checks.refuse_spacing(grid, str(path))
  return array.astype(kind.newbyteorder("="), copy=False), grid


def _says(fields: dict[str, str], name: str) -> bool:
  """Whether a field is true, by its first letter as ITK takes it."""
  return fields.get(name, "False")[:1] in ("T", "t", "1")


def _split(path: Path) -> tuple[dict[str, str], bytes]:
  """The header's fields and the bytes of the voxels."""
  content = path.read_bytes()
  head, place = content[:_LONGEST_HEADER], 0
  fields: dict[str, str] = {}
  while "ElementDataFile" not in fields:
    end = head.index(b"\n", place)
    key, equals, value = head[place:end].decode("utf-8", "replace").partition("=")
    if not equals:
      raise ValueError("a line without =")
    fields[key.strip()] = value.strip()
    place = end + 1
  name = fields["ElementDataFile"]
  if name.upper() == "LOCAL":
    return fields, content[place:]
  if Path(name).name != name:
    raise InputError(f"{path}: its voxels are in {name}; give both files in one folder")
  return fields, (path.parent / name).read_bytes()[max(int(fields.get("HeaderSize", 0)), 0) :]


def _affine(fields: dict[str, str]) -> np.ndarray:
  def numbers(names: tuple[str, ...], default: str) -> np.ndarray:
    return np.array(next((fields[name] for name in names if name in fields), default).split(), float)

  affine = np.eye(4)
  directions = numbers(("TransformMatrix", "Rotation", "Orientation"), "1 0 0 0 1 0 0 0 1").reshape(3, 3).T
  affine[:3, :3] = directions * numbers(("ElementSpacing", "ElementSize"), "1 1 1")
  affine[:3, 3] = numbers(("Offset", "Position", "Origin"), "0 0 0")
  return _TO_RAS @ affine
