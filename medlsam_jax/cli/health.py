"""What `medlsam doctor` looks at. Each function looks at one thing and gives a line for it, or several.

Nothing is downloaded, and nothing written but an empty file that is gone at once, to see that a folder takes files.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from medlsam_jax import installation

OK, NOTE, WRONG = "ok", "note", "wrong"
SHOWN = ("jax", "jaxlib", "flax", "numpy", "scipy", "nibabel")
"""Packages whose versions are shown; of the others only what is wrong."""
LEAST_MEMORY_BYTES, ENOUGH_MEMORY_BYTES = 3 << 29, 1 << 32
"""`segment` on 512 x 512 x 400 voxels took 1.5 GiB (`bench/README.md`); 4 GiB leave room for other programs."""
LEAST_DISK_BYTES, ENOUGH_DISK_BYTES = 1 << 28, 1 << 31
"""Compiled programs may take 512 MiB, LiteMedSAM 39 MB, a label map a few."""
_EDGE = 64
_NOT_FOR_USERS = ("dev", "docs", "parity")
_SUMS = "sha256sums.txt"


@dataclasses.dataclass(frozen=True)
class Check:
  """One thing that was looked at."""

  subject: str
  state: str
  """`ok`, `note` or `wrong`."""
  text: str
  """What was seen."""
  advice: str = ""
  """What to do about it, a sentence; empty where nothing has to be done."""


def checks() -> Iterator[Check]:
  """All of them, the quick ones first."""
  yield from packages()
  yield from extras()
  yield from packaged_weights(Path(str(importlib.resources.files("medlsam_jax") / "weights")))
  yield from packaged_scans()
  yield from fetched_weights()
  yield from caches()
  yield from room_on_disk()
  yield memory()
  yield from devices()


def packages() -> Iterator[Check]:
  """Versions of what this package needs, against what it asks for."""
  try:
    needed = installation.requirements()
  except metadata.PackageNotFoundError:
    needed = []
    yield Check("packages", NOTE, f"{installation.PACKAGE} is not installed, so that what it needs is not known")
  bad = [said for requirement in needed for said in _unmet(requirement)]
  versions = ", ".join(f"{name} {installation.version(name)}" for name in SHOWN)
  state = WRONG if bad else OK
  rest = f"; {'; '.join(bad)}" if bad else f"; all {len(needed)} as required"
  yield Check("packages", state, versions + rest, f"{'; '.join(bad)}: pip install --upgrade them" if bad else "")


def extras() -> Iterator[Check]:
  """Which extras are there; one whose packages are all there but too old is wrong."""
  here, missing = [], []
  for extra in installation.extras() if _is_known() else ():
    if extra in _NOT_FOR_USERS:
      continue
    bad = [said for requirement in installation.requirements(extra) for said in _unmet(requirement)]
    absent = [said for said in bad if said.endswith(" is missing")]
    if not bad:
      here.append(extra)
    elif absent:
      missing.append(extra)
    else:
      yield Check("extras", WRONG, f"{extra}: {'; '.join(bad)}", installation.install_hint(extra))
  parts = [f"{', '.join(here) or 'none'} there"]
  if missing:
    parts.append(f"{', '.join(missing)} not ({installation.install_hint(missing[0])})")
  yield Check("extras", OK, "; ".join(parts))


def _is_known() -> bool:
  """Whether it is known what the package needs: it is installed, or lies in its checkout."""
  try:
    installation.requirements()
  except metadata.PackageNotFoundError:
    return False
  return True


def _unmet(text: str) -> Iterator[str]:
  """What is missing or of another version than a requirement wants, those of its own extras included."""
  wanted = Requirement(text)
  if wanted.name == installation.PACKAGE or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
    return
  try:
    have = metadata.version(wanted.name)
  except metadata.PackageNotFoundError:
    yield f"{wanted.name} is missing"
    return
  if not wanted.specifier.contains(have, prereleases=True):
    yield f"{wanted.name} is {have}, not {wanted.specifier}"
  for extra in wanted.extras:
    for inner in metadata.requires(wanted.name) or ():
      marker = Requirement(inner).marker
      if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
        yield from _unmet(inner.partition(";")[0])


def packaged_weights(folder: Path) -> Iterator[Check]:
  """Weights in the package, by their hashes."""
  from medlsam_jax.io.weights.fetch import digest_of

  again = "the installation is damaged: install the package again"
  try:
    lines = (folder / _SUMS).read_text(encoding="utf-8").splitlines()
  except OSError as error:
    yield Check("weights", WRONG, f"{folder / _SUMS}: {error.strerror}", again)
    return
  wrong = False
  for expected, name in (line.split() for line in lines):
    path = folder / name
    if not path.is_file() or digest_of(path) != expected:
      wrong = True
      yield Check("weights", WRONG, f"{path}: {'other bytes than released' if path.is_file() else 'missing'}", again)
  if not wrong:
    yield Check("weights", OK, f"{len(lines)} files in the package, hashes right")


def packaged_scans() -> Iterator[Check]:
  """Whether the scans of the packaged banks and of the demo are there."""
  from medlsam_jax.errors import TemplateError
  from medlsam_jax.io.packaged_banks import DEMO_QUERY, NAMES, folder_of

  try:
    count = sum(len(list(folder_of(name).glob("*_ct.nii.gz"))) for name in (*NAMES, DEMO_QUERY))
  except TemplateError as error:
    yield Check("templates", WRONG, str(error), "install the package again")
  else:
    yield Check("templates", OK, f"{count} scans in the package")


def fetched_weights() -> Iterator[Check]:
  """Published weights in the cache: whole, and made of the published file."""
  from medlsam_jax.io.weights.fetch import PUBLISHED, cached_weights

  here = [name for name in PUBLISHED if cached_weights(name).is_file()]
  for name in here:
    path = cached_weights(name)
    if reason := _damage(name, path):
      yield Check("weights", WRONG, f"{path}: {reason}", f"remove {path} and run: medlsam weights get {name}")
    else:
      yield Check("weights", OK, f"{name} fetched ({path.stat().st_size / 1e6:.0f} MB)")
  if "litemedsam" not in here:
    yield Check(
      "weights",
      NOTE,
      "litemedsam is not on this machine",
      "organs that are marked by points alone, and --masks network or prompted, need LiteMedSAM (39 MB): medlsam "
      "weights get litemedsam",
    )


def _damage(name: str, path: Path) -> str:
  """What is wrong with fetched weights; empty where nothing is."""
  import flax.linen as nn

  from medlsam_jax.errors import WeightsError
  from medlsam_jax.io.weights.fetch import PUBLISHED
  from medlsam_jax.io.weights.weights_file import read_header, read_weights
  from medlsam_jax.loading import BELONGS_TO, CHANGES_OF, PACKAGED
  from medlsam_jax.network import Network

  header = read_header(path)
  if not header.get("kind"):
    return "truncated or damaged"
  algorithm, _, expected = (PUBLISHED[name].digest or "").partition(":")
  if algorithm == "sha256" and header.get("source_sha256") != expected:
    return "made of another file than the published one"
  changes = next((PACKAGED[changed] for changed, base in BELONGS_TO.items() if base == name), None)
  if changes is None:
    return ""
  said = read_header(Path(str(importlib.resources.files("medlsam_jax") / "weights" / changes)))
  try:
    tensors, _ = read_weights(path)
  except WeightsError as error:
    return str(error)
  whole = said.get(f"{CHANGES_OF}_sha256") in (None, Network(nn.Module(), tensors, name, name).sha256)
  return "" if whole else "other numbers than the published weights have"


def caches() -> Iterator[Check]:
  """Folders of the user's cache, with what they take, and whether they can be written."""
  from medlsam_jax.cli.startup import COMPILED_VARIABLE
  from medlsam_jax.io.weights.fetch import CACHE_VARIABLE, cache_folder

  folder = cache_folder()
  parts = [f"{part.name} {_size(part) / 1e6:.0f} MB" for part in sorted(folder.glob("*")) if part.is_dir()]
  held = ", ".join(parts) or "empty"
  if reason := _refusal(folder):
    advice = f"set {CACHE_VARIABLE} to a folder that can be written"
    yield Check("cache", WRONG, f"{folder}: cannot be written ({reason}); {held}", advice)
  else:
    yield Check("cache", OK, f"{folder}: {held}")
  told = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.environ.get(COMPILED_VARIABLE)
  if told == "off":
    yield Check("programs", NOTE, f"{COMPILED_VARIABLE}=off: every command compiles anew")
  elif told and "://" not in told:
    reason = _refusal(Path(told))
    state, advice = (WRONG, "give a folder that can be written, or every command compiles anew") if reason else (OK, "")
    yield Check("programs", state, f"{told}: {reason or f'{_size(Path(told)) / 1e6:.0f} MB compiled'}", advice)


