"""Settings, cubes, lanes and validation of a pre-training run, without a step."""

import dataclasses
import multiprocessing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from medlsam_jax import working_grid
from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.medlam.pretraining import crop_batches, crops, step, views
from medlsam_jax.medlam.pretraining.settings import PretrainSettings
from medlsam_jax.medlam.pretraining.shards import Index
from medlsam_jax.train import loading, optimizer, sharding
from medlsam_jax.train.settings import MeshSettings, OptimizerSettings
from medlsam_jax.typed_settings import from_mapping


def scan(seed=0, shape=(50, 60, 70)):
  values = np.random.default_rng(seed).random(shape, dtype=np.float32)
  values[:10] = 0
  return crops.TrainingScan.of(f"scan{seed}", values)


def stored(source):
  return dataclasses.replace(source, intensity=np.round(source.intensity * crops.STORED_MAX).astype(np.uint16))


@pytest.mark.parametrize("form", [lambda s: s, stored], ids=["float32", "uint16"])
def test_cubes_show_the_scan_around_their_centre_and_centres_are_never_air(form):
  source = scan()
  batch = crops.cut_group(np.random.default_rng(0), form(source), 16)
  padded = np.pad(source.intensity, 40)
  for cube, origin in zip(batch.cubes[0], batch.origins_mm[0], strict=True):
    z, y, x = (origin / 3 + 40).round().astype(int)
    assert source.intensity[z, y, x] >= working_grid.AIR_INTENSITY
    np.testing.assert_allclose(cube, padded[z : z + 80, y : y + 80, x : x + 80], atol=1e-5)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_every_stored_value_is_the_intensity_on_the_device_that_it_is_on_the_host_to_the_bit(kind):
  values = np.arange(np.iinfo(kind).max + 1).astype(kind).reshape(-1, 1, 1, 1, 1)
  expected = values.astype(np.float32) / np.float32(np.iinfo(kind).max)
  np.testing.assert_array_equal(jax.jit(views.as_intensity)(values), expected)


def test_cubes_of_8_bits_beside_others_of_16_are_their_equals():
  wide = stored(scan())
  narrow = dataclasses.replace(wide, intensity=(wide.intensity >> 8).astype(np.uint8))
  centre = np.array([20, 5, 66])
  cubes = [crops.cut_cube(narrow, centre, 32, np.dtype(kind)) for kind in (np.uint8, np.uint16, np.float32)]
  assert [cube.dtype for cube in cubes] == [np.uint8, np.uint16, np.float32] and cubes[0].any()
  for cube in cubes[:2]:
    np.testing.assert_array_equal(views.as_intensity(jnp.asarray(cube)[None, None])[0, 0], cubes[2])


def test_centres_in_a_scan_that_is_nearly_all_air_are_found_in_the_end():
  values = np.zeros((40, 40, 40), np.float32)
  values[3, 4, 5] = values[33, 34, 35] = 1
  source = crops.TrainingScan.of("two voxels", values)
  centres = crops.draw_centres(np.random.default_rng(0), source, 20)
  assert {tuple(c) for c in centres.tolist()} == {(3, 4, 5), (33, 34, 35)}
  np.testing.assert_array_equal(source.body_box, [[3, 4, 5], [33, 34, 35]])


def test_a_scan_of_air_is_refused_by_name():
  with pytest.raises(InputError, match="empty_scan"):
    crops.TrainingScan.of("empty_scan", np.zeros((4, 4, 4)))


def plan(**fields):
  return crop_batches.Plan(**{"seed": 0, "groups": 4, "patches": 1, "edge": 16, **fields})


def test_a_batch_does_not_depend_on_how_many_processes_draw_it():
  sets = [loading.InMemory((scan(0), scan(1)), 1.0), loading.InMemory((scan(2),), 2.0)]
  whole = crop_batches.CropBatches(sets, plan(), range(4), 9)[7]
  parts = [crop_batches.CropBatches(sets, plan(), rows, 9)[7] for rows in (range(0, 2), range(2, 4))]
  np.testing.assert_array_equal(whole.cubes, crops.joined(parts).cubes)


def test_batches_go_on_at_any_step():
  source = crop_batches.CropBatches([loading.InMemory((scan(0), scan(1)), 1.0)], plan(groups=1), range(1), 6)
  whole = list(loading.batches(source, 0, threads=2))
  rest = list(loading.batches(source, 4, threads=0))
  assert len(whole) == 6 and len(rest) == 2
  np.testing.assert_array_equal(whole[4].cubes, rest[0].cubes)


