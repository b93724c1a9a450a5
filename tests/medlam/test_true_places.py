"""The truth that losses are given: views cut from scans whose intensity is the place of each voxel.

Intensity is affine in one coordinate, so that linear interpolation keeps it exact, and every voxel of every view tells
that coordinate of the place it really shows. The network is a stand-in that answers with what it sees.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax.medlam.network.medlam import MedLAMOutput
from medlsam_jax.medlam.objectives import view_points
from medlsam_jax.medlam.objectives.contract import Views
from medlsam_jax.medlam.pretraining import crop_batches, crops, step
from medlsam_jax.medlam.pretraining.settings import PretrainSettings
from medlsam_jax.train import loading
from medlsam_jax.typed_settings import from_mapping

EDGE, STRIDES = 16, (4, 2, 1)
SHAPE, SCANS, PATCHES, DENSE = (66, 72, 78), 3, 3, 2
LOW, PER_VOXEL = 0.2, 0.01
"""Intensity at coordinate 0, above that of air, and its rise."""
QUICK = {"xla_backend_optimization_level": 0}
CLOSE_MM = 0.03
"""What float32 leaves of a place that was an intensity."""


def coded_mm(intensity):
  """The coordinate that a voxel shows."""
  return (np.asarray(intensity, float) - LOW) / PER_VOXEL * 3


def coded_scan(axis):
  values = np.moveaxis(np.broadcast_to(np.arange(SHAPE[axis]), [*np.delete(SHAPE, axis), SHAPE[axis]]), -1, axis)
  return crops.TrainingScan.of(f"axis {axis}", (LOW + PER_VOXEL * values).astype(np.float32))


class WhatItSees:
  """Answers with the intensity of the middle voxel, and with the mean intensity of each cell as its feature."""

  def apply(self, variables, patches, *, feature_scales, featured, train, rngs):
    middle = patches[:, EDGE // 2, EDGE // 2, EDGE // 2]
    kept = patches.reshape(-1, featured[1], *patches.shape[1:])[:, : featured[0]]

    def cells(stride):
      n = EDGE // stride
      return kept.reshape(-1, n, stride, n, stride, n, stride, 1).mean((2, 4, 6))

    return MedLAMOutput(jnp.repeat(middle, 3, -1), {s: cells(s) for s in feature_scales}, None)


def settings(position_views):
  return from_mapping(
    PretrainSettings,
    {
      "network": {"patch_edge": EDGE},
      "data": {"scans_per_step": SCANS, "patches_per_scan": PATCHES, "dense_patches": DENSE,
               "position_views": position_views},
      # every voxel is moved, none is recoloured
      "augment": {"intensity_probability": 0.0, "noise_probability": 0.0, "affine_probability": 1.0,
                  "elastic_probability": 1.0, "locked_layers": 0, "control_points": 6},
    },
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Recorder:
  """An objective that keeps what it is given."""

  name = "recorder"

  def loss(self, views, _):
    return jnp.zeros(()), {
      name: getattr(views, name) for name in views._fields if name not in ("network", "heads", "key")
    }


@pytest.fixture(scope="module", params=["plain", "both"])
def seen(request):
  """How positions are chosen, what objectives received in each of the three codings, and the batch of the last."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(step, "make_module", lambda _: WhatItSees())
    terms, chosen = [step.Term(Recorder(), 1.0, None, {})], settings(request.param)
    loss = jax.jit(lambda b, key: step._loss(chosen, terms, None, {}, b, key)[1], compiler_options=QUICK)
    received = []
    for axis in range(3):
      plan = crop_batches.Plan(seed=5, groups=SCANS, patches=PATCHES, edge=chosen.network.cube_edge)
      source = crop_batches.CropBatches([loading.InMemory((coded_scan(axis),), 1.0)], plan, range(SCANS), 9)
      batch = source[7]
      received.append(jax.device_get(loss(batch, jax.random.key(11))))
  return request.param, received, batch


