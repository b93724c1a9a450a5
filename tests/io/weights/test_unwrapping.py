"""What training programs put around a network: found and taken off by one rule, and no choice made without a word."""

import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_writer import Code, call, name_of, numpy_scalar, tensor, value, write_arrays, write_zip

from medlsam_jax import loading
from medlsam_jax.errors import WeightsError
from medlsam_jax.io.weights.torch_file import read_tensors
from medlsam_jax.io.weights.weights_file import read_weights, write_weights

PUBLISHED = Path(__file__).parents[2] / "golden" / "medlam_random.pth"
SAM = "mask_decoder.iou_token.weight"


@pytest.fixture(scope="module")
def published():
  return read_tensors(PUBLISHED)


def prefixed(prefix, arrays):
  return {prefix + name: array for name, array in arrays.items()}


def newobj(module, name, state=None):
  """An object as pickles make it, filled with its attributes."""
  made = name_of(module, name) + b")\x81"
  return Code(made if state is None else made + value(state) + b"b")


@pytest.mark.parametrize(
  "prefix",
  [
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "net.",
    "sam_model.",
    "model._orig_mod.",
    "model.module.net.",
    "_forward_module.model._fsdp_wrapped_module.",
    "a.name.nobody.thought.of.",
  ],
)
@pytest.mark.parametrize("key", [(), ("state_dict",), ("model", "state_dict"), ("checkpoint", "anything", "module")])
def test_prefixes_and_dictionaries_in_any_order_are_taken_off(tmp_path, published, prefix, key):
  def wrap(tensors):
    for name in reversed(key):
      tensors = {name: tensors, "epoch": 3}
    return tensors

  with warnings.catch_warnings():
    warnings.simplefilter("error")
    path = write_arrays(tmp_path / "x.pth", prefixed(prefix, published), wrap)
    read = read_tensors(path)
  assert list(read) == list(published)
  assert all(np.array_equal(read[name], published[name]) for name in published)


def test_wrappers_of_a_part_of_the_network_are_taken_off():
  """torch.compile(sam.image_encoder), and a decoder in DistributedDataParallel."""
  from medlsam_jax.io.weights.unwrapping import network_of

  names = ["image_encoder._orig_mod.neck.0.weight", "mask_decoder.module.iou_token.weight", "prompt_encoder.x"]
  found, notes = network_of(dict.fromkeys(names, 1.0), float, lambda a, b: a is b)
  assert list(found.tensors) == ["image_encoder.neck.0.weight", SAM, "prompt_encoder.x"] and not notes


def test_safetensors_are_unwrapped_by_the_same_rule(tmp_path, published):
  save_file(prefixed("net._orig_mod.", published), tmp_path / "x.safetensors")
  assert sorted(read_tensors(tmp_path / "x.safetensors")) == sorted(published)
  assert loading.load(tmp_path / "x.safetensors").kind == "medlam"


def test_a_lightning_checkpoint_leaves_the_buffers_of_its_loss_out_and_says_so(tmp_path, published):
  mixed = prefixed("model.", published) | {"criterion.weight": np.ones(3, np.float32)}
  path = write_arrays(tmp_path / "x.ckpt", mixed, lambda tensors: {"state_dict": tensors, "epoch": 3})
  with pytest.warns(UserWarning, match=r"x.ckpt: tensors that are not of the network .*left out: criterion.weight"):
    assert list(read_tensors(path)) == list(published)


def test_optimizer_states_by_name_are_no_network(tmp_path, published):
  path = write_arrays(
    tmp_path / "x.pth", published, lambda tensors: {"module": tensors, "optimizer": {"exp_avg": {**tensors}}}
  )
  assert list(read_tensors(path)) == list(published)


def two(tmp_path, published, first, second):
  """A file with two networks of different numbers, under these keys."""
  other = {f"2.{name}": array + 1 for name, array in published.items()}

  def wrap(tensors):
    mine = {name: t for name, t in tensors.items() if not name.startswith("2.")}
    its = {name.removeprefix("2."): t for name, t in tensors.items() if name.startswith("2.")}
    return {first: mine, second: its}

  return write_arrays(tmp_path / "two.pth", published | other, wrap)


