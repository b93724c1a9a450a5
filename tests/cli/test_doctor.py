"""`medlsam doctor` sees what is wrong, says what to do, and changes nothing."""

import shutil
from importlib import metadata
from pathlib import Path

import pytest

from medlsam_jax import installation
from medlsam_jax.cli import health
from medlsam_jax.errors import DeviceError
from medlsam_jax.io.weights import fetch

RELEASED = fetch.cached_weights("litemedsam")
WEIGHTS = Path(installation.__file__).parent / "weights"


@pytest.fixture
def healthy(monkeypatch, tmp_path):
  """An empty cache, and a machine with room."""
  monkeypatch.setenv("MEDLSAM_CACHE", str(tmp_path / "cache"))
  for name in ("JAX_COMPILATION_CACHE_DIR", "MEDLSAM_COMPILED"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(health, "_available_of_machine", lambda: 1 << 34)
  monkeypatch.setattr(health, "_available_of_container", lambda: None)
  monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(1 << 40, 0, 1 << 40))
  monkeypatch.setattr(fetch, "fetch_published", None)  # a download would fail
  return tmp_path / "cache"


def wrong(checks):
  return [f"{check.text} {check.advice}" for check in checks if check.state == health.WRONG]


def test_nothing_is_wrong_with_this_installation(medlsam, healthy):
  result = medlsam("doctor")
  assert result.code == 0, result.out
  for words in ("jax ", "hashes right", "computes", "litemedsam is not on this machine", "nothing is wrong"):
    assert words in result.out
  assert not healthy.exists()


def test_a_package_that_is_too_old_is_wrong(medlsam, healthy, monkeypatch):
  version = metadata.version
  monkeypatch.setattr(metadata, "version", lambda name: "0.1" if name == "scipy" else version(name))
  result = medlsam("doctor")
  assert result.code == 1 and "scipy is 0.1, not >=" in result.out and "1 wrong" in result.out


def test_an_extra_in_part_is_missing_and_one_too_old_is_wrong(monkeypatch):
  versions = {"pydicom": "2.0", "pylibjpeg": "2.1"}
  needs = {"": [], "dicom": ["pydicom>=3", "pylibjpeg>=2"], "rle": ["pycocotools>=2"]}

  def version(name):
    if name not in versions:
      raise metadata.PackageNotFoundError(name)
    return versions[name]

  monkeypatch.setattr(metadata, "version", version)
  monkeypatch.setattr(installation, "requirements", lambda extra="": needs[extra])
  monkeypatch.setattr(installation, "extras", lambda: ["dicom", "rle"])
  old, rest = health.extras()
  assert old.state == health.WRONG and "pydicom is 2.0" in old.text and "[dicom]" in old.advice
  assert rest.text.startswith("none there; rle not")


def test_what_an_accelerators_extra_of_jax_brings_is_looked_for():
  assert any("plugin is missing" in said for said in health._unmet("jax[cuda12]>=0.5")) or list(
    health._unmet("jax[cuda12]>=0.5")
  ) == list(health._unmet("jax>=0.5"))


def test_damaged_and_missing_packaged_weights_are_wrong(tmp_path):
  shutil.copytree(WEIGHTS, tmp_path / "w")
  assert not wrong(health.packaged_weights(tmp_path / "w"))
  data = bytearray((tmp_path / "w" / "medlam_tiny.safetensors").read_bytes())
  data[-1] ^= 1
  (tmp_path / "w" / "medlam_tiny.safetensors").write_bytes(data)
  (tmp_path / "w" / "medlam_open.safetensors").unlink()
  missing, other = sorted(wrong(health.packaged_weights(tmp_path / "w")))
  assert "medlam_open.safetensors: missing" in missing and "medlam_tiny.safetensors: other bytes" in other
  assert "again" in other
  assert len(wrong(health.packaged_weights(tmp_path / "nowhere"))) == 1


@pytest.mark.parametrize("damage", ["truncated", "other file"])
def test_fetched_weights_that_are_damaged_are_wrong(healthy, damage):
  path = healthy / "weights" / "litemedsam.safetensors"
  path.parent.mkdir(parents=True)
  source = WEIGHTS / "medlam_tiny.safetensors"
  path.write_bytes(source.read_bytes()[:1000] if damage == "truncated" else source.read_bytes())
  (check,) = health.fetched_weights()
  assert check.state == health.WRONG and "medlsam weights get litemedsam" in check.advice
  assert {"truncated": "damaged", "other file": "another file"}[damage] in check.text


@pytest.mark.skipif(not RELEASED.is_file(), reason="medlsam weights get litemedsam")
def test_released_weights_are_right_and_changed_numbers_wrong(healthy):
  from flax.traverse_util import flatten_dict, unflatten_dict

  from medlsam_jax.io.weights.weights_file import read_weights, write_weights

  path = healthy / "weights" / "litemedsam.safetensors"
  path.parent.mkdir(parents=True)
  shutil.copy(RELEASED, path)
  assert [check.state for check in health.fetched_weights()] == [health.OK]
  variables, header = read_weights(path)
  numbers = flatten_dict(variables)
  name = next(iter(numbers))
  write_weights(path, unflatten_dict(numbers | {name: numbers[name] + 1}), header)
  assert "other numbers" in wrong(health.fetched_weights())[0]


def test_a_cache_that_is_no_folder_is_wrong(healthy, monkeypatch):
  healthy.write_text("a file")
  assert "no folder" in wrong(health.caches())[0]
  monkeypatch.setenv("MEDLSAM_CACHE", str(healthy.parent))
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(healthy / "programs"))
  assert "no folder" in wrong(health.caches())[0]


def test_little_room_is_wrong(monkeypatch, tmp_path):
  monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(1 << 40, 0, 1 << 20))
  assert len(wrong(health.room_on_disk())) == 3
  monkeypatch.setattr(health, "_available_of_machine", lambda: 1 << 30)
  assert "end other programs" in wrong([health.memory()])[0]
  for name, text in (("max", str(2 << 30)), ("current", str(1 << 30)), ("stat", "file 9\ninactive_file 4096\n")):
    (tmp_path / f"memory.{name}").write_text(text)
  assert health._available_of_container(tmp_path) == (1 << 30) + 4096
  (tmp_path / "memory.max").write_text("max\n")
  assert health._available_of_container(tmp_path) is None


def test_a_device_that_does_not_start_or_compute_is_wrong(monkeypatch):
  from medlsam_jax import notices, platform

  monkeypatch.setattr(health, "_miscalculates", lambda device: "multiplies wrong")
  assert "multiplies wrong" in wrong(health.devices())[0]
  monkeypatch.setattr(health, "_miscalculates", lambda device: "")
  monkeypatch.setattr(platform, "require_devices", lambda: notices.warn("all runs on the CPU: no driver"))
  assert "no driver" in wrong(health.devices())[0]

  def refuses():
    raise DeviceError("no such device")

  monkeypatch.setattr(platform, "require_devices", refuses)
  assert "no such device" in wrong(health.devices())[0]