def shown_mm(received, field):
  """Place `(..., 3)` that each value of an image, of head outputs or of a feature volume stands for."""
  return np.stack([coded_mm(field(one)) for one in received], -1)


def inside(places_mm, batch):
  """Where a place lies within the scan and within the cube that it was cut from; air lies beyond."""
  voxels, first = places_mm / 3, batch.origins_mm[:, :DENSE, None, None, None] / 3
  last = np.minimum(np.array(SHAPE) - 1, first + batch.cubes.shape[-1] - 1)
  return ((voxels >= np.maximum(first, 0)) & (voxels <= last)).all(-1)


def lattice_mm():
  return 3.0 * np.moveaxis(np.indices((EDGE,) * 3), 0, -1)


def test_plain_views_show_the_places_that_are_stated(seen):
  _, received, batch = seen
  stated = received[0]["plain_origin_mm"][:, :, None, None, None] + lattice_mm()
  known = inside(stated, batch)
  assert known.mean() > 0.5
  np.testing.assert_allclose(shown_mm(received, lambda r: r["plain"])[known], stated[known], atol=CLOSE_MM)


def test_a_scans_patches_share_one_offset_and_scans_do_not(seen):
  _, received, batch = seen
  offsets = (received[0]["plain_origin_mm"] - batch.origins_mm[:, :DENSE]) / 3
  np.testing.assert_allclose(offsets, offsets[:, :1].repeat(DENSE, 1), atol=1e-4)
  np.testing.assert_allclose(offsets, offsets.round(), atol=1e-4)
  assert len(np.unique(offsets[:, 0].round(), axis=0)) == SCANS
  assert offsets.min() > -1e-4 and offsets.max() < batch.cubes.shape[-1] - EDGE + 1e-4


def test_augmented_views_show_the_places_that_are_stated_though_turned_stretched_and_bent(seen):
  _, received, batch = seen
  stated = received[0]["augmented_mm"]
  known = inside(stated, batch)
  assert known.mean() > 0.5
  np.testing.assert_allclose(shown_mm(received, lambda r: r["augmented"])[known], stated[known], atol=CLOSE_MM)
  steps = np.diff(stated, axis=2) / 3
  assert np.abs(steps - [1, 0, 0]).max() > 0.05 and np.ptp(steps[..., 0]) > 0.01


def test_augmented_views_lie_around_the_middle_of_the_cube_of_their_own_patch(seen):
  _, received, batch = seen
  centre = received[0]["augmented_mm"].mean((2, 3, 4))
  middle = batch.origins_mm[:, :DENSE] + 3 * (batch.cubes.shape[-1] - 1) / 2
  assert np.abs(centre - middle).max() < 3 * settings("both").augment.displacement_vox


def test_head_outputs_belong_to_the_views_whose_centres_are_stated(seen):
  views, received, _ = seen
  stated = received[0]["centres_mm"]
  assert stated.shape == (SCANS, DENSE + PATCHES if views == "both" else PATCHES, 3)
  shown = shown_mm(received, lambda r: r["positions"][..., 0])
  known = ((stated >= 0) & (stated <= 3 * (np.array(SHAPE) - 1))).all(-1)
  assert known.mean() > 0.7
  np.testing.assert_allclose(shown[known], stated[known], atol=CLOSE_MM)


def test_centres_are_those_of_the_plain_views_and_with_both_of_the_augmented_ones_after_them(seen):
  views, received, _ = seen
  stated, middle = received[0]["centres_mm"], EDGE // 2
  plain = received[0]["plain_origin_mm"] + 3 * middle
  np.testing.assert_allclose(stated[:, :DENSE], plain, atol=CLOSE_MM)
  if views == "both":
    warped = received[0]["augmented_mm"][:, :, middle, middle, middle]
    np.testing.assert_allclose(stated[:, DENSE : 2 * DENSE], warped, atol=CLOSE_MM)


