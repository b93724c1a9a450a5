"""The pickle in a checkpoint of `torch.save` -> plain values and unread tensors, running nothing that a file brings.

A pickle is a program. The reader here runs it with an allow-list of constructors, all of them written in this module
and sealed against changes: every other name that a file asks for raises, whether or not it exists, and nothing is
imported or called on the file's behalf. Sizes that a file declares are checked against the bytes it holds.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable

import ml_dtypes
import numpy as np

_MAX_EXPANDED = 1 << 26
"""Elements that a tensor may have beyond its storage (an expanded view repeats elements without storing them)."""

_STORAGE_DTYPES = {
  "DoubleStorage": np.dtype(np.float64),
  "FloatStorage": np.dtype(np.float32),
  "HalfStorage": np.dtype(np.float16),
  "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
  "LongStorage": np.dtype(np.int64),
  "IntStorage": np.dtype(np.int32),
  "ShortStorage": np.dtype(np.int16),
  "CharStorage": np.dtype(np.int8),
  "ByteStorage": np.dtype(np.uint8),
  "BoolStorage": np.dtype(np.bool_),
}
_DTYPE_NAMES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_NEEDLESS_OPCODES = frozenset(
  ("EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ_EX", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER")
)
"""Opcodes that saving tensors never writes, and that reach past `find_class` or make objects in another way."""
_WAY_OUT = (
  "If you trust its author, load it in PyTorch and save the weights alone: torch.save(model.state_dict(), 'new.pth')"
)


class RefusedError(Exception):
  """The pickle asks for something that weights do not need, or declares what it does not hold. Nothing was run."""


def read_pickle(program: bytes, record_size: Callable[[str], int]) -> object:
  """The value that a checkpoint's pickle describes.

  Args:
    program: contents of `data.pkl`.
    record_size: bytes of the storage of a given name; raises `RefusedError` where there is none.

  Returns:
    Dictionaries, lists, tuples and plain values, with a `Tensor` for each tensor. NumPy scalars become Python numbers;
    NumPy arrays (loss curves, random states), devices, dtypes and settings (`argparse.Namespace`, OmegaConf, paths)
    become empty stand-ins.

  Raises:
    RefusedError: see there. Damaged pickles raise whatever `pickle` makes of them.
  """
  for opcode, argument, _ in pickletools.genops(program):
    if opcode.name in _NEEDLESS_OPCODES:
      raise RefusedError(f"its pickle uses {opcode.name}, which weights do not need. {_WAY_OUT}")
    # the unpickler reserves memory up to the highest memo slot
    if opcode.name.endswith("PUT") and int(str(argument)) > len(program):
      raise RefusedError("its pickle declares more values than it has")
  return _Reader(program, record_size).load()


class _Sealed:
  """Base of all that a file can get hold of: a pickle can make it, but never write attributes to it."""

  __slots__ = ()

  def __setstate__(self, state: object) -> None:
    raise RefusedError("its pickle writes to an object that has no state")


class Storage(_Sealed):
  """A run of elements in the archive: `key` is the record's name, `length` counts elements."""

  __slots__ = ("dtype", "key", "length")

  def __init__(self, key: str, dtype: np.dtype, length: int) -> None:
    self.key, self.dtype, self.length = key, dtype, length


class Tensor(_Sealed):
  """A view of a storage, all of whose elements are known to lie in it; offset and stride count elements."""

  __slots__ = ("offset", "shape", "storage", "stride")

  def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

  def is_same(self, other: Tensor) -> bool:
    """Whether both are the same elements of one storage."""
    mine, its = ((t.storage.key, t.offset, t.shape, t.stride) for t in (self, other))
    return mine == its

  def view(self, elements: np.ndarray) -> np.ndarray:
    """This tensor as a view of its storage's elements, without a copy."""
    if 0 in self.shape:
      return np.zeros(self.shape, self.storage.dtype)
    size = elements.dtype.itemsize
    strides = tuple(step * size for step in self.stride)
    return np.ndarray(self.shape, elements.dtype, elements, self.offset * size, strides)


class _Constructor(_Sealed):
  """A function of this module that a pickle may call."""

  __slots__ = ("_function",)

  def __init__(self, function: Callable[..., object]) -> None:
    self._function = function

  def __call__(self, *arguments: object) -> object:
    return self._function(*arguments)


class _StorageType(_Sealed):
  __slots__ = ("dtype",)

  def __init__(self, dtype: np.dtype) -> None:
    self.dtype = dtype


