"""Banks keep a picture and a mask of an organ in each template, through files and subsets; damaged ones are refused."""

import dataclasses

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from medlsam_jax.cli.provenance import bank_sha256
from medlsam_jax.errors import TemplateError
from medlsam_jax.medlam.bank.bank import Bank

SIX = [[8, 9, 6], [4, 9, 9], [8, 9, 5], [11, 9, 9], [8, 14, 9], [8, 9, 17]]


@pytest.fixture(scope="module")
def bank(network, make_template):
  masked = make_template("a", liver=((6, 6, 6), (12, 13, 14)))
  pointed = make_template("b", seed=1, points={"liver": SIX})
  return Bank.build(network, [masked, pointed], "WPL")


def test_an_organ_given_by_points_has_no_mask(bank):
  first, second = bank.organs["liver"].crops
  assert second is None
  low, high = np.rint(first.edges).astype(int)
  assert (high - low).tolist() == [7, 8, 9]
  assert (first.mask > 127).sum() == 7 * 8 * 9 and first.step_mm.tolist() == [3, 3, 3]
  inside = first.image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
  assert inside.mean() > first.image[first.image > 0].mean() + 10  # it is brighter than what is around
  assert list(bank.crops) == ["liver"] and len(bank.crops["liver"]) == 1


def test_crops_come_back_from_the_file(bank, tmp_path):
  bank.save(tmp_path / "bank.safetensors")
  read = Bank.load(tmp_path / "bank.safetensors")
  mine, theirs = bank.organs["liver"].crops[0], read.organs["liver"].crops[0]
  assert all(np.array_equal(getattr(mine, f.name), getattr(theirs, f.name)) for f in dataclasses.fields(mine))
  assert read.organs["liver"].crops[1] is None
  assert bank_sha256(read) == bank_sha256(bank)


def test_masks_belong_to_what_a_bank_is(bank):
  organ = bank.organs["liver"]
  other = dataclasses.replace(organ.crops[0], mask=255 - organ.crops[0].mask)
  changed = dataclasses.replace(bank, organs={"liver": dataclasses.replace(organ, crops=(other, None))})
  assert bank_sha256(changed) != bank_sha256(bank)


def test_a_template_left_out_takes_its_mask_along(bank):
  assert bank.without("a").crops == {}
  assert bank.without("b").organs["liver"].crops == (bank.organs["liver"].crops[0],)


@pytest.mark.parametrize(
  "spoil",
  [
    {"mask": np.zeros((2, 2, 2), np.uint8)},
    {"image": np.zeros((3, 3, 3), np.float32), "mask": np.zeros((3, 3, 3), np.uint8)},
    {"edges": np.array([[5, 5, 5], [1, 9, 9]], np.float32)},
    {"step_mm": np.array([3, 0, 3], np.float32)},
  ],
)
def test_damaged_crops_are_refused(bank, tmp_path, spoil):
  path = tmp_path / "bank.safetensors"
  bank.save(path)
  with safe_open(path, framework="numpy") as file:
    header = file.metadata()
  save_file(load_file(path) | {f"0.crop.0.{name}": array for name, array in spoil.items()}, path, metadata=header)
  with pytest.raises(TemplateError, match="damaged template bank"):
    Bank.load(path)
