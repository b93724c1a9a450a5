"""Banks that were damaged, or made by hand: refused by name before a search reads them."""

import dataclasses
import json

import numpy as np
import pytest

from medlsam_jax.errors import TemplateError
from medlsam_jax.localization import bank_file
from medlsam_jax.localization.bank import Bank, OrganBank


def organ(name="liver", value=5, templates=("a", "b"), points=6, **changes):
  generator = np.random.default_rng(0)
  shape = (len(templates), points)
  made = OrganBank(
    name,
    value,
    "WPL",
    tuple(templates),
    np.arange(6, dtype=np.int32)[None],
    generator.random((*shape, 3), dtype=np.float32),
    {stride: generator.random((*shape, *(8 // stride,) * 3, 4), dtype=np.float32) for stride in (4, 2)},
  )
  return dataclasses.replace(made, **changes)


def saved(path, *organs):
  bank = Bank("0" * 64, "WPL", 12.0, "published", {o.organ: o for o in organs}, {"jax": "1"})
  bank.save(path)
  return path


def spoilt(array, place, number):
  array = array.copy()
  array[place] = number
  return array


GOOD = organ()


def test_a_good_bank_is_read(tmp_path):
  path = saved(tmp_path / "b.safetensors", GOOD, organ("kidney", 6, ("b",)))
  assert [row["organ"] for row in Bank.load(path).info()] == ["liver", "kidney"]


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"templates": ("a",)}, r"liver: positions of shape \(2, 6, 3\) for 1 templates"),
    ({"templates": ()}, r"'liver' is of the templates \[\]"),
    ({"templates": ("a", "a")}, "is of the templates"),
    ({"positions": GOOD.positions[:, :, :2]}, "positions of shape"),
    ({"positions": GOOD.positions[:, :4]}, "faces from 0 to 5 of 4 points"),
    ({"positions": spoilt(GOOD.positions, (1, 2, 0), np.nan)}, "liver: positions with NaN"),
    ({"faces": spoilt(GOOD.faces, (0, 2), -1)}, "faces from -1 to 5"),
    ({"faces": GOOD.faces[0]}, "faces of shape"),
    ({"faces": GOOD.faces[:0]}, "faces of shape"),
    ({"features": {4: GOOD.features[4][:1]}}, r"features of shape \(1, 6, 2, 2, 2, 4\) at stride 4"),
    ({"features": {4: GOOD.features[4][:, :, :1]}}, "features of shape"),
    ({"features": {2: spoilt(GOOD.features[2], 0, np.inf)}}, "liver: features.2 with NaN or infinite"),
    ({"features": {0: GOOD.features[4]}}, "at stride 0"),
    ({"value": 0}, "liver: label value 0"),
    ({"value": 2.5}, "liver: label value 2.5"),
    ({"mode": "XPL"}, "'XPL' is none of"),
  ],
)
def test_an_organ_whose_arrays_do_not_go_together_is_refused_by_name(tmp_path, changes, words):
  path = saved(tmp_path / "b.safetensors", dataclasses.replace(GOOD, **changes))
  with pytest.raises(TemplateError, match=rf"b\.safetensors: a damaged template bank .*{words}"):
    Bank.load(path)


@pytest.mark.parametrize(
  ("other", "words"),
  [
    (organ("kidney", 6, features={4: GOOD.features[4]}), "different scales and sizes"),
    (organ("kidney", 6, features={s: v[..., :2] for s, v in GOOD.features.items()}), "different scales and sizes"),
  ],
)
def test_organs_that_do_not_go_together_are_refused(tmp_path, other, words):
  with pytest.raises(TemplateError, match=rf"damaged template bank .*{words}"):
    Bank.load(saved(tmp_path / "b.safetensors", GOOD, other))


@pytest.mark.parametrize("rows", ["{", "3", "[3]", "[[]]", '[{"organ": ["x"]}]', "[" * 100_000, '{"organ": 1}'])
def test_a_header_that_lists_no_organs_is_refused(tmp_path, rows):
  header = {"network_sha256": "0", "mode": "WPL", "interval_mm": "12", "convention": "published", "versions": "{}"}
  bank_file.write(tmp_path / "b.safetensors", {"0.faces": GOOD.faces}, header | {"organs": rows})
  with pytest.raises(TemplateError, match="damaged template bank"):
    Bank.load(tmp_path / "b.safetensors")


def test_one_organ_listed_twice_is_refused(tmp_path):
  tensors = {f"{n}.{name}": array for n in (0, 1) for name, array in GOOD.arrays().items()}
  row = {"organ": "liver", "value": 5, "mode": "WPL", "templates": ["a", "b"]}
  header = {"network_sha256": "0", "mode": "WPL", "interval_mm": "12", "convention": "published", "versions": "{}"}
  bank_file.write(tmp_path / "b.safetensors", tensors, header | {"organs": json.dumps([row, row])})
  with pytest.raises(TemplateError, match="2 organs of 1 names"):
    Bank.load(tmp_path / "b.safetensors")
