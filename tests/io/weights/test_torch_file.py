import gzip
import json
import tarfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_writer import contiguous, numpy_scalar, ordered_dict, tensor, write_arrays, write_zip

from medlsam_jax.errors import WeightsError
from medlsam_jax.io.weights.torch_file import read_tensors

GOLDEN = Path(__file__).parents[2] / "golden"
TWO = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}


def assert_same(read, expected):
  assert list(read) == list(expected)
  for name, array in expected.items():
    assert read[name].dtype == array.dtype and read[name].shape == array.shape
    np.testing.assert_array_equal(read[name], array)


def test_reads_what_pytorch_reads_from_the_released_layout():
  expected = json.loads((GOLDEN / "medlam_random_tensors.json").read_text())["tensors"]
  read = read_tensors(GOLDEN / "medlam_random.pth")
  assert list(read) == list(expected)
  for name, facts in expected.items():
    assert list(read[name].shape) == facts["shape"] and read[name].dtype == np.float32
    flat = read[name].reshape(-1)
    assert flat.astype(np.float64).sum() == pytest.approx(facts["sum"], rel=1e-12, abs=1e-12)
    assert (flat[0], flat[-1]) == (np.float32(facts["first"]), np.float32(facts["last"]))


@pytest.mark.parametrize(
  ("storage_type", "dtype"),
  [
    ("FloatStorage", np.float32),
    ("HalfStorage", np.float16),
    ("BFloat16Storage", ml_dtypes.bfloat16),
    ("DoubleStorage", np.float64),
    ("LongStorage", np.int64),
    ("IntStorage", np.int32),
    ("ShortStorage", np.int16),
    ("CharStorage", np.int8),
    ("ByteStorage", np.uint8),
    ("BoolStorage", np.bool_),
  ],
)
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_reads_every_dtype_in_either_byte_order(tmp_path, storage_type, dtype, byteorder):
  array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
  raw = array.view(f"u{array.dtype.itemsize}")
  stored = (raw.byteswap() if byteorder == "big" else raw).tobytes()
  code = tensor("0", 6, (2, 3), (3, 1), storage_type=storage_type)
  path = write_zip(tmp_path / "x.pth", {"a": code}, {"0": stored}, byteorder=byteorder)
  assert_same(read_tensors(path), {"a": array})


def test_reads_strided_expanded_scalar_and_empty_tensors(tmp_path):
  data = np.arange(12, dtype=np.float32)
  saved = {
    "transposed": tensor("0", 12, (4, 3), (1, 4)),
    "inner": tensor("0", 12, (2, 2), (4, 1), offset=5),
    "expanded": tensor("0", 12, (5, 3), (0, 1), offset=9),
    "scalar": tensor("0", 12, (), (), offset=7),
    "empty": tensor("0", 12, (0, 3), (3, 1)),
    "one": tensor("0", 12, (1, 2), (1 << 61, 1)),
  }
  read = read_tensors(write_zip(tmp_path / "x.pth", saved, {"0": data.tobytes()}))
  square = data.reshape(3, 4)
  expected = {
    "transposed": square.T,
    "inner": square[1:, 1:3],
    "expanded": np.broadcast_to(data[9:], (5, 3)),
    "scalar": np.float32(7).reshape(()),
    "empty": np.zeros((0, 3), np.float32),
    "one": data[None, :2],
  }
  assert_same(read, expected)


def test_tensors_of_one_storage_share_memory(tmp_path):
  saved = {"a": tensor("0", 6, (4,), (1,)), "b": tensor("0", 6, (2, 2), (2, 1), offset=2)}
  read = read_tensors(write_zip(tmp_path / "x.pth", saved, {"0": np.arange(6, dtype=np.float32).tobytes()}))
  assert np.shares_memory(read["a"], read["b"])
  np.testing.assert_array_equal(read["b"], [[2, 3], [4, 5]])


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "network"])
def test_enters_the_dictionaries_of_training_programs(tmp_path, key):
  path = write_arrays(tmp_path / "x.pth", TWO, lambda tensors: {"epoch": 3, key: {"model": tensors}, "note": "text"})
  assert_same(read_tensors(path), TWO)


def test_removes_the_parallel_prefix_only_where_every_name_has_it(tmp_path):
  prefixed = {f"module.{name}": array for name, array in TWO.items()}
  assert_same(read_tensors(write_arrays(tmp_path / "x.pth", prefixed)), TWO)
  mixed = {"module.a": TWO["a"], "b": TWO["b"]}
  assert_same(read_tensors(write_arrays(tmp_path / "y.pth", mixed)), mixed)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_reads_a_training_checkpoint_of_the_published_medlam_trainer(tmp_path, core):
  """Layout of its trainer: epoch, state_dict with module versions, a NumPy best_loss, and Adam's state with tensors."""

  def wrap(tensors):
    adam = {"step": 7, "exp_avg": tensor("0", 6, (6,), (1,)), "exp_avg_sq": tensor("0", 6, (6,), (1,))}
    groups = [{"lr": 1e-4, "betas": (0.9, 0.999), "amsgrad": False, "maximize": None, "params": [0]}]
    return {
      "epoch": 12,
      "state_dict": ordered_dict(tensors, state={"_metadata": ordered_dict({"": {"version": 1}})}),
      "best_loss": numpy_scalar(core, "f4", np.float32(0.25).tobytes()),
      "optimizer": {"state": {0: adam}, "param_groups": groups},
    }

  prefixed = {f"module.{name}": array for name, array in TWO.items()}
  assert_same(read_tensors(write_arrays(tmp_path / "best_0.25.tar", prefixed, wrap)), TWO)


