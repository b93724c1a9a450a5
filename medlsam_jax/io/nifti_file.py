"""The bytes of a NIfTI file: its header as it stands, and its voxels, wherever in the file they begin.

Nothing here trusts one field alone. Where the voxels begin is settled by `vox_offset`, the header's extensions and the
length of the file together; nibabel gives the layout of the header and is not asked to mend it.
"""

from __future__ import annotations

import gzip
import io
import math
from pathlib import Path
from typing import Literal, cast

import nibabel
import numpy as np
from jaxtyping import Num
from nibabel.spatialimages import HeaderDataError

from medlsam_jax.errors import InputError
from medlsam_jax.io import scan_checks

Header = nibabel.Nifti1Header
_BYTE_ORDERS: dict[Literal["little", "big"], str] = {"little": "<", "big": ">"}
_GZIP_MAGIC = b"\x1f\x8b"
_PIECE_BYTES = 1 << 22
_FAR_BYTES = 1 << 26
"""No extensions of a header are longer: a `vox_offset` beyond it is a wrong number."""
_EXTENSION_BYTES = 1 << 24
"""Room for extensions that `vox_offset` does not speak of."""
_ALIGNED = 12
"""Bytes before the buffer of what follows a header of 348, so that voxels at 352 lie at a multiple of 16."""


def open_stream(path: Path) -> io.BufferedIOBase:
  """The file's bytes, unzipped where they are gzip, which is told by the content."""
  with path.open("rb") as file:
    zipped = file.read(2) == _GZIP_MAGIC
  return gzip.GzipFile(path, "rb") if zipped else path.open("rb")


def read_header(stream: io.BufferedIOBase, source: str) -> Header:
  """The header without any mending, NIfTI 1 or 2 of either byte order; the stream stands behind it.

  Raises:
    InputError: not a NIfTI file, or shorter than its header.
  """
  try:
    block = _exactly(stream, Header.sizeof_hdr)
  except gzip.BadGzipFile:
    block = b""
  for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
    order = _byte_order(block, kind)
    if order is None:
      continue
    block += _exactly(stream, kind.sizeof_hdr - len(block))
    if len(block) < kind.sizeof_hdr:
      raise InputError(f"{source}: truncated: {len(block)} bytes are less than a header; copy or convert it again")
    header = cast(Header, kind(block, order, check=False))
    if bytes(header["magic"])[:3] in (b"n+1", b"n+2", b"ni1", b"ni2"):
      return header
  raise InputError(f"{source}: not a NIfTI file; give a .nii or .nii.gz file, or a folder of DICOM slices")


def _exactly(stream: io.BufferedIOBase, count: int) -> bytes:
  """`count` bytes, fewer only at the end."""
  result = b""
  while len(result) < count and (piece := stream.read(count - len(result))):
    result += piece
  return result


def _byte_order(block: bytes, kind: type[Header]) -> str | None:
  """`<` or `>` where the block begins with this kind of header, by its size, else by its magic and dim[0]."""
  for name, order in _BYTE_ORDERS.items():
    if len(block) >= 4 and int.from_bytes(block[:4], name) == kind.sizeof_hdr:
      return order
  place, width, at = (40, 2, slice(344, 347)) if kind is nibabel.Nifti1Header else (16, 8, slice(4, 7))
  if block[at] not in (b"n+1", b"n+2", b"ni1", b"ni2"):
    return None
  return "<" if 1 <= int.from_bytes(block[place : place + width], "little") <= 7 else ">"


def settle_shape(header: Header, source: str, notes: list[str]) -> tuple[tuple[int, int, int], bool]:
  """Voxels (x, y, z) of a 3D file, and whether only the file's length can tell that this is so; says what was mended.

  Raises:
    InputError: not 3D, empty, or over the size limit.
  """
  dim = [int(n) for n in header["dim"]]
  count, unsure = dim[0], False
  if not 1 <= count <= 7 or (count < 3 and dim[3] > 1):
    count = next((n for n in range(7) if dim[n + 1] < 1), 7)
    notes.append(
      f"{source}: dim[0] of the header says {dim[0]} axes; taken as {'x'.join(map(str, dim[1 : count + 1]))}"
    )
    unsure = True
  shape = [dim[n + 1] for n in range(count)]
  if any(n < 1 for n in shape[3:]):
    notes.append(f"{source}: dim of the header is {shape}; axes beyond the third are taken as one long where below 1")
    shape[3:] = [max(n, 1) for n in shape[3:]]
  size = "x".join(str(n) for n in shape)
  if len(shape) < 3:
    raise InputError(f"{source}: {len(shape)}D ({size} voxels); give a 3D scan")
  if any(n > 1 for n in shape[3:]):
    raise InputError(f"{source}: {len(shape)}D ({size} voxels); give one 3D volume of it")
  if min(shape) < 0:
    raise InputError(f"{source}: dim of the header says {size} voxels; no axis can have fewer than one")
  scan_checks.refuse_size(tuple(shape), source)
  return (shape[0], shape[1], shape[2]), unsure


