import os
import stat

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from medlsam_jax.errors import OutputError, WeightsError
from medlsam_jax.io.weights.weights_file import is_ours, read_weights, write_weights

HEADER = {"kind": "medlam", "base_channels": "2", "source_sha256": "0"}


def tree(dtype=np.float32):
  kernel = np.arange(6).reshape(2, 3).astype(dtype)
  return {
    "params": {"fc1": {"kernel": kernel, "bias": np.ones(3, dtype)}},
    "batch_stats": {"norm": {"mean": np.zeros(2, dtype)}},
    "constants": {"frequencies": np.full((), 2, dtype)},
  }


def test_what_is_written_is_read_with_its_header(tmp_path):
  write_weights(tmp_path / "w.safetensors", tree(), HEADER)
  variables, header = read_weights(tmp_path / "w.safetensors")
  assert header == {"format": "medlsam_jax 1", **HEADER}
  assert set(variables) == {"params", "batch_stats", "constants"}
  np.testing.assert_array_equal(variables["params"]["fc1"]["kernel"], [[0, 1, 2], [3, 4, 5]])
  assert variables["constants"]["frequencies"].shape == ()


def test_tensors_are_named_by_dotted_path(tmp_path):
  write_weights(tmp_path / "w.safetensors", tree(), HEADER)
  with safe_open(tmp_path / "w.safetensors", "numpy") as file:
    assert "params.fc1.kernel" in set(file.keys())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_stored_and_comes_back_as_float32_or_as_stored(tmp_path, dtype):
  write_weights(tmp_path / "w.safetensors", tree(dtype), HEADER)
  wide, _ = read_weights(tmp_path / "w.safetensors")
  stored, _ = read_weights(tmp_path / "w.safetensors", as_float32=False)
  assert wide["params"]["fc1"]["kernel"].dtype == np.float32
  assert stored["params"]["fc1"]["kernel"].dtype == dtype
  np.testing.assert_array_equal(wide["params"]["fc1"]["kernel"], [[0, 1, 2], [3, 4, 5]])


def test_a_transposed_view_is_written_as_it_reads(tmp_path):
  view = np.arange(6, dtype=np.float32).reshape(2, 3).T
  write_weights(tmp_path / "w.safetensors", {"params": {"a": view}}, HEADER)
  np.testing.assert_array_equal(read_weights(tmp_path / "w.safetensors")[0]["params"]["a"], view)


def test_other_dtypes_collections_and_a_missing_kind_are_refused(tmp_path):
  for variables, header in (
    ({"params": {"a": np.ones(2)}}, HEADER),
    ({"cache": {"a": np.ones(2, np.float32)}}, HEADER),
    (tree(), {"base_channels": "2"}),
  ):
    with pytest.raises(ValueError):
      write_weights(tmp_path / "w.safetensors", variables, header)
  assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
  path = tmp_path / "w.safetensors"
  write_weights(path, tree(), HEADER)
  before = path.read_bytes()

  def fail(*arguments):
    raise OSError("disk full")

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(OutputError, match="disk full"):
    write_weights(path, tree(np.float16), HEADER)
  assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_an_unwritable_place_is_named(tmp_path):
  with pytest.raises(OutputError, match="missing"):
    write_weights(tmp_path / "missing" / "w.safetensors", tree(), HEADER)


def test_the_file_has_the_rights_that_other_files_get(tmp_path):
  write_weights(tmp_path / "w.safetensors", tree(), HEADER)
  (tmp_path / "other").touch()
  assert stat.S_IMODE((tmp_path / "w.safetensors").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(WeightsError, match=r"w\.safetensors: no such file"):
    read_weights(tmp_path / "w.safetensors")


def test_every_truncation_is_refused(tmp_path):
  write_weights(tmp_path / "w.safetensors", tree(), HEADER)
  whole = (tmp_path / "w.safetensors").read_bytes()
  for length in [*range(0, len(whole), 17), len(whole) - 1]:
    (tmp_path / "cut.safetensors").write_bytes(whole[:length])
    with pytest.raises(WeightsError, match=r"cut\.safetensors"):
      read_weights(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9c"])
def test_a_pytorch_file_is_sent_to_convert(tmp_path, start):
  (tmp_path / "x.pth").write_bytes(start + bytes(100))
  with pytest.raises(WeightsError, match="medlsam convert"):
    read_weights(tmp_path / "x.pth")


def test_files_of_others_and_of_other_versions_are_refused(tmp_path):
  path = tmp_path / "w.safetensors"
  tensors = {"params.a": np.ones(2, np.float32)}
  for header, words in ((None, "no header of ours"), ({"format": "pt"}, "'pt'"), ({"format": "medlsam_jax 2"}, "2")):
    save_file(tensors, path, metadata=header)
    with pytest.raises(WeightsError, match=words):
      read_weights(path)
  save_file({"other.a": np.ones(2, np.float32)}, path, metadata={"format": "medlsam_jax 1", "kind": "medlam"})
  with pytest.raises(WeightsError, match=r"other\.a"):
    read_weights(path)


def test_is_ours_tells_our_files_from_any_others(tmp_path):
  write_weights(tmp_path / "ours.safetensors", tree(), HEADER)
  save_file({"a": np.ones(2, np.float32)}, tmp_path / "theirs.safetensors")
  (tmp_path / "x.pth").write_bytes(b"PK\x03\x04")
  assert is_ours(tmp_path / "ours.safetensors")
  assert not any(is_ours(tmp_path / name) for name in ("theirs.safetensors", "x.pth", "missing", "."))