def test_a_loss_tensor_beside_the_network_is_not_taken_for_it(tmp_path):
  path = write_arrays(tmp_path / "x.pth", TWO, lambda tensors: {"best_loss": tensors["b"], "state_dict": tensors})
  assert_same(read_tensors(path), TWO)


def test_refuses_to_choose_between_two_networks(tmp_path):
  path = write_arrays(
    tmp_path / "x.pth", TWO, lambda tensors: {"model": {"w": tensors["a"]}, "net": {"w": tensors["b"]}}
  )
  with pytest.raises(WeightsError, match=r"several networks \(model, net\)"):
    read_tensors(path)


@pytest.mark.parametrize(
  "saved", [{}, {"epoch": 1}, [1, 2], {"optimizer": {"state": {}}}, 5, {3: tensor("0", 1, (), ())}]
)
def test_a_file_without_a_named_network_says_so(tmp_path, saved):
  with pytest.raises(WeightsError, match="no dictionary of named tensors"):
    read_tensors(write_zip(tmp_path / "x.pth", saved, {"0": bytes(4)}))


def test_reads_safetensors_with_published_names(tmp_path):
  arrays = {"module.a": TWO["a"], "module.b": TWO["b"].astype(ml_dtypes.bfloat16)}
  save_file(arrays, tmp_path / "x.safetensors")
  read = read_tensors(tmp_path / "x.safetensors")
  np.testing.assert_array_equal(read["a"], TWO["a"])
  assert read["b"].dtype == ml_dtypes.bfloat16


def test_safetensors_whose_length_looks_like_another_format_are_read(tmp_path):
  for first in (0x80, ord("<"), 0x1F):
    for padding in range(300):
      path = tmp_path / "x.safetensors"
      save_file({"a" * (padding + 1): TWO["a"]}, path)
      if path.read_bytes()[0] == first:
        break
    assert len(read_tensors(path)) == 1


def test_records_may_lie_at_the_top_or_in_a_folder(tmp_path):
  for root in ("", "any name/"):
    path = write_zip(tmp_path / "x.pth", {"a": tensor("0", 2, (2,), (1,))}, {"0": bytes(8)}, root=root)
    assert list(read_tensors(path)) == ["a"]


def test_older_format_is_refused_with_the_way_out(tmp_path):
  path = tmp_path / "old.pth"
  path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
  with pytest.raises(WeightsError, match=r"old.pth: PyTorch's older.*torch.save\(torch.load\('old.pth'"):
    read_tensors(path)


def test_other_files_are_named_for_what_they_are(tmp_path):
  inner = write_arrays(tmp_path / "x.pth", TWO)
  with tarfile.open(tmp_path / "x.tar", "w") as archive:
    archive.add(inner, "x.pth")
  (tmp_path / "x.gz").write_bytes(gzip.compress(b"abc"))
  (tmp_path / "x.pkl").write_bytes(b"\x80\x02}.")
  (tmp_path / "x.html").write_bytes(b"\n<!DOCTYPE html><html>quota exceeded</html>")
  (tmp_path / "empty.pth").write_bytes(b"")
  (tmp_path / "noise.pth").write_bytes(bytes(range(256)) * 9)
  write_zip(tmp_path / "script.pt", {"a": 1}, extra={"constants.pkl": b"\x80\x02)."})
  for name, words in (
    ("x.tar", "tar archive"),
    ("x.gz", "gzip"),
    ("x.pkl", "bare pickle"),
    ("x.html", "web page"),
    ("empty.pth", "truncated, damaged or not"),
    ("noise.pth", "truncated, damaged or not"),
    ("script.pt", "TorchScript"),
    ("missing.pth", "no such file"),
    (".", "no such file"),
  ):
    with pytest.raises(WeightsError, match=words):
      read_tensors(tmp_path / name)


def test_a_zip_without_a_program_or_with_two_is_refused(tmp_path):
  write_zip(tmp_path / "a.pth", {}, root="deep/er/")
  write_zip(tmp_path / "b.pth", {}, extra={"../data.pkl": b"", "data.pkl": b"\x80\x02}."}, root="")
  for name in ("a.pth", "b.pth"):
    with pytest.raises(WeightsError):
      read_tensors(tmp_path / name)


def test_compressed_records_are_refused(tmp_path):
  path = write_zip(tmp_path / "x.pth", {"a": tensor("0", 2, (2,), (1,))}, {"0": bytes(8)}, compression=8)
  with pytest.raises(WeightsError, match="compressed"):
    read_tensors(path)


def test_every_truncation_is_refused(tmp_path):
  whole = write_arrays(tmp_path / "x.pth", TWO).read_bytes()
  for length in [*range(0, len(whole), 23), len(whole) - 1]:
    (tmp_path / "cut.pth").write_bytes(whole[:length])
    with pytest.raises(WeightsError):
      read_tensors(tmp_path / "cut.pth")


def test_a_damaged_byte_gives_an_error_or_the_tensors_but_nothing_else(tmp_path):
  whole = bytearray(write_arrays(tmp_path / "x.pth", TWO).read_bytes())
  generator = np.random.default_rng(0)
  refused = 0
  for position in generator.integers(0, len(whole), 400):
    damaged = whole.copy()
    damaged[position] ^= int(generator.integers(1, 256))
    (tmp_path / "damaged.pth").write_bytes(damaged)
    try:
      read = read_tensors(tmp_path / "damaged.pth")
    except WeightsError:
      refused += 1
    else:
      assert {name: array.shape for name, array in read.items()} == {"a": (2, 3), "b": (4,)}
  assert refused > 200


def test_contiguous_strides_of_the_writer():
  assert contiguous((2, 3, 4)) == (12, 4, 1)
