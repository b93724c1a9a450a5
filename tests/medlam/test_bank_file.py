"""Banks that were damaged, or made by hand: refused by name before a search reads them."""

import json

import numpy as np
import pytest

from medlsam_jax.errors import TemplateError
from medlsam_jax.medlam.bank import bank_file
from medlsam_jax.medlam.bank.bank import Bank

HEADER = {"network_sha256": "0", "mode": "WPL", "interval_mm": "12", "convention": "published", "versions": "{}"}


def organ(name="liver", value=5, templates=("a", "b"), points=6):
  """What a file says of an organ: its row in the header, and its arrays."""
  generator = np.random.default_rng(0)
  shape = (len(templates), points)
  arrays = {f"features.{s}": generator.random((*shape, *(8 // s,) * 3, 4), dtype=np.float32) for s in (4, 2)}
  arrays |= {"faces": np.arange(6, dtype=np.int32)[None], "positions": generator.random((*shape, 3), dtype=np.float32)}
  return {"organ": name, "value": value, "mode": "WPL", "templates": list(templates)}, arrays


def saved(path, *organs):
  tensors = {f"{n}.{name}": array for n, (_, arrays) in enumerate(organs) for name, array in arrays.items()}
  bank_file.write(path, tensors, HEADER | {"organs": json.dumps([row for row, _ in organs])})
  return path


def spoilt(array, place, number):
  array = array.copy()
  array[place] = number
  return array


ROW, GOOD = organ()


def test_a_good_bank_is_read(tmp_path):
  path = saved(tmp_path / "b.safetensors", (ROW, GOOD), organ("kidney", 6, ("b",)))
  assert [row["organ"] for row in Bank.load(path).info()] == ["liver", "kidney"]


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"templates": ["a"]}, r"liver: positions of shape \(2, 6, 3\) for 1 templates"),
    ({"templates": []}, r"'liver' is of the templates \[\]"),
    ({"templates": ["a", "a"]}, "is of the templates"),
    ({"positions": GOOD["positions"][:, :, :2]}, "positions of shape"),
    ({"positions": GOOD["positions"][:, :4]}, "faces from 0 to 5 of 4 points"),
    ({"positions": spoilt(GOOD["positions"], (1, 2, 0), np.nan)}, "liver: positions with NaN"),
    ({"faces": spoilt(GOOD["faces"], (0, 2), -1)}, "faces from -1 to 5"),
    ({"faces": GOOD["faces"][0]}, "faces of shape"),
    ({"faces": GOOD["faces"][:0]}, "faces of shape"),
    ({"features.4": GOOD["features.4"][:1]}, r"features of shape \(1, 6, 2, 2, 2, 4\) at stride 4"),
    ({"features.4": GOOD["features.4"][:, :, :1]}, "features of shape"),
    ({"features.2": spoilt(GOOD["features.2"], 0, np.inf)}, "liver: features.2 with NaN or infinite"),
    ({"places": np.zeros((2, 5, 3), np.int32)}, r"liver: places of shape \(2, 5, 3\)"),
    ({"places": np.zeros((2, 6, 3), np.float32)}, "liver: places of .* type float32"),
    ({"features.0": GOOD["features.4"]}, "at stride 0"),
    ({"value": 0}, "liver: label value 0"),
    ({"value": 2.5}, "liver: label value 2.5"),
    ({"mode": "XPL"}, "'XPL' is none of"),
  ],
)
def test_an_organ_whose_arrays_do_not_go_together_is_refused_by_name(tmp_path, changes, words):
  row = ROW | {key: value for key, value in changes.items() if key in ROW}
  arrays = GOOD | {key: value for key, value in changes.items() if key not in ROW}
  path = saved(tmp_path / "b.safetensors", (row, arrays))
  with pytest.raises(TemplateError, match=rf"b\.safetensors: a damaged template bank .*{words}"):
    Bank.load(path)


@pytest.mark.parametrize(
  "change", [{}, {name: array[..., :2] for name, array in GOOD.items() if name.startswith("features")}]
)
def test_organs_that_do_not_go_together_are_refused(tmp_path, change):
  row, arrays = organ("kidney", 6)
  other = arrays | change if change else {name: array for name, array in arrays.items() if name != "features.2"}
  with pytest.raises(TemplateError, match=r"damaged template bank .*different scales and sizes"):
    Bank.load(saved(tmp_path / "b.safetensors", (ROW, GOOD), (row, other)))


@pytest.mark.parametrize("rows", ["{", "3", "[3]", "[[]]", '[{"organ": ["x"]}]', "[" * 100_000, '{"organ": 1}'])
def test_a_header_that_lists_no_organs_is_refused(tmp_path, rows):
  bank_file.write(tmp_path / "b.safetensors", {"0.faces": GOOD["faces"]}, HEADER | {"organs": rows})
  with pytest.raises(TemplateError, match="damaged template bank"):
    Bank.load(tmp_path / "b.safetensors")


def test_one_organ_listed_twice_is_refused(tmp_path):
  with pytest.raises(TemplateError, match="2 organs of 1 names"):
    Bank.load(saved(tmp_path / "b.safetensors", (ROW, GOOD), (ROW, GOOD)))
