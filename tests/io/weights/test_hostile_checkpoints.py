"""Crafted files: whatever their pickles ask for, nothing is run, nothing imported, and a WeightsError comes out."""

import pickle
import sys
import zipfile

import numpy as np
import pytest
from torch_writer import Code, build, call, name_of, numpy_scalar, program, storage, tensor, value, write_zip

from medlsam_jax.errors import WeightsError
from medlsam_jax.io.weights import torch_pickle
from medlsam_jax.io.weights.torch_file import read_tensors

HONEST = tensor("0", 4, (4,), (1,))
DATA = {"0": np.arange(4, dtype=np.float32).tobytes()}


def assert_refused(tmp_path, saved, words=None, storages=DATA, **options):
  path = write_zip(tmp_path / "hostile.pth", saved, storages, **options)
  with pytest.raises(WeightsError, match=words) as caught:
    read_tensors(path)
  assert "hostile.pth" in str(caught.value)


def payloads(canary):
  """Ways to run code that work in a plain unpickler: each creates the file `canary`."""
  code = f"open({str(canary)!r}, 'w').close()"
  get = call("builtins", "getattr", call("builtins", "__import__", "os"), "system")
  return {
    "system": call("os", "system", f"touch {canary}"),
    "posix": call("posix", "system", f"touch {canary}"),
    "eval": call("builtins", "eval", code),
    "python 2 exec": call("__builtin__", "exec", code),
    "getattr chain": Code(get + value((f"touch {canary}",)) + b"R"),
    "subprocess": call("subprocess", "getoutput", f"touch {canary}"),
    "nested in a tensor": call(
      "torch._utils", "_rebuild_tensor_v2", call("os", "system", f"touch {canary}"), 0, (), ()
    ),
    "nested in a storage": Code(value(("storage", call("os", "system", f"touch {canary}"), "0", "cpu", 4)) + b"Q"),
    "in a dictionary key": value({call("os", "system", f"touch {canary}"): 1}),
    "in an ordered dictionary": call("collections", "OrderedDict", [(call("os", "system", f"touch {canary}"), 1)]),
    "dotted name": Code(
      b"\x80\x04" + value("os") + value("path.os.system") + b"\x93" + value((f"touch {canary}",)) + b"R"
    ),
    "stack global": Code(value("os") + value("system") + b"\x93" + value((f"touch {canary}",)) + b"R"),
    "inst": Code(b"(" + value(f"touch {canary}") + b"ios\nsystem\n"),
    "obj": Code(b"(" + name_of("os", "system") + value(f"touch {canary}") + b"o"),
    "partial": call("functools", "partial", name_of("os", "system"), f"touch {canary}"),
    "map": call("builtins", "list", call("builtins", "map", name_of("os", "system"), [f"touch {canary}"])),
    "load from bytes": call("torch.storage", "_load_from_bytes", b"\x80\x02}."),
    "numpy load": call("numpy", "load", str(canary)),
    "pickle loads": call("pickle", "loads", pickle.dumps({})),
    "scalar of objects": numpy_scalar("numpy.core", "O8", pickle.dumps({})),
  }


def test_the_payloads_do_run_in_a_plain_unpickler(tmp_path):
  for name in ("system", "eval", "getattr chain", "subprocess", "dotted name", "stack global", "inst", "obj"):
    canary = tmp_path / name.replace(" ", "_")
    pickle.loads(program(payloads(canary)[name]))
    assert canary.exists(), name


@pytest.mark.parametrize("name", list(payloads("x")))
@pytest.mark.parametrize("place", ["whole", "beside", "inside", "unused"])
def test_nothing_that_a_file_asks_for_is_run(tmp_path, name, place):
  canary = tmp_path / "canary"
  payload = payloads(canary)[name]
  saved = {
    "whole": payload,
    "beside": {"state_dict": {"a": HONEST}, "extra": payload},
    "inside": {"a": HONEST, "b": payload},
    "unused": program({"a": Code(payload + b"0" + HONEST)}),
  }[place]
  assert_refused(tmp_path, saved, "nothing from it was run")
  assert not canary.exists()


def test_refusing_a_name_does_not_import_its_module(tmp_path):
  assert "this" not in sys.modules and "antigravity" not in sys.modules
  for module in ("this", "antigravity"):
    assert_refused(tmp_path, {"a": HONEST, "b": name_of(module, "anything")}, f"asks for {module}.anything")
    assert module not in sys.modules


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_arrays_of_numbers_are_passed_over_and_arrays_of_objects_refused(tmp_path, module):
  def array(code, data):
    made = call(module, "_reconstruct", name_of("numpy", "ndarray"), (0,), b"b")
    dtype = build(call("numpy", "dtype", code, False, True), (3, "<", None, None, None, -1, -1, 0))
    return build(made, (1, (2,), dtype, False, data))

  read = read_tensors(write_zip(tmp_path / "x.pth", {"a": HONEST, "curve": array("f4", bytes(8))}, DATA))
  assert list(read) == ["a"]
  assert_refused(tmp_path, {"a": HONEST, "b": array("O8", [1, 2])}, "not a plain number")
  assert_refused(tmp_path, {"a": HONEST, "b": array("f4", [1, 2])}, "array of objects")