def _size(folder: Path) -> int:
  """Bytes of the files in a folder and below; what vanishes meanwhile counts nothing."""
  total = 0
  for parent, _, names in os.walk(folder):
    for name in names:
      try:
        total += os.lstat(os.path.join(parent, name)).st_size
      except OSError:
        continue
  return total


def _refusal(folder: Path) -> str:
  """Why a folder cannot be written, or made; empty where it can. It is not made."""
  there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
  if not there.is_dir():
    return f"{there} is no folder"
  try:
    tempfile.TemporaryFile(dir=there).close()
  except OSError as error:
    return error.strerror or str(error)
  return ""


def room_on_disk() -> Iterator[Check]:
  """Free space where results and caches go."""
  from medlsam_jax.io.weights.fetch import cache_folder

  places = {"this folder": Path.cwd(), "the cache": cache_folder(), "temporary files": Path(tempfile.gettempdir())}
  for name, wanted in places.items():
    place = next((each for each in (wanted, *wanted.parents) if each.exists()), Path("/"))
    free = shutil.disk_usage(place).free
    state = WRONG if free < LEAST_DISK_BYTES else NOTE if free < ENOUGH_DISK_BYTES else OK
    advice = "" if state == OK else f"make room there for {name}: {free / 1e9:.1f} GB are free"
    yield Check("disk", state, f"{free / 1e9:.1f} GB free for {name} ({place})", advice)