def test_worker_processes_give_the_same_batches_and_a_killed_one_ends_them_with_an_error():
  source = crop_batches.CropBatches([loading.InMemory((scan(0, (20, 20, 20)),), 1.0)], plan(groups=1), range(1), 99)
  before = set(multiprocessing.active_children())
  batches = loading.batches(source, 1, threads=1, workers=1)
  np.testing.assert_array_equal(np.array(next(batches).cubes), source[1].cubes)
  (worker,) = set(multiprocessing.active_children()) - before
  worker.kill()
  with pytest.raises(InputError, match=r"a loader worker died .*-9.*data.workers"):
    list(batches)


def flat_scans(count, first=0):
  """Scans of one value each, which tells them apart."""
  return tuple(crops.TrainingScan.of(str(k), np.full((8, 8, 8), 0.2 + 0.005 * k)) for k in range(first, first + count))


def drawn(source, steps):
  """Number of the scan that each step shows in each lane, `(steps, lanes)`."""
  batches = [source[k] for k in steps]
  return np.array([[round((cube.max() - 0.2) / 0.005) for cube in batch.cubes[:, 0]] for batch in batches])


def test_each_set_of_a_mixture_is_drawn_by_weight_and_shown_whole_before_a_scan_comes_again():
  sets = [loading.InMemory(flat_scans(50), 3.0), loading.InMemory(flat_scans(7, 50), 1.0)]
  source = crop_batches.CropBatches(sets, plan(groups=2), range(2), 400)
  for lane in drawn(source, range(400)).T:
    for least, most, times in ((0, 50, 300), (50, 57, 100)):
      own = lane[(lane >= least) & (lane < most)]
      assert abs(len(own) - times) <= 2
      epochs = [own[k : k + most - least] for k in range(0, len(own) - (most - least) + 1, most - least)]
      for epoch in epochs:
        assert sorted(epoch) == list(range(least, most))
      assert list(epochs[0]) != list(epochs[1])
    # the sets alternate, so that neither is away for long
    assert max(np.diff(np.flatnonzero(lane >= 50))) <= 6


def test_a_mixture_goes_on_at_any_step_and_far_into_a_run_at_once():
  sets = [
    loading.InMemory(flat_scans(5), 1.0),
    loading.InMemory(flat_scans(3, 5), 0.3),
    loading.InMemory((scan(9),), 0.0),
  ]
  whole = drawn(crop_batches.CropBatches(sets, plan(groups=2), range(2), 40), range(40))
  later = drawn(crop_batches.CropBatches(sets, plan(groups=2), range(2), 40), range(23, 40))
  np.testing.assert_array_equal(whole[23:], later)
  assert whole.max() < 8  # a set of weight 0 is never drawn
  turns, shares = loading.Turns([1.0, 0.3, 0.0], 0, 1), (1 / 1.3, 0.3 / 1.3)
  counted = np.bincount([turns(k)[0] for k in range(500)], minlength=3)
  assert next(turns(k)[1] for k in range(500, 520) if turns(k)[0] == 1) == counted[1]
  chosen, turn = turns(10**9)
  assert turn / 10**9 == pytest.approx(shares[chosen], abs=1e-6)


def test_two_lanes_never_go_through_a_set_in_one_order_nor_cut_alike():
  source = crop_batches.CropBatches([loading.InMemory(flat_scans(12), 1.0)], plan(groups=4), range(4), 36)
  lanes = [tuple(lane) for lane in drawn(source, range(36)).T]
  assert len(set(lanes)) == 4 and len({lane[:12] for lane in lanes}) == 4
  one = crop_batches.CropBatches([loading.InMemory((scan(0),), 1.0)], plan(groups=4, patches=3), range(4), 3)
  origins = [one[k].origins_mm for k in range(3)]
  assert len(np.unique(np.concatenate(origins).reshape(12, -1), axis=0)) == 12


def test_lanes_share_out_the_shards_of_a_prepared_set(monkeypatch):
  def files(index, shards, cache):
    return [index.shards[k]["file"] for k in shards]

  monkeypatch.setattr(crop_batches, "ShardReader", files)
  index = Index("", tuple({"file": name} for name in "abcdefg"), ())
  dealt = [crop_batches.Prepared(index, 1.0).lane(number, 3) for number in range(3)]
  assert sorted(shard for lane in dealt for shard in lane) == list("abcdefg") and min(map(len, dealt)) >= 2
  # fewer shards than lanes: each has one
  assert [crop_batches.Prepared(index, 1.0).lane(number, 9) for number in (0, 6, 7)] == [["a"], ["g"], ["a"]]