def test_a_file_cannot_write_to_the_reader_itself(tmp_path):
  """The BUILD opcode sets attributes of whatever is on the stack, the reader's own constructors among them."""
  for target in (
    name_of("torch._utils", "_rebuild_parameter"),
    name_of("collections", "OrderedDict"),
    name_of("torch", "FloatStorage"),
    HONEST,
    storage("0", 4),
  ):
    for state in ({"_function": 1, "dtype": 2}, (None, {"_function": 1, "dtype": 2, "shape": (9,)})):
      assert_refused(tmp_path, {"a": build(target, state)}, "writes to an object")
  assert callable(torch_pickle._ALLOWED["torch._utils", "_rebuild_parameter"]._function)
  assert torch_pickle._ALLOWED["torch", "FloatStorage"].dtype == np.float32


def test_needless_opcodes_are_refused(tmp_path):
  for code in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b")\x81", b"P0\n", b"(}\x92"):
    assert_refused(tmp_path, {"a": HONEST, "b": Code(name_of("torch", "Size") + code)})


def test_a_huge_memo_slot_reserves_no_memory(tmp_path):
  assert_refused(tmp_path, {"a": HONEST, "b": Code(b"Nr\xff\xff\xff\x7f")}, "more values than it has")


@pytest.mark.parametrize(
  "code",
  [
    tensor("0", 4, (5,), (1,)),
    tensor("0", 4, (4,), (1,), offset=1),
    tensor("0", 4, (2, 2), (3, 1)),
    tensor("0", 4, (2,), (1 << 61,)),
    tensor("0", 4, (1 << 40, 1 << 40), (1, 1)),
    tensor("0", 4, (1 << 40, 1 << 40), (0, 0)),
    tensor("0", 4, (4,), (-1,), offset=3),
    tensor("0", 4, (-4,), (1,)),
    tensor("0", 4, (4,), (1,), offset=-1),
    tensor("0", 4, (4,), (1, 1)),
    tensor("0", 4, (1,) * 40, (1,) * 40),
    tensor("0", 4, (4.0,), (1,)),
    tensor("0", 4, (True,), (1,)),
    tensor("0", 4, ("4",), (1,)),
    tensor("0", 5, (5,), (1,)),
    tensor("0", 3, (4,), (1,)),
    tensor("0", 4, (2,), (1,), storage_type="DoubleStorage"),
    tensor("0", 1 << 60, (1 << 60,), (1,)),
    tensor("0", -4, (0,), (1,)),
    tensor("missing", 4, (4,), (1,)),
    tensor("../data.pkl", 4, (4,), (1,)),
    tensor("0", 4, (4,), (1,), storage_type="QInt8Storage"),
    tensor("0", 4, (4,), (1,), storage_type="UntypedStorage"),
    call("torch._utils", "_rebuild_tensor_v2", "0", 0, (4,), (1,)),
    call("torch._utils", "_rebuild_tensor_v2", storage("0", 4), 0),
    call("torch._utils", "_rebuild_qtensor", storage("0", 4), 0, (4,), (1,)),
    Code(value("storage") + b"Q"),
    Code(value(("storage", "FloatStorage", "0", "cpu", 4)) + b"Q"),
    Code(value(("storage", name_of("torch", "FloatStorage"), 0, "cpu", 4)) + b"Q"),
  ],
)
def test_sizes_and_storages_that_the_file_does_not_hold_are_refused(tmp_path, code):
  assert_refused(tmp_path, {"a": code})


def test_one_storage_described_in_two_ways_is_refused(tmp_path):
  other = tensor("0", 2, (2,), (1,), storage_type="HalfStorage")
  assert_refused(tmp_path, {"a": HONEST, "b": other}, "in two ways")


def test_a_record_shorter_than_the_directory_says_is_refused(tmp_path):
  path = write_zip(tmp_path / "hostile.pth", {"a": tensor("0", 400, (400,), (1,))}, {"0": bytes(1600)})
  data = path.read_bytes()
  with zipfile.ZipFile(path) as archive:
    where = archive.getinfo("archive/data/0").header_offset
  path.write_bytes(data[: where + 200] + data[where + 1000 :])
  with pytest.raises(WeightsError, match=r"hostile\.pth"):
    read_tensors(path)


def test_broken_pickles_are_refused(tmp_path):
  for broken in (b"", b"\x80\x02", b"\x80\x02.", b"\x80\x63}.", b"}", b"\x80\x02(((((.", b"\x80\x02h\x07.", b"garbage"):
    assert_refused(tmp_path, broken)


def test_deep_nesting_is_refused(tmp_path):
  assert_refused(tmp_path, b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b".", "no dictionary of named tensors")
  nested = HONEST
  for _ in range(50):
    nested = value({"model": nested})
  assert_refused(tmp_path, nested, "no dictionary of named tensors")


def test_a_device_a_size_and_a_dtype_are_harmless(tmp_path):
  saved = {
    "a": HONEST,
    "device": call("torch", "device", "cuda:0"),
    "size": call("torch", "Size", (2, 3)),
    "dtype": name_of("torch", "float16"),
    "weight": call("torch._utils", "_rebuild_parameter", HONEST, True, call("collections", "OrderedDict")),
  }
  assert list(read_tensors(write_zip(tmp_path / "x.pth", saved, DATA))) == ["a", "weight"]