def memory() -> Check:
  """Memory that a program can still have: of the machine, or of the container where that gives less."""
  left = [value for value in (_available_of_machine(), _available_of_container()) if value is not None]
  if not left:
    return Check("memory", NOTE, "how much is free cannot be told on this system")
  free = min(left)
  state = WRONG if free < LEAST_MEMORY_BYTES else NOTE if free < ENOUGH_MEMORY_BYTES else OK
  needs = f"a scan of 512 x 512 x 400 voxels needs {LEAST_MEMORY_BYTES / 2**30:.1f} GiB: end other programs"
  return Check("memory", state, f"{free / 2**30:.1f} GiB available", "" if state == OK else needs)


def _available_of_machine() -> int | None:
  try:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
  except (OSError, StopIteration, ValueError):
    return None


def _available_of_container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
  """What a container's limit leaves (cgroup v2); None without one. Files that the system only caches count as free."""
  try:
    limit = int((folder / "memory.max").read_text())
    used = int((folder / "memory.current").read_text())
    kinds = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return limit - used + int(kinds.get("inactive_file", 0))
  except (OSError, ValueError):
    return None


def devices() -> Iterator[Check]:
  """Devices that JAX finds, and whether each multiplies right."""
  from medlsam_jax import platform
  from medlsam_jax.errors import DeviceError

  try:
    import jax

    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter("always")
      platform.require_devices()
    found = jax.local_devices()
  except (DeviceError, ImportError, RuntimeError) as error:
    yield Check("device", WRONG, " ".join(str(error).split()), "see docs/accelerators.md, 'What can be amiss'")
    return
  for warning in caught:
    yield Check("device", WRONG, str(warning.message), "mend the driver; docs/accelerators.md says more")
  for device in found:
    reason = _miscalculates(device)
    advice = "its driver and libraries do not go together, or its memory is taken" if reason else ""
    yield Check("device", WRONG if reason else OK, f"{device.device_kind} ({device}): {reason or 'computes'}", advice)
  if found[0].platform == "cpu" and Path("/proc/driver/nvidia/version").exists() and not caught:
    yield Check("device", NOTE, "an NVIDIA GPU is here and not used", installation.install_hint("cuda"))


def _miscalculates(device: object) -> str:
  """What is wrong with a small product of matrices on a device; empty where it is right."""
  import jax
  import numpy as np

  numbers = np.arange(_EDGE * _EDGE, dtype=np.float32).reshape(_EDGE, _EDGE) % 7
  try:
    product = jax.jit(lambda x: jax.numpy.matmul(x, x.T, precision="highest"))(jax.device_put(numbers, device))
    same = np.array_equal(np.asarray(product), numbers @ numbers.T)
  except Exception as error:  # whatever a device that does not work raises is what is wrong with it
    return " ".join(str(error).split())[:200]
  return "" if same else "multiplies wrong"
