"""Arrays as nnInteractive's remote sessions send them: a head that says type and shape, and pieces packed by blosc2.

The head is `NNIA`, then a byte each for the version, the codec, the number of axes and the length of the type's name,
then that name and each axis as a signed 64-bit number. The number of pieces follows, 32 bits, and each piece with its
length unpacked and packed, 64 bits each. All numbers have their lowest byte first.
"""

from __future__ import annotations

import math
import struct

import blosc2
import numpy as np
from jaxtyping import Shaped

from medlsam_jax.errors import InputError

MAGIC, VERSION = b"NNIA", 1
_CODECS = {1: blosc2.Codec.ZSTD, 2: blosc2.Codec.LZ4}
TYPES = (
  "bool",
  *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
  "float16",
  "float32",
  "float64",
)
_PIECE_BYTES = 1 << 30
"""Of an unpacked piece: blosc2 counts in 32 bits with a sign."""


class WireVersionError(InputError):
  """The client packs its arrays in another way than this server reads."""


def packed(array: Shaped[np.ndarray, "..."]) -> bytes:
  """An array of one of `TYPES` as it is sent."""
  array = np.ascontiguousarray(array)
  name = array.dtype.name.encode()
  head = struct.pack("<4sBBBB", MAGIC, VERSION, 1, array.ndim, len(name)) + name
  view = array.reshape(-1).view(np.uint8).data
  pieces = [view[start : start + _PIECE_BYTES] for start in range(0, len(view), _PIECE_BYTES)]
  parts = [head, struct.pack(f"<{array.ndim}q", *array.shape), struct.pack("<I", len(pieces))]
  for piece in pieces:
    small = blosc2.compress2(
      piece, codec=_CODECS[1], clevel=1, typesize=array.itemsize, filters=[blosc2.Filter.NOFILTER]
    )
    parts += [struct.pack("<QQ", len(piece), len(small)), small]
  return b"".join(parts)


def unpacked(body: bytes, max_values: int) -> Shaped[np.ndarray, "..."]:
  """The array that a body holds; nothing is allocated for a shape of more values than `max_values`.

  Raises:
    WireVersionError: it is packed in another version.
    InputError: it is damaged, of a type that is no number, or too large.
  """
  try:
    return _unpacked(memoryview(body), max_values)
  except InputError:
    raise
  except Exception as error:  # whatever blosc2 and struct make of bytes that are none of theirs
    raise InputError("the array that was sent is damaged") from error


def _unpacked(body: memoryview, max_values: int) -> np.ndarray:
  magic, version, codec, axes, length = struct.unpack_from("<4sBBBB", body)
  if magic != MAGIC:
    raise InputError("what was sent is no array of nninteractive-client")
  if version != VERSION or codec not in _CODECS:
    raise WireVersionError(
      f"the client packs arrays in version {version} (codec {codec}), and this server reads version {VERSION}: "
      "install nninteractive-client 2.6.0 beside the viewer"
    )
  name = bytes(body[8 : 8 + length]).decode("ascii")
  shape = struct.unpack_from(f"<{axes}q", body, 8 + length)
  if name not in TYPES:
    raise InputError(f"an array of type {name[:20]!r} was sent; known: {', '.join(TYPES)}")
  if min(shape, default=1) < 0 or math.prod(shape) > max_values:
    raise InputError(f"an array of {'x'.join(map(str, shape))} was sent, over the limit of {max_values:,} values")
  place = 8 + length + 8 * axes
  return _pieces(body[place:], np.empty(math.prod(shape), name)).reshape(shape)


def _pieces(body: memoryview, array: np.ndarray) -> np.ndarray:
  """Fills a flat array."""
  (count,) = struct.unpack_from("<I", body)
  place, done = 4, 0
  for _ in range(count):
    whole, small = struct.unpack_from("<QQ", body, place)
    piece = body[place + 16 : place + 16 + small]
    stated, needed, _ = blosc2.get_cbuffer_sizes(piece)
    fits = stated == whole and needed <= len(piece) and whole % array.itemsize == 0
    if not fits or done + whole > array.nbytes:
      raise InputError("the array that was sent is damaged: its pieces do not fill its shape")
    blosc2.decompress2(piece, dst=array[done // array.itemsize : (done + whole) // array.itemsize])
    place, done = place + 16 + small, done + whole
  if done != array.nbytes:
    raise InputError("the array that was sent is damaged: its pieces do not fill its shape")
  return array
