"""Painting on an accelerator, its branch taken on the CPU that is here, against painting as on a CPU."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sam_weights import tiny_network

from medlsam_jax import platform
from medlsam_jax.errors import DeviceError, InputError
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.sam import device_painting, device_propagation
from medlsam_jax.sam.device_painting import lay
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam.propagation import PropagationSettings
from medlsam_jax.sam.segmentation_settings import LITEMEDSAM
from medlsam_jax.sam.sliced_scan import SlicedScan
from medlsam_jax.sam.slices import ImageFit, scaled_levels
from medlsam_jax.sam.volume import paint_volume

BOXES = {
  "left": [Box((0, 4, 3), (6, 30, 22))],
  "right": [Box((1, 6, 16), (5, 28, 40))],
  "small": [Box((4, 8, 10), (4, 14, 20))],
}
VALUES = {"left": 3, "right": 7, "small": 200}


def scan(shape=(7, 36, 50), seed=0):
  rng = np.random.default_rng(seed)
  z, y, x = np.meshgrid(*map(np.arange, shape), indexing="ij")
  array = 80 * np.sin(x / 5) + 60 * np.cos(y / 7 + z) + rng.normal(0, 10, shape)
  array[2] = 40  # of one grey
  return Volume(array.astype(np.float32), Grid(shape, np.diag([-2.0, -2.0, 3.0, 1.0])), "scan.nii.gz")


@pytest.fixture(scope="module")
def predictor():
  return Predictor(tiny_network(), encode_batch=3)


@pytest.fixture
def on_device(monkeypatch):
  monkeypatch.setattr(platform, "slices_together", lambda: True)


def test_slices_are_painted_as_on_a_cpu(predictor, monkeypatch):
  on_cpu = paint_volume(scan(), BOXES, VALUES, predictor)
  monkeypatch.setattr(platform, "slices_together", lambda: True)
  seen = []
  painted = paint_volume(scan(), BOXES, VALUES, predictor, progress=lambda done, of: seen.append((done, of)))
  assert painted.dtype == on_cpu.dtype == np.uint8
  assert {3, 7} <= set(np.unique(on_cpu)) and not painted[2].any()
  assert np.mean(painted != on_cpu) < 1e-4
  assert seen == [(3, 7), (6, 7), (7, 7)]


class Counted:
  """NumPy, as a module sees it that fetches arrays from the device."""

  def __init__(self, tell):
    self.tell = tell

  def __getattr__(self, name):
    return getattr(np, name)

  def asarray(self, array):
    self.tell(array)
    return np.asarray(array)


def test_one_array_of_labels_comes_back_for_each_batch(predictor, on_device, monkeypatch):
  fetched = []
  counted = Counted(lambda array: fetched.append((type(array), array.dtype, array.shape)))
  monkeypatch.setattr(device_painting, "np", counted)
  paint_volume(scan(), BOXES, VALUES, predictor)
  (kind,) = {kind for kind, _, _ in fetched}
  assert issubclass(kind, jax.Array)
  assert [rest for _, *rest in fetched] == [[np.uint8, (3, 128, 128)]] * 3


def test_a_scan_of_about_the_same_size_compiles_nothing(predictor, on_device, compilations):
  paint_volume(scan(), BOXES, VALUES, predictor)
  before = compilations.count
  paint_volume(scan((9, 30, 61), 1), BOXES, VALUES, predictor)
  assert compilations.count == before
  paint_volume(scan((7, 130, 61), 1), BOXES, VALUES, predictor)
  assert compilations.count > before


def test_more_boxes_than_a_run_takes_lose_none(predictor, on_device, monkeypatch):
  whole = paint_volume(scan(), BOXES, VALUES, predictor)
  monkeypatch.setattr(device_painting, "BOXES_AT_ONCE", 4)
  assert np.mean(paint_volume(scan(), BOXES, VALUES, predictor) != whole) < 1e-4


def test_a_scan_with_a_hole_is_refused(predictor, on_device):
  broken = scan()
  broken.array[3, 1, 1] = np.nan
  with pytest.raises(InputError, match="slice 3"):
    paint_volume(broken, BOXES, VALUES, predictor)


def test_the_largest_logit_wins_and_the_earlier_one_where_two_are_equal():
  logits = np.full((5, 2, 2), -1.0, np.float32)
  logits[0, 0], logits[1, 0, 0], logits[2, 0], logits[3] = 2, 3, 2, 9
  places, values = np.array([0, 0, 0, 1, 2]), np.array([1, 2, 3, 4, 5], np.uint8)
  state = jnp.zeros((2, 2, 2)), jnp.zeros((2, 2, 2), jnp.uint8)
  best, labels = lay(*state, logits, places, values, np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
  assert labels.tolist() == [[[2, 1], [0, 0]], [[4, 4], [4, 4]]]
  assert best[0].tolist() == [[3, 2], [0, 0]]
  logits[4] = 99  # its place is beyond the slices
  state = jnp.zeros((2, 2, 2)), jnp.zeros((2, 2, 2), jnp.uint8)
  assert (lay(*state, logits, places, values, *[np.eye(2, dtype=np.float32)] * 2)[1] == labels).all()


LED = PropagationSettings("middle-out")


@pytest.mark.parametrize("rounding", ["down", "nearest"])
@pytest.mark.parametrize("at_once", [1, 16])
def test_masks_lead_on_to_the_next_slice_as_on_a_cpu(predictor, monkeypatch, rounding, at_once):
  settings = dataclasses.replace(LITEMEDSAM, rounding=rounding)
  on_cpu = paint_volume(scan(), BOXES, VALUES, predictor, settings, LED)
  plain = paint_volume(scan(), BOXES, VALUES, predictor, settings)
  monkeypatch.setattr(platform, "slices_together", lambda: True)
  monkeypatch.setattr(device_propagation, "BOX_COUNTS", (1, 4, 16)[: 1 if at_once == 1 else 3])
  painted = paint_volume(scan(), BOXES, VALUES, predictor, settings, LED)
  assert {3, 7} <= set(np.unique(on_cpu)) and np.mean(plain != on_cpu) > 0.01
  assert np.mean(painted != on_cpu) < 1e-4


@pytest.mark.parametrize("rounding", ["down", "nearest"])
@pytest.mark.parametrize("scaling", ["pad", "stretch"])
def test_a_box_is_widened_on_the_device_as_on_the_host(predictor, rounding, scaling):
  sliced = SlicedScan(scan(), "LPS", predictor, dataclasses.replace(LITEMEDSAM, rounding=rounding, scaling=scaling))
  low = np.random.default_rng(0).integers(0, (49, 35), (50, 2))
  high = np.minimum(low + np.random.default_rng(1).integers(1, 30, (50, 2)), (50, 36))
  edges = np.concatenate([low, high], 1)
  sweep = device_propagation.DeviceSweep(sliced, np.zeros((7, 36, 50), np.uint8), [], 3.0)
  np.testing.assert_allclose(sweep._widened(jnp.asarray(edges)), sliced.prompts(edges.astype(float), 3.0), atol=1e-4)


def test_an_empty_mask_is_followed_by_the_first_box_and_the_middle_leads_both_ways():
  first, before = jnp.full((3, 4), 1.0), jnp.full((3, 4), 2.0)
  lead = device_propagation.Lead(first, before, first)
  rows, boxes = np.array([2, 0, 3, 3], np.int32), jnp.full((4, 4), 5.0)
  led = device_propagation._led_on(lead, rows, np.array([1, 0, 1, 0], bool), boxes, np.array([0, 1, 0, 0], bool))
  assert led.following[:, 0].tolist() == [1, 2, 5]
  assert led.after_middle[:, 0].tolist() == [1, 1, 5]


def test_nothing_is_waited_for_before_the_last_slice(predictor, on_device, monkeypatch):
  seen, ask = [], device_propagation.DeviceSweep._ask
  monkeypatch.setattr(device_propagation, "np", Counted(lambda array: seen.append(array.shape)))
  monkeypatch.setattr(device_propagation.DeviceSweep, "_ask", lambda *given: seen.append("asked") or ask(*given))
  monkeypatch.setattr(predictor, "decode", None)  # masks on the host
  paint_volume(scan(), BOXES, VALUES, predictor, propagation=LED)
  assert seen == ["asked"] * (len(seen) - 6) + [(128, 128)] * 6 and len(seen) >= 12


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_after_a_rehearsal_painting_compiles_only_what_depends_on_the_scan(on_device, dtype):
  fresh = Predictor(tiny_network(), jnp.dtype(dtype), encode_batch=3)
  device_painting.rehearse(fresh).wait()
  assert fresh.compilations() == 2
  paint_volume(scan(), BOXES, VALUES, fresh)
  assert fresh.compilations() == 2


def test_on_a_cpu_nothing_is_rehearsed():
  fresh = Predictor(tiny_network())
  device_painting.rehearse(fresh).wait()
  assert fresh.compilations() == 0


@pytest.fixture
def memory(monkeypatch):
  """A predictor of batches of 12 on a device whose memory suffices for so many images at once as the result says."""
  predictor, allowed = Predictor(tiny_network(), encode_batch=12), {"images": 12, "batches": []}

  def limited(program):
    def call(variables, images, *given):
      allowed["batches"].append(len(images))
      if len(images) > allowed["images"]:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 bytes.")
      return program(variables, images, *given)

    return call

  for name in ("_encode", "_encode_levels"):
    monkeypatch.setattr(predictor, name, limited(getattr(predictor, name)))
  return predictor, allowed


def test_with_little_memory_the_same_is_painted_in_smaller_batches(memory, predictor, on_device):
  whole = paint_volume(scan(), BOXES, VALUES, predictor)
  scarce, allowed = memory
  allowed["images"] = 3
  with pytest.warns(UserWarning) as said:
    painted = paint_volume(scan(), BOXES, VALUES, scarce)
  assert [re.sub(r"\D+", " ", str(each.message).split("full")[1]) for each in said] == [" 6 12", " 3 6"]
  assert allowed["batches"] == [12, 6, 3, 3, 3] and np.mean(painted != whole) < 1e-4


def test_images_are_encoded_in_smaller_batches_too_and_nothing_fits_is_an_error(memory):
  scarce, allowed = memory
  images = np.random.default_rng(0).random((5, *(scarce.image_size,) * 2, 3), np.float32)
  ample = scarce.encode(images)
  allowed["images"] = 3
  with pytest.warns(UserWarning):
    encoded = scarce.encode(images)
  np.testing.assert_allclose(np.stack(encoded), np.stack(ample), atol=1e-5)
  allowed["images"] = 0
  with pytest.warns(UserWarning), pytest.raises(DeviceError, match="images going there singly already"):
    scarce.encode(images)


@pytest.mark.parametrize("pixels", ["unit", "imagenet"])
@pytest.mark.parametrize("scaling", ["pad", "stretch"])
@pytest.mark.parametrize("resampling", ["area", "bilinear", "cubic"])
def test_an_image_scaled_on_the_device_is_the_one_scaled_here(pixels, scaling, resampling):
  grey = np.random.default_rng(0).integers(20, 220, (30, 50)).astype(np.uint8)
  fit = ImageFit(30, 50, 40, scaling, resampling)
  made = scaled_levels(jnp.asarray(fit.to_levels(grey))[None], np.array(fit.fitted, np.int32), pixels)
  np.testing.assert_allclose(made[0], fit.to_image(grey, pixels), atol=1e-6)


@pytest.mark.parametrize("device", [False, True])
def test_bfloat16_operands_paint_on_a_cpu_too(device, monkeypatch):
  """On some processors XLA has no batched product of them."""
  monkeypatch.setattr(platform, "slices_together", lambda: device)
  exact = paint_volume(scan(), BOXES, VALUES, Predictor(tiny_network(), encode_batch=3))
  rough = paint_volume(scan(), BOXES, VALUES, Predictor(tiny_network(), jnp.bfloat16, encode_batch=3))
  assert 0 < np.mean(exact != rough) < 0.05