@pytest.mark.parametrize("averaged", ["model_ema", "ema", "ema_state_dict", "swa_model"])
def test_averaged_weights_are_taken_before_the_others_with_a_word(tmp_path, published, averaged):
  with pytest.warns(UserWarning, match=rf"two.pth: it holds two networks; {averaged}, the averaged one, .*model left"):
    read = read_tensors(two(tmp_path, published, "model", averaged))
  assert all(np.array_equal(read[name], published[name] + 1) for name in published)


def test_averaged_weights_beside_others_in_one_dictionary_are_taken_with_a_word(tmp_path, published):
  """ema-pytorch writes `online_model.` and `ema_model.`, and how often it was called."""
  shifted = {name: array + 1 for name, array in published.items()}
  arrays = prefixed("online_model.", published) | prefixed("ema_model.", shifted) | {"initted": np.ones(1, np.float32)}
  with pytest.warns(UserWarning) as said:
    read = read_tensors(write_arrays(tmp_path / "x.pth", arrays))
  assert all(np.array_equal(read[name], shifted[name]) for name in published)
  words = " ".join(str(w.message) for w in said)
  assert "ema_model, the averaged one, is taken, and online_model left out" in words and "initted" in words


def test_two_networks_of_which_neither_is_an_average_are_refused(tmp_path, published):
  with pytest.raises(WeightsError, match=r"several networks \(student, teacher\); save the wanted state_dict alone"):
    read_tensors(two(tmp_path, published, "student", "teacher"))


def test_one_network_that_is_there_twice_is_no_choice(tmp_path, published):
  path = write_arrays(tmp_path / "x.pth", published, lambda tensors: {"model": tensors, "best_model": {**tensors}})
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert list(read_tensors(path)) == list(published)


def test_names_of_an_unknown_network_that_are_one_without_wrappers_are_refused(tmp_path):
  arrays = {"module.layer": np.zeros(2, np.float32), "_orig_mod.layer": np.ones(2, np.float32)}
  with pytest.raises(WeightsError, match="one name without their wrappers"):
    read_tensors(write_arrays(tmp_path / "x.pth", arrays))


def test_names_that_are_one_without_wrappers_are_refused(tmp_path, published):
  name = next(iter(published))
  both = published | {name.replace(".", ".module.", 1): published[name]}
  with pytest.raises(WeightsError, match=f"two of its tensors are called {name}"):
    read_tensors(write_arrays(tmp_path / "x.pth", both))