def settle_type(header: Header, source: str) -> np.dtype:
  """The type of the voxels, in the file's byte order.

  Raises:
    InputError: colour, complex, single bits or unknown.
  """
  try:
    dtype = header.get_data_dtype()
  except HeaderDataError as error:
    raise InputError(f"{source}: datatype {int(header['datatype'])} of the header is unknown ({error})") from error
  if dtype.kind not in "iuf":
    what = "single bits" if int(header["datatype"]) == 1 else f"colour or complex voxels ({dtype})"
    raise InputError(f"{source}: {what}; give a scan of one number per voxel")
  return dtype


def settle_scaling(header: Header, source: str, notes: list[str]) -> tuple[float, float]:
  """Slope and intercept of the stored values; says what was left out.

  Raises:
    InputError: there is a slope, but no intercept to go with it.
  """
  slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
  if slope == 0 or not math.isfinite(slope):
    if not math.isfinite(slope) or (intercept != 0 and math.isfinite(intercept)):
      notes.append(
        f"{source}: scl_slope {slope:g} and scl_inter {intercept:g} in the header: by NIfTI's rule there is no slope, "
        "the stored values are taken as they are"
      )
    return 1.0, 0.0
  if not math.isfinite(intercept):
    if slope != 1:
      raise InputError(
        f"{source}: scl_slope {slope:g} but scl_inter {intercept:g} in the header; convert the scan again"
      )
    notes.append(
      f"{source}: scl_inter {intercept:g} in the header; taken as 0, the stored values are taken as they are"
    )
    return 1.0, 0.0
  return slope, intercept


def read_voxels(
  stream: io.BufferedIOBase,
  header: Header,
  shape: tuple[int, int, int],
  dtype: np.dtype,
  source: str,
  notes: list[str],
  unsure: bool = False,
) -> Num[np.ndarray, "z y x"]:
  """The stored values, the file's array transposed; the stream is read to its end, so that checksums are compared.

  Raises:
    InputError: shorter than its shape says, or of another length where only that could tell (`unsure`).
  """
  size = math.prod(shape) * dtype.itemsize
  after_header = header.sizeof_hdr
  stated = float(header["vox_offset"]) - after_header
  usable = math.isfinite(stated) and stated == int(stated) and 0 <= stated <= _FAR_BYTES
  # Empty memory is not taken before it is written to, so that a file that promises too much costs nothing.
  buffer = np.empty(_ALIGNED + size + max(_EXTENSION_BYTES, int(stated) if usable else 0), np.uint8)[_ALIGNED:]
  length, rubbish = _fill(stream, buffer)
  if rubbish:
    notes.append(f"{source}: bytes after the end of the compressed data are not read")
  start = _start(buffer, length, size, int(stated) if usable else None)
  if start is None and bytes(header["magic"])[:2] == b"ni":
    raise InputError(f"{source}: a header/image pair; convert it to one .nii or .nii.gz file")
  if start is None or (unsure and length - start != size):
    raise InputError(
      f"{source}: truncated or damaged, cannot be read ({length} bytes after the header, its shape, type ({dtype}) and "
      f"vox_offset ask for {size} from {float(header['vox_offset']):g}); copy or convert it again"
    )
  if start != stated:
    notes.append(
      f"{source}: vox_offset {float(header['vox_offset']):g} in the header; by the file's length the voxels begin at "
      f"{start + after_header}"
    )
  elif length - start > size:
    notes.append(f"{source}: {length - start - size} bytes after the last voxel are not read")
  return np.ndarray(shape[::-1], dtype, buffer, start)


def _fill(stream: io.BufferedIOBase, buffer: np.ndarray) -> tuple[int, bool]:
  """Reads into `buffer` and on to the end; the number of bytes there were, and whether a gzip file ended in rubbish."""
  length = 0
  while True:
    try:
      # one read of the decompressor at a time: what comes before rubbish is not lost with it
      piece = stream.read1(_PIECE_BYTES)
    except gzip.BadGzipFile as error:
      if "Not a gzipped file" in str(error):
        return length, True
      raise
    if not piece:
      return length, False
    room = buffer[length : length + len(piece)]
    room[:] = np.frombuffer(piece, np.uint8, len(room))
    length += len(piece)


def _start(buffer: np.ndarray, length: int, size: int, stated: int | None) -> int | None:
  """Where the voxels begin, counted from the end of the header; None where they do not fit in."""
  standard = _after_extensions(buffer, length)
  if standard + size > len(buffer):
    return None
  if stated is not None and stated + size <= length:
    return standard if standard + size == length else stated
  if standard + size == length or (stated is None and standard + size <= length):
    return standard
  return None


def _after_extensions(buffer: np.ndarray, length: int) -> int:
  """Where the header's extensions end: each begins with its size, as the four bytes before them say."""
  place = 4
  limit = min(length, len(buffer))
  if limit < place or not buffer[0]:
    return place
  while place + 8 <= limit:
    sizes = [int.from_bytes(buffer[place : place + 4].tobytes(), order) for order in _BYTE_ORDERS]
    extent = next((n for n in sizes if n >= 16 and n % 16 == 0 and place + n <= limit), None)
    if extent is None:
      break
    place += extent
  return place