class _Dict(dict):
  """What an OrderedDict becomes. PyTorch hangs module versions on it as an attribute, which are dropped."""

  def __setstate__(self, state: object) -> None:
    pass


class _PassedOver:
  """What settings become: takes whatever a pickle makes and fills them with, and keeps nothing.

  A class, not a `_Constructor`, since pickles make such objects by NEWOBJ, which takes classes only. What a pickle can
  do with the class is to make these.
  """

  __slots__ = ()

  def __new__(cls, *arguments: object) -> _PassedOver:
    return super().__new__(cls)

  def __init__(self, *arguments: object) -> None:
    pass

  def __setstate__(self, state: object) -> None:
    pass

  def __setitem__(self, key: object, value: object) -> None:
    pass

  def append(self, item: object) -> None:
    """Drops it."""

  def extend(self, items: object) -> None:
    """Drops them."""

  def add(self, item: object) -> None:
    """Drops it."""


class _NumpyDtype(_Sealed):
  __slots__ = ("code", "order")

  def __init__(self, code: str) -> None:
    self.code, self.order = code, "<"

  def __setstate__(self, state: object) -> None:
    if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
      raise RefusedError("its pickle describes a NumPy type that is not a plain number")
    self.order = state[1]


class _NumpyArray(_Sealed):
  """Stands for a NumPy array, which in a checkpoint is bookkeeping (loss curves, random states) and is not kept."""

  __slots__ = ()

  def __setstate__(self, state: object) -> None:
    if not isinstance(state, tuple) or not isinstance(state[2], _NumpyDtype) or not isinstance(state[4], bytes):
      raise RefusedError(f"its pickle holds a NumPy array of objects, which could hide code. {_WAY_OUT}")


def _numpy_dtype(code: object, *flags: object) -> _NumpyDtype:
  if not isinstance(code, str) or not re.fullmatch(r"[fiu][1248]|b1|[SU][0-9]{1,4}", code):
    raise RefusedError(f"its pickle holds a NumPy type that is not a plain number. {_WAY_OUT}")
  return _NumpyDtype(code)


def _numpy_scalar(dtype: object, data: object) -> int | float | bool | str | bytes:
  if not isinstance(dtype, _NumpyDtype) or not isinstance(data, bytes):
    raise RefusedError("its pickle holds a NumPy scalar that is not a plain number")
  return np.frombuffer(data, np.dtype(dtype.order + dtype.code), count=1)[0].item()


def _numpy_array(*arguments: object) -> _NumpyArray:
  return _NumpyArray()


def _latin1(text: object, encoding: object) -> bytes:
  """How protocol 2 writes bytes: text to be encoded."""
  if not isinstance(text, str) or encoding != "latin1":
    raise RefusedError("its pickle asks for an encoding other than latin1")
  return text.encode("latin1")


def _plain(*arguments: object) -> None:
  """A device or layout: read past."""


def _parameter(data: object, *rest: object) -> object:
  return data


def _tensor(storage: object, offset: object, size: object, stride: object, *rest: object) -> Tensor:
  """A tensor after checking that each of its elements lies in its storage."""
  if not isinstance(storage, Storage):
    raise RefusedError("its pickle makes a tensor from something that is not a storage")
  (start,) = _whole_numbers((offset,))
  shape, steps = _whole_numbers(size), _whole_numbers(stride)
  if len(shape) != len(steps) or len(shape) > 16:
    raise RefusedError("its pickle declares a tensor whose shape and strides do not go together")
  elements = 1
  for extent in shape:
    elements *= extent
  steps = tuple(0 if extent == 1 else step for extent, step in zip(shape, steps, strict=True))
  last = start + sum((extent - 1) * step for extent, step in zip(shape, steps, strict=True))
  if elements and (last >= storage.length or elements > storage.length + _MAX_EXPANDED):
    raise RefusedError(
      f"declares a tensor of shape {shape} that its storage of {storage.length} elements does not hold"
    )
  return Tensor(storage, start, shape, steps)


def _whole_numbers(values: object) -> tuple[int, ...]:
  if not isinstance(values, tuple | list) or not all(type(v) is int and 0 <= v < 1 << 62 for v in values):
    raise RefusedError("its pickle declares a size, stride or offset that is not a count")
  return tuple(values)


def _dictionary(*arguments: object) -> _Dict:
  """A `defaultdict`, empty until the pickle fills it; what it would make of a missing key is dropped."""
  return _Dict()