def by_cells(values, stride):
  """Voxels `(g, k, e, e, e, ...)` cell by cell: `(g, k, n, n, n, stride**3, ...)`."""
  n, rest = EDGE // stride, values.shape[5:]
  split = values.reshape(SCANS, DENSE, n, stride, n, stride, n, stride, *rest)
  return np.moveaxis(split, (3, 5, 7), (5, 6, 7)).reshape(SCANS, DENSE, n, n, n, stride**3, *rest)


@pytest.mark.parametrize("stride", STRIDES)
def test_features_are_those_of_their_own_view_and_patch(seen, stride):
  _, received, batch = seen
  lattice = received[0]["plain_origin_mm"][:, :, None, None, None] + lattice_mm()
  for name, stated in (("plain", lattice), ("augmented", received[0]["augmented_mm"])):
    known = by_cells(inside(stated, batch), stride).all(-1)
    shown = shown_mm(received, lambda r, name=name: r[f"{name}_features"][stride][..., 0])
    assert shown.shape == (*known.shape, 3) and known.mean() > 0.4
    np.testing.assert_allclose(shown[known], by_cells(stated, stride).mean(-2)[known], atol=CLOSE_MM)


def as_views(one):
  return Views(**jax.tree.map(jnp.asarray, {name: value for name, value in one.items() if name in Views._fields}))


def test_points_are_voxels_of_the_body_and_their_places_are_what_the_plain_view_shows_there(seen):
  _, received, _ = seen
  points = received[0]["points"]
  assert points.shape == (DENSE, 20, 3) and points.min() >= 0 and points.max() < EDGE
  for patch in range(DENSE):
    z, y, x = points[patch].T
    at = np.stack([one["plain"][:, patch, z, y, x] for one in received], -1)
    assert ((at > 0).all(-1).mean(0) > 0.5).all()
    known = (at > 0).all(-1)
    stated = np.asarray(view_points.points_mm(as_views(received[0]), patch))
    np.testing.assert_allclose(coded_mm(at)[known], stated[known], atol=CLOSE_MM)


@pytest.mark.parametrize("stride", STRIDES)
def test_dense_objectives_pair_cells_that_show_the_same_place(seen, stride):
  """The cell of a point in the plain view, and the nearest one of the augmented view."""
  _, received, batch = seen
  views = as_views(received[0])
  lattice = received[0]["plain_origin_mm"][:, :, None, None, None] + lattice_mm()
  known_plain = by_cells(inside(lattice, batch), stride).all(-1)
  known_augmented = by_cells(inside(received[0]["augmented_mm"], batch), stride).all(-1)
  for patch in range(DENSE):
    wanted = np.asarray(view_points.points_mm(views, patch))
    distance = np.asarray(view_points.distances_mm(views.augmented_mm[:, patch], jnp.asarray(wanted), stride)).reshape(
      SCANS, 20, -1
    )
    nearest = distance.argmin(-1)

    def at_points(cells, patch=patch):
      return np.asarray(view_points.at_points(jnp.asarray(cells[:, patch], jnp.float32), views.points[patch], stride))

    def at_nearest(cells, patch=patch, nearest=nearest):
      return np.take_along_axis(cells[:, patch].reshape(SCANS, -1), nearest, 1)

    pair = (
      (distance.min(-1) < 2.5 * stride) & (at_points(known_plain[..., None])[..., 0] > 0) & at_nearest(known_augmented)
    )
    assert pair.sum() > 10
    one = shown_mm(received, lambda r: at_points(r["plain_features"][stride])[..., 0])
    other = shown_mm(received, lambda r: at_nearest(r["augmented_features"][stride]))
    # a point lies up to half a cell from the middle of its own, and as far from the nearest one as was asked for
    assert np.abs(one - wanted)[pair].max() <= 3 * (stride - 1) / 2 + CLOSE_MM
    assert np.linalg.norm(other - wanted, axis=-1)[pair].max() <= 2.5 * stride + CLOSE_MM