def test_several_crops_come_from_one_opened_scan():
  sets = [loading.InMemory((scan(0), scan(1)), 1.0)]
  batch = crop_batches.CropBatches(sets, plan(crops=2), range(4), 1)[0]
  owners = [[np.isin(cube, scan(s).intensity).mean() > 0.9 for s in (0, 1)] for cube in batch.cubes[:, 0]]
  assert owners[0] == owners[1] and owners[2] == owners[3]
  with pytest.raises(ConfigError, match="crops_per_scan 3"):
    crop_batches.CropBatches(sets, plan(crops=3), range(4), 1)


def test_an_unknown_field_and_a_wrong_type_are_errors():
  for wrong, word in (
    ({"network": {"no_such": 1}}, "no_such"),
    ({"network": {"base_channels": "24"}}, "base_channels"),
    ({"optimizer": {"decay": "sudden"}}, "decay"),
    ({"objectives": {"uam": 1.0}}, "uam"),
  ):
    with pytest.raises(ConfigError, match=word):
      from_mapping(PretrainSettings, wrong)


@pytest.mark.parametrize(
  ("objectives", "word"),
  [
    ({"mss": {"temprature": 1.0}}, "temprature"),
    ({"mss": {"temperature": "hot"}}, "temperature"),
    ({"uam": {"weight": "much"}}, "weight"),
    ({"uam": {"weight": 0}}, "nothing to minimise"),
    ({"no_such": {}}, "no_such"),
  ],
)
def test_an_objective_refuses_what_it_does_not_know(objectives, word):
  with pytest.raises(ConfigError, match=word):
    step.make_terms(from_mapping(PretrainSettings, {"objectives": objectives}))


def test_an_objective_gets_its_own_settings():
  (term,) = step.make_terms(from_mapping(PretrainSettings, {"objectives": {"mss": {"weight": 2, "temperature": 5}}}))
  assert (term.weight, term.settings.temperature, term.settings.positive_mm) == (2.0, 5.0, 3.0)


def test_settings_survive_the_way_through_plain_mappings():
  settings = PretrainSettings()
  assert from_mapping(PretrainSettings, dataclasses.asdict(settings)) == settings


def test_points_avoid_air_shared_by_most_of_the_batch():
  plain = np.zeros((3, 64, 64, 64), np.float32)
  plain[:2, 32:] = 1.0
  points = views.choose_points(jax.random.key(0), jax.numpy.asarray(plain), 50)
  assert (points[:, 0] >= 32).all()


def test_a_batch_that_the_mesh_cannot_split_is_refused():
  mesh = sharding.make_mesh(MeshSettings())
  with pytest.raises(ConfigError, match="multiple of 3"):
    sharding.check_batch(4, 3, mesh, "data.scans_per_step")
  with pytest.raises(ConfigError, match=r"mesh.model 3"):
    sharding.make_mesh(MeshSettings(model=3))


def test_rules_reach_the_optimizer_state_and_leave_the_rest_replicated():
  mesh = sharding.make_mesh(MeshSettings())
  kernel, bias = jax.ShapeDtypeStruct((8, 4), np.float32), jax.ShapeDtypeStruct((4,), np.float32)
  tree = {
    "params": {"network": {"fc1": {"kernel": kernel, "bias": bias}}},
    "mu": {"network": {"fc1": {"kernel": kernel}}},
  }
  found = sharding.shardings(tree, mesh, step.SHARDING_RULES)
  assert found["params"]["network"]["fc1"]["kernel"].spec == PartitionSpec("model", None)
  assert found["mu"]["network"]["fc1"]["kernel"].spec == PartitionSpec("model", None)
  assert found["params"]["network"]["fc1"]["bias"].spec == PartitionSpec()


def test_published_schedule_falls_in_stairs():
  rate = optimizer.make_schedule(OptimizerSettings())
  np.testing.assert_allclose([rate(0), rate(9_999), rate(10_000), rate(20_000)], [1e-4, 1e-4, 8e-5, 6.4e-5], rtol=1e-5)


def test_decay_acts_on_kernels_only_in_adamw_and_on_all_in_adam():
  params = {"fc1": {"kernel": np.ones(2, np.float32), "bias": np.ones(2, np.float32)}}
  zeros = jax.tree.map(np.zeros_like, params)
  for kind, bias_moves in (("adamw", False), ("adam", True)):
    transform = optimizer.make_optimizer(OptimizerSettings(kind=kind, l2=0.1, learning_rate=1.0))
    updates, _ = transform.update(zeros, transform.init(params), params)
    assert (updates["fc1"]["kernel"] < 0).all() and (updates["fc1"]["bias"] < 0).all() == bias_moves