_PLAIN = (
  "bool",
  "bytearray",
  "complex",
  "dict",
  "float",
  "frozenset",
  "int",
  "list",
  "range",
  "set",
  "slice",
  "str",
  "tuple",
)
_SETTINGS = (
  ("argparse", ("Namespace",)),
  ("types", ("SimpleNamespace",)),
  ("pathlib", ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
  ("pathlib._local", ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
  ("collections", ("Counter", "deque")),
  ("datetime", ("datetime", "date", "timedelta")),
  ("builtins", _PLAIN),
  ("__builtin__", (*_PLAIN, "long", "unicode", "xrange")),
  ("typing", ("Any",)),
  ("omegaconf.dictconfig", ("DictConfig",)),
  ("omegaconf.listconfig", ("ListConfig",)),
  ("omegaconf.base", ("ContainerMetadata", "Metadata")),
  ("omegaconf.nodes", ("AnyNode", "BooleanNode", "FloatNode", "IntegerNode", "StringNode", "PathNode", "BytesNode")),
  ("easydict", ("EasyDict",)),
  ("yacs.config", ("CfgNode",)),
  ("addict.addict", ("Dict",)),
  ("munch", ("Munch",)),
  ("ml_collections.config_dict.config_dict", ("ConfigDict", "FrozenConfigDict")),
  ("lightning_fabric.utilities.data", ("AttributeDict",)),
  ("lightning.fabric.utilities.data", ("AttributeDict",)),
  ("pytorch_lightning.utilities.parsing", ("AttributeDict",)),
)
"""What training programs keep beside the weights, by module: plain data, of which nothing is kept here."""

_ALLOWED: dict[tuple[str, str], _Sealed | type[_PassedOver]] = {
  **{(module, name): _PassedOver for module, names in _SETTINGS for name in names},
  ("collections", "defaultdict"): _Constructor(_dictionary),
  ("collections", "OrderedDict"): _Constructor(_Dict),
  ("torch", "Size"): _Constructor(_whole_numbers),
  ("torch", "device"): _Constructor(_plain),
  ("torch._utils", "_rebuild_tensor"): _Constructor(_tensor),
  ("torch._utils", "_rebuild_tensor_v2"): _Constructor(_tensor),
  ("torch._utils", "_rebuild_parameter"): _Constructor(_parameter),
  ("_codecs", "encode"): _Constructor(_latin1),
  ("numpy", "dtype"): _Constructor(_numpy_dtype),
  ("numpy", "ndarray"): _Constructor(_numpy_array),
  **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGE_DTYPES.items()},
  **{("torch", name): _Constructor(_plain) for name in _DTYPE_NAMES},
  **{(f"numpy.{core}.multiarray", "scalar"): _Constructor(_numpy_scalar) for core in ("core", "_core")},
  **{(f"numpy.{core}.multiarray", "_reconstruct"): _Constructor(_numpy_array) for core in ("core", "_core")},
  **{(f"numpy.{core}.numeric", "_frombuffer"): _Constructor(_numpy_array) for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
  """Unpickler that knows the allow-list and nothing else."""

  def __init__(self, program: bytes, record_size: Callable[[str], int]) -> None:
    super().__init__(io.BytesIO(program))
    self._record_size = record_size
    self._storages: dict[str, Storage] = {}

  def find_class(self, module: str, name: str) -> _Sealed | type[_PassedOver]:
    """The sealed stand-in for an allowed name; raises for any other and imports nothing."""
    try:
      return _ALLOWED[module, name]
    except KeyError:
      raise RefusedError(f"it asks for {module[:60]}.{name[:60]}, which weights do not need. {_WAY_OUT}") from None

  def persistent_load(self, pid: object) -> Storage:
    """The storage that a persistent id names, after checking that its record is as long as declared."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _StorageType):
      raise RefusedError("it refers to something that is not a storage of a known dtype")
    dtype, key = pid[1].dtype, pid[2]
    (length,) = _whole_numbers((pid[4],))
    if not isinstance(key, str):
      raise RefusedError("it has a storage without a name")
    if self._record_size(key) < length * dtype.itemsize:
      raise RefusedError(f"its storage {key[:40]!r} is shorter than declared (truncated?)")
    storage = self._storages.setdefault(key, Storage(key, dtype, length))
    if (storage.dtype, storage.length) != (dtype, length):
      raise RefusedError(f"it describes the storage {key[:40]!r} in two ways")
    return storage
