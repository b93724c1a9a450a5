"""Pictures in the page itself, made so small that a page of many can still be sent by mail."""

from __future__ import annotations

import base64
import html
import io
import math
import os
import warnings

from PIL import Image

PAGE_BYTES = 16_000_000
"""Of all pictures of a page together, as they stand in its text."""
_MOST_BYTES = 400_000
"""Of one picture, likewise."""
_LEAST_BYTES = 20_000
"""Of one picture: with less room there is none."""
_WIDTH, _LEAST_WIDTH = 1400, 560
_QUALITIES = (68, 42)
"""Of JPEG; the second where a picture would take too much: more pixels show more of a scan than finer ones."""
_DAMAGED = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What Pillow raises of files that are none, or that ask for too much."""


class Room:
  """Room for the pictures of a page, shared by those that are still to come.

  Args:
    count: pictures that are to come. Tall ones take more than their share, since nobody could read narrower ones: the
      last ones have no room then.
  """

  def __init__(self, count: int) -> None:
    self._left, self._to_come = PAGE_BYTES, count

  def put(self, path: str | os.PathLike[str], what: str) -> str | None:
    """As `picture`; empty where there is no room left."""
    share = min(_MOST_BYTES, self._left // max(self._to_come, 1))
    self._to_come -= 1
    shown = picture(path, what, share) if share >= _LEAST_BYTES else ""
    if shown is None or len(shown) > self._left:
      return None if shown is None else ""
    self._left -= len(shown)
    return shown


def picture(path: str | os.PathLike[str], what: str, most_bytes: int) -> str | None:
  """An `img` element with a JPEG of the file in it; None where the file is no picture.

  Args:
    path: a PNG file, or of another kind that Pillow reads.
    what: text for who cannot see it.
    most_bytes: of the element's address; a wide picture is made smaller until it fits, or is `_LEAST_WIDTH` wide.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("error", Image.DecompressionBombWarning)
      with Image.open(path) as file:
        whole = file.convert("RGB")
  except _DAMAGED:
    return None
  jpeg, size = _fitting(whole, most_bytes * 3 // 4)
  source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
  return f'<img alt="{html.escape(what, quote=True)}" width="{size[0]}" height="{size[1]}" src="{source}">'


def _fitting(whole: Image.Image, most_bytes: int) -> tuple[bytes, tuple[int, int]]:
  width, quality = min(whole.width, _WIDTH), _QUALITIES[0]
  while True:
    height = max(round(whole.height * width / whole.width), 1)
    content = io.BytesIO()
    small = whole if width == whole.width else whole.resize((width, height), Image.Resampling.HAMMING, reducing_gap=2.0)
    small.save(content, "JPEG", quality=quality, optimize=True)
    fits = content.tell() <= most_bytes
    if fits or (quality == _QUALITIES[1] and width <= _LEAST_WIDTH):
      return content.getvalue(), (width, height)
    if quality == _QUALITIES[1]:
      # bytes rise a little more slowly than pixels
      width = max(_LEAST_WIDTH, min(int(width * math.sqrt(most_bytes / content.tell())), width * 19 // 20))
    quality = _QUALITIES[1]