SETTINGS = {
  "argparse": newobj("argparse", "Namespace", {"lr": 1, "out": "runs"}),
  "path": call("pathlib", "PosixPath", "/", "runs"),
  "new path": call("pathlib._local", "PosixPath", "/", "runs"),
  "omegaconf": newobj(
    "omegaconf.dictconfig",
    "DictConfig",
    {
      "_metadata": newobj("omegaconf.base", "ContainerMetadata", {"ref_type": name_of("typing", "Any")}),
      "_content": {},
    },
  ),
  "attribute dictionary": Code(
    name_of("pytorch_lightning.utilities.parsing", "AttributeDict") + b")\x81" + b"(" + value("lr") + value(1) + b"u"
  ),
  "set": call("__builtin__", "set", ["a"]),
  "deque": call("collections", "deque", [1]),
  "range": call("__builtin__", "xrange", 0, 3, 1),
  "array of a newer protocol": call("numpy._core.numeric", "_frombuffer", b"1234", call("numpy", "dtype", "f4"), (1,)),
  "counter": call("collections", "Counter", {30: 1}),
  "string of numpy": numpy_scalar("numpy._core", "U2", "ab".encode("utf-32-le")),
  "number of numpy": numpy_scalar("numpy._core", "f8", np.float64(0.5).tobytes()),
  "default dictionary": Code(
    call("collections", "defaultdict", name_of("__builtin__", "list")) + b"(" + value("loss") + value([1.0]) + b"u"
  ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_beside_the_weights_are_passed_over(tmp_path, published, name):
  path = write_arrays(tmp_path / "x.pth", published, lambda tensors: {"model": tensors, "args": SETTINGS[name]})
  assert list(read_tensors(path)) == list(published)


def test_weights_in_a_default_dictionary_are_read(tmp_path):
  filled = Code(
    call("collections", "defaultdict", name_of("builtins", "dict"))
    + b"(" + value("a") + tensor("0", 2, (2,), (1,)) + b"u"
  )  # fmt: skip
  read = read_tensors(write_zip(tmp_path / "x.pth", {"state_dict": filled}, {"0": np.ones(2, np.float32).tobytes()}))
  assert read["a"].tolist() == [1, 1]


def test_what_settings_are_made_of_cannot_be_changed_by_a_file(tmp_path, published):
  """BUILD on the class itself, not on an object of it."""
  hostile = Code(name_of("argparse", "Namespace") + value({"append": 1}) + b"b")
  with pytest.raises(WeightsError):
    read_tensors(write_arrays(tmp_path / "x.pth", published, lambda tensors: {"model": tensors, "args": hostile}))


@pytest.mark.parametrize(
  "stranger",
  [newobj("my_training.config", "Config", {"lr": 1}), call("models.unet", "UNet"), Code(b"(imy_code\nThing\n")],
)
def test_a_class_that_is_not_known_is_refused_with_the_way_out(tmp_path, published, stranger):
  path = write_arrays(tmp_path / "x.pth", published, lambda tensors: {"model": tensors, "args": stranger})
  with pytest.raises(WeightsError, match=r"x.pth: refused, and nothing.*torch.save\(model.state_dict\(\), 'new.pth'\)"):
    read_tensors(path)


def test_a_hostile_file_of_thousands_of_networks_is_refused_at_once(tmp_path):
  arrays = {f"n{number}.{SAM}": np.zeros(1, np.float32) for number in range(3000)}
  with pytest.raises(WeightsError, match="3000 networks"):
    read_tensors(write_arrays(tmp_path / "x.pth", arrays))
  deep = ".".join(["mask_decoder"] * 50_000)
  assert list(read_tensors(write_arrays(tmp_path / "y.pth", {deep: np.zeros(1, np.float32)}))) == [deep]


def spoilt(published, number, dtype=np.float32):
  name = list(published)[3]
  array = published[name].astype(dtype).copy()
  array.flat[0] = number
  return name, {**published, name: array}


@pytest.mark.parametrize(("number", "dtype"), [(np.nan, np.float32), (-np.inf, np.float16), (1e300, np.float64)])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, published, number, dtype):
  name, arrays = spoilt(published, number, dtype)
  with pytest.raises(WeightsError, match=rf"x.pth: NaN or infinite values in {name}; .*earlier checkpoint"):
    loading.load(write_arrays(tmp_path / "x.pth", arrays))


def test_our_own_files_are_held_to_the_same(tmp_path):
  variables, header = read_weights(Path(loading.__file__).parent / "weights" / "medlam_tiny.safetensors")
  kernel = variables["params"]["fc3"]["kernel"].copy()
  kernel[0, 0] = np.nan
  variables["params"]["fc3"]["kernel"] = kernel
  write_weights(tmp_path / "x.safetensors", variables, header)
  with pytest.raises(WeightsError, match=r"x.safetensors: NaN or infinite values in params.fc3.kernel"):
    loading.load(tmp_path / "x.safetensors")


def test_half_precision_is_exact_and_rounding_of_double_is_said(tmp_path, published):
  half = {name: array.astype(np.float16) for name, array in published.items()}
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    network = loading.load(write_arrays(tmp_path / "half.pth", half))
    save_file({n: a.astype(ml_dtypes.bfloat16) for n, a in published.items()}, tmp_path / "brain.safetensors")
    loading.load(tmp_path / "brain.safetensors")
  assert network.params["fc1"]["kernel"].dtype == np.float32
  double = {name: array.astype(np.float64) + 1e-12 for name, array in published.items()}
  with pytest.warns(UserWarning, match=r"double.pth: stored in float64, rounded to float32: conv0_1"):
    loading.load(write_arrays(tmp_path / "double.pth", double))


def test_a_quantised_network_is_refused_by_name(tmp_path, published):
  arrays = published | {"fc1.weight": np.zeros(published["fc1.weight"].shape, np.int64)}
  with pytest.raises(WeightsError, match=r"x.pth: weights that are whole numbers: fc1.weight \(int64\)"):
    loading.load(write_arrays(tmp_path / "x.pth", arrays))
