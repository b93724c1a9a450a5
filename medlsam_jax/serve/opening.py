"""Opens a browser at an address with a token in it, without saying the token on a command line.

Any user of a computer may list command lines, and a browser's is its address. So the browser gets the name of a file
that its owner alone may read, which leads on to the address.
"""

from __future__ import annotations

import contextlib
import html
import os
import tempfile
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from medlsam_jax.errors import OutputError


@contextlib.contextmanager
def opened(address: str) -> Iterator[None]:
  """Opens the user's browser there; the file that leads to it goes when the block ends.

  Raises:
    OutputError: the file cannot be written.
  """
  try:
    folder = tempfile.TemporaryDirectory(prefix="medlsam-", ignore_cleanup_errors=True)
  except OSError as error:
    raise OutputError(f"no file for the browser to begin with ({error}); give --no-browser") from error
  with folder as name:
    path = Path(name) / "open.html"
    _write(path, address)
    webbrowser.open(path.as_uri())
    yield


def _write(path: Path, address: str) -> None:
  place = html.escape(address)
  text = (
    f'<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
    f'<meta http-equiv="refresh" content="0;url={place}"><title>medlsam</title><a href="{place}">open the page</a>\n'
  )
  with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
    file.write(text)
