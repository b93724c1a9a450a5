"""What tells whether a scan's files are those that a result was made of: a hash over what is in them."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from pathlib import Path

from medlsam_jax.errors import InputError
from medlsam_jax.io import addresses
from medlsam_jax.io.addresses import Listing

_BLOCK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Glance:
  """What can be told of files without reading them."""

  bytes: int
  files: int
  changed_ns: int
  """When the latest of them was changed, ns since 1970."""


@dataclasses.dataclass(frozen=True)
class Identity(Glance):
  """What stands in the files, whatever they are called; in a folder, also which file is called what."""

  sha256: str


def files_of(path: Path) -> list[tuple[str, Path]]:
  """Files that a scan may be made of, with their names in its folder; a DICOM file stands for those beside it."""
  if path.suffix.lower() == ".dcm" or path.name.upper() == "DICOMDIR":
    path = path.parent
  if not path.is_dir():
    return [("", path)]
  return [(str(file.relative_to(path)), file) for file in sorted(path.rglob("*")) if file.is_file()]


def glance_at(place: Path | str, listing: Listing | None = None) -> Glance:
  """Sizes and times alone: a thousand scans take a moment.

  Args:
    place: path or address.
    listing: what lists folders behind addresses, for who looks at many.

  Raises:
    InputError: the files are not there, or may not be looked at.
  """
  if isinstance(place, str) and addresses.is_address(place):
    return Glance(**dataclasses.asdict(addresses.see(place) if listing is None else listing.see(place)))
  path = Path(place)
  try:
    stats = [file.stat() for _, file in files_of(path)]
  except OSError as error:
    raise InputError(f"{path}: cannot be opened ({error.strerror or error})") from error
  return Glance(sum(each.st_size for each in stats), len(stats), max((each.st_mtime_ns for each in stats), default=0))


def identity_of(place: Path | str, copy: Path | None = None) -> Identity:
  """Reads all files of a scan.

  Args:
    place: path or address.
    copy: of what is behind the address, where it lies here already.

  Raises:
    InputError: they cannot be read.
  """
  seen = glance_at(place)
  if copy is None and isinstance(place, str) and addresses.is_address(place):
    with tempfile.TemporaryDirectory(prefix="medlsam-") as folder:
      return Identity(**dataclasses.asdict(seen), sha256=_sha256(addresses.copy_here(place, Path(folder))))
  return Identity(**dataclasses.asdict(seen), sha256=_sha256(copy or Path(place)))


def _sha256(path: Path) -> str:
  digest = hashlib.sha256()
  try:
    for name, file in files_of(path):
      if name:
        digest.update(f"|{name}|{file.stat().st_size}|".encode())
      with file.open("rb") as content:
        while block := content.read(_BLOCK_BYTES):
          digest.update(block)
  except OSError as error:
    raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
  return digest.hexdigest()
