"""Writes files in PyTorch's zip format, honest or hostile, without PyTorch: an assembler for protocol 2 pickles."""

import struct
import zipfile


class Code(bytes):
  """Pickle opcodes that leave one value on the stack."""


def name_of(module, name):
  return Code(f"c{module}\n{name}\n".encode())


def value(item):
  """Opcodes for a plain value; `Code` stands for itself."""
  if isinstance(item, Code):
    return item
  if item is None:
    return Code(b"N")
  if isinstance(item, bool):
    return Code(b"\x88" if item else b"\x89")
  if isinstance(item, int):
    raw = item.to_bytes(item.bit_length() // 8 + 1, "little", signed=True)
    return Code(b"\x8a" + bytes([len(raw)]) + raw)
  if isinstance(item, float):
    return Code(b"G" + struct.pack(">d", item))
  if isinstance(item, str):
    raw = item.encode()
    return Code(b"X" + struct.pack("<I", len(raw)) + raw)
  if isinstance(item, bytes):
    return call("_codecs", "encode", item.decode("latin1"), "latin1")
  if isinstance(item, dict):
    return Code(b"(" + b"".join(value(k) + value(v) for k, v in item.items()) + b"d")
  return Code(b"(" + b"".join(map(value, item)) + (b"l" if isinstance(item, list) else b"t"))


def call(module, name, *arguments):
  return Code(name_of(module, name) + value(tuple(arguments)) + b"R")


def build(code, state):
  return Code(code + value(state) + b"b")


def ordered_dict(items, state=None):
  made = call("collections", "OrderedDict") + b"(" + b"".join(value(k) + value(v) for k, v in items.items()) + b"u"
  return build(Code(made), state) if state is not None else Code(made)


def storage(key, length, storage_type="FloatStorage"):
  return Code(value(("storage", name_of("torch", storage_type), key, "cpu", length)) + b"Q")


def tensor(key, length, shape, stride, offset=0, storage_type="FloatStorage"):
  return call(
    "torch._utils",
    "_rebuild_tensor_v2",
    storage(key, length, storage_type),
    offset,
    tuple(shape),
    tuple(stride),
    False,
    call("collections", "OrderedDict"),
  )


def contiguous(shape):
  strides, step = [], 1
  for extent in reversed(shape):
    strides.append(step)
    step *= extent
  return tuple(reversed(strides))


def numpy_scalar(core, code, data):
  dtype = build(call("numpy", "dtype", code, False, True), (3, "<", None, None, None, -1, -1, 0))
  return call(f"{core}.multiarray", "scalar", dtype, data)


def program(saved):
  return b"\x80\x02" + value(saved) + b"."


def write_zip(path, saved, storages=None, root="archive/", byteorder="little", extra=None, compression=0):
  """`saved` is pickled with `value`, or is a whole pickle when given as plain bytes."""
  pickled = saved if isinstance(saved, bytes) and not isinstance(saved, Code) else program(saved)
  records = {"data.pkl": pickled, "byteorder": byteorder.encode(), "version": b"3\n", **(extra or {})}
  records |= {f"data/{key}": data for key, data in (storages or {}).items()}
  with zipfile.ZipFile(path, "w", compression) as archive:
    for name, data in records.items():
      archive.writestr(root + name, data)
  return path


def write_arrays(path, arrays, wrap=lambda tensors: tensors, storage_types=None):
  """Contiguous arrays by name, each with its own storage; `wrap` puts the dictionary where the test wants it."""
  types = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage", "int64": "LongStorage"}
  tensors, storages = {}, {}
  for number, (name, array) in enumerate(arrays.items()):
    kind = types[array.dtype.name]
    tensors[name] = tensor(str(number), array.size, array.shape, contiguous(array.shape), storage_type=kind)
    storages[str(number)] = array.tobytes()
  return write_zip(path, wrap(tensors), storages)
