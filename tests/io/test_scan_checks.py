"""Made-up bodies: air, a cylinder of fat with muscle, lung and bone in it, with the noise of a scanner."""

import dataclasses

import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.io import scan_checks

SHAPE = (40, 48, 56)
RNG = np.random.default_rng(7)


def body():
  _, y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j, -1 : 1 : SHAPE[2] * 1j]
  radius = np.hypot(y, x)
  hu = np.select(
    [radius < 0.1, np.hypot(y, x - 0.35) < 0.2, np.hypot(y + 0.4, x) < 0.1, radius < 0.6, radius < 0.75],
    [250, -850, 700, 55, -100],
    -1000,
  )
  return np.maximum(np.rint(hu + RNG.normal(0, 15, SHAPE)), -1024).astype(np.float32), radius


BODY, RADIUS = body()


def volume(array, spacing=3.0):
  array = np.asarray(array)
  return Volume(array, Grid(array.shape, np.diag([spacing, spacing, spacing, 1.0])), "x.nii")


def doubts(array):
  return scan_checks.doubts_of(volume(array))


@pytest.mark.parametrize(
  "array",
  [
    BODY,
    np.where(RADIUS > 1, -3024, BODY),
    np.where(RADIUS > 1, -32768, BODY),
    np.where(RADIUS > 0.75, -1000, BODY),
    np.where(RADIUS < 0.1, 350, BODY),
    BODY[:, 10:38, 12:44],
    BODY.astype(np.int16),
    BODY + RNG.normal(0, 50, SHAPE),
    np.maximum(BODY, -850),
    RNG.normal(35, 8, SHAPE),
  ],
  ids=["body", "circle", "lowest", "masked", "contrast", "crop", "integers", "noisy", "cone beam", "brain"],
)
def test_ct_is_not_doubted(array):
  assert doubts(array) == ()


@pytest.mark.parametrize("offset", [1024, 1000, -1024, -1000, 2048, 8192, 32768])
@pytest.mark.parametrize("padding", [None, -2000, 0])
def test_values_beside_hounsfield_units_name_the_offset(offset, padding):
  stored = BODY + offset
  if padding is not None:
    stored = np.where(RADIUS > 1, padding, stored)
  (doubt,) = doubts(stored)
  nearest = {1000: 1024, -1000: -1024}.get(offset, offset)
  assert f"--hu-offset {-nearest}," in doubt and f"hu_offset={-nearest}" in doubt
  assert "intercept" in doubt
  back = np.where(stored == padding, stored, stored - offset)
  assert doubts(back) == () or padding == 0


@pytest.mark.parametrize(
  ("array", "words"),
  [
    (np.clip(BODY, -1000, 1000) / 2000 + 0.5, "normalised, or a label map"),
    (np.rint((np.clip(BODY, -160, 240) + 160) / 400 * 255), "8 bits"),
    (np.clip(BODY, -160, 240), "exactly -160; a CT that was cut off"),
    (np.where(RADIUS > 0.75, 0, BODY), "exactly 0; a CT that was cut off, masked"),
    (BODY * 0.5, "slope left out"),
    (BODY * 2, "lighter than air"),
    (-BODY, "were they inverted"),
    ((BODY - BODY.mean()) / BODY.std(), "normalised"),
    (np.abs(RNG.normal(0, 20, SHAPE)) + np.interp(BODY, [-900, -100, 50, 700], [0, 900, 400, 50]), "an MR or PET"),
    (np.where(RADIUS < 0.75, RNG.gamma(1, 2000, SHAPE), 0), "an MR or PET"),
    ((RADIUS < 0.5).astype(np.uint8) * 7, "a label map"),
    (np.where(RADIUS < 0.75, np.rint(RADIUS * 80), 0).astype(np.uint8), "8 bits, or a label map"),
    (np.full(SHAPE, -1000.0), "nothing to see"),
  ],
  ids=[
    "0..1",
    "8 bits",
    "window",
    "mask",
    "half",
    "double",
    "inverted",
    "z score",
    "MR",
    "PET",
    "labels",
    "many labels",
    "constant",
  ],
)
def test_what_is_no_ct_is_doubted(array, words):
  (doubt,) = doubts(array)
  assert doubt.startswith("x.nii: values from ") and words in doubt


def test_half_a_scanners_circle_of_another_shape_hides_nothing():
  """The lowest value, by which scans were judged before, is the padding's here."""
  stored = np.where(RADIUS > 0.9, -2000, BODY + 1024)
  assert stored.min() < -1024
  assert "--hu-offset -1024" in doubts(stored)[0]


def test_offset_shows_in_a_small_scan_too():
  small = BODY[::3, ::3, ::3]
  assert 4000 <= small.size < 20_000 and doubts(small) == ()
  for offset in (1024, -1024):
    assert f"--hu-offset {-offset}," in doubts(np.where(RADIUS[::3, ::3, ::3] > 1, -3000, small + offset))[0]


def test_too_few_voxels_are_doubted_by_their_sign_alone():
  tissue = RNG.uniform(900, 1100, (8, 9, 10))
  assert "do not look like CT" in doubts(tissue)[0]
  tissue[0] = -2000
  assert doubts(tissue) == ()


@pytest.mark.parametrize(("axis", "words"), [(0, "z only (feet to head)"), (1, "y only (back to front)")])
def test_thin_slab_is_a_doubt(axis, words):
  thin = np.take(BODY, range(20), axis)
  (doubt,) = scan_checks.doubts_of(volume(thin, 2.0 + 0.0))[:1]
  assert f"covers 40 mm along {words}" in doubt


def test_doubts_are_warned_once_and_kept():
  with pytest.warns(UserWarning) as told:
    judged = scan_checks.check_scan(volume(BODY + 1024))
  assert [str(each.message) for each in told] == list(judged.doubts) and len(judged.doubts) == 1
  assert scan_checks.check_scan(judged) is judged


@pytest.mark.filterwarnings("error")
def test_judged_scan_is_not_judged_again():
  wrong = dataclasses.replace(volume(BODY + 1024), judged=True)
  assert scan_checks.check_scan(wrong).doubts == ()


def test_nan_around_the_scan_is_air():
  half = BODY.copy()
  half[:15] = np.nan
  half[:, RADIUS[0] > 1.2] = np.nan
  with pytest.warns(UserWarning, match=r"voxels around the scan are NaN; taken as air"):
    mended = scan_checks.check_scan(volume(half))
  assert (mended.array[:15] == -1000).all() and np.array_equal(mended.array[20, 20], BODY[20, 20])
  assert len(mended.notes) == 1 and mended.doubts == ()
  assert np.isnan(half[0]).all()


def test_nan_within_the_scan_is_refused():
  holed = BODY.copy()
  holed[5:25, 20:30, 20:40] = np.nan
  with pytest.raises(InputError, match=r"x.nii: 4000 NaN"):
    scan_checks.check_scan(volume(holed))
  holed[0:6, 20:30, 20:40] = np.nan
  with pytest.warns(UserWarning, match="taken as air"):
    scan_checks.check_scan(volume(holed))
  with pytest.raises(InputError, match="NaN"):
    scan_checks.check_scan(volume(np.full(SHAPE, np.nan)))
  single = BODY.copy()
  single[0, 0, 0] = np.nan
  with pytest.raises(InputError, match="1 NaN"):
    scan_checks.check_scan(volume(single))
