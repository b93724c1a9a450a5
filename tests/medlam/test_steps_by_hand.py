"""Steps of training against what can be worked out by hand: averages, keys, gradients, validation, a falling loss."""

import collections
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run

from medlsam_jax.geometry import OFFSET_RANGE_MM
from medlsam_jax.medlam.network.medlam import MedLAMOutput
from medlsam_jax.medlam.objectives import contract
from medlsam_jax.medlam.pretraining import crops, export, recipe, step
from medlsam_jax.medlam.pretraining.settings import PretrainSettings
from medlsam_jax.train import checkpoint
from medlsam_jax.train.sharding import make_mesh, put_batch
from medlsam_jax.typed_settings import from_mapping

pytestmark = pytest.mark.usefixtures("quick_compiler")


def batch_of(settings, patches=None, scans=None):
  rng = np.random.default_rng(0)
  scans = scans or small_run.scans()
  groups = settings.data.scans_per_step
  edge, patches = settings.network.cube_edge, patches or settings.data.patches_per_scan
  return crops.joined([crops.cut_group(rng, scans[k % len(scans)], patches, edge) for k in range(groups)])


DECAY, STEPS = 0.15, 4


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
  """A run that keeps an average: states before and after each step, networks that were validated, and its result."""
  states, validated = [], []

  def keep(state):
    states.append(jax.device_get(state))

  with pytest.MonkeyPatch.context() as patch:
    small_run.replace_network_and_scans(patch.setattr)
    settings = small_run.settings(
      optimizer={"ema_decay": DECAY, "total_steps": STEPS}, checkpoint={"every_steps": 1}, validate_every_steps=1
    )
    start, save = recipe.init_state, checkpoint.Checkpoints.save

    def init_state(*arguments):
      state = start(*arguments)
      keep(state)
      return state

    def saved(self, done, state, *rest):
      keep(state)
      save(self, done, state, *rest)

    def validation(settings):
      def error(network, batch):
        validated.append(jax.device_get(network))
        return 1.0

      return error

    patch.setattr(recipe, "init_state", init_state)
    patch.setattr(checkpoint.Checkpoints, "save", saved)
    patch.setattr(recipe, "_validation_batch", lambda settings, progress: batch_of(settings))
    patch.setattr(recipe, "make_validation", validation)
    folder = tmp_path_factory.mktemp("averaged")
    return states, validated, recipe.run(settings, folder), folder


def test_average_of_the_weights_is_the_formula_step_by_step(averaged):
  states, kept = averaged[0], []
  average = states[0].params["network"]
  for number, state in enumerate(states[1:]):
    keep = min(DECAY, (1 + number) / (10 + number))
    average = jax.tree.map(lambda a, p, k=keep: k * a + (1 - k) * p, average, state.params["network"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, average)
    kept.append(keep)
  # the first step is before the bound, the rest at it; and the weights had moved away from their average
  assert len(kept) == STEPS and kept[0] < kept[1] == DECAY
  assert np.abs(states[-1].ema["fc1"]["kernel"] - states[-1].params["network"]["fc1"]["kernel"]).max() > 1e-4


def test_the_average_is_what_is_validated_given_back_and_read_from_checkpoints(averaged):
  states, validated, result, folder = averaged
  last = states[-1]
  assert len(validated) == STEPS
  for network in (validated[-1], result, export.read_network(folder)[0]):
    jax.tree.map(np.testing.assert_array_equal, network, last.ema)
    assert not np.array_equal(network["fc1"]["kernel"], last.params["network"]["fc1"]["kernel"])


class Keys:
  """Every key that `jax.random` derives or draws with, while it is on."""

  MANAGED = ("key", "PRNGKey", "key_data", "wrap_key_data", "key_impl", "clone", "split", "fold_in")

  def __init__(self, patch):
    self.drawn, self.parents, self.children = [], [], []
    for name in dir(jax.random):
      function = getattr(jax.random, name)
      first = next(iter(inspect.signature(function).parameters), "") if inspect.isfunction(function) else ""
      if name in ("split", "fold_in"):
        patch.setattr(jax.random, name, self._derives(function))
      elif first == "key" and name not in self.MANAGED and not name.startswith("_"):
        patch.setattr(jax.random, name, self._draws(function))

  def _note(self, where, key):
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    jax.debug.callback(lambda found: where.extend(map(tuple, np.asarray(found).reshape(-1, 2).tolist())), data)

  def _derives(self, function):
    def derive(key, *rest, **more):
      derived = function(key, *rest, **more)
      self._note(self.parents, key)
      self._note(self.children, derived)
      return derived

    return derive

  def _draws(self, function):
    def draw(key, *rest, **more):
      self._note(self.drawn, key)
      return function(key, *rest, **more)

    return draw


class TwiceOver:
  """An objective that draws, and runs the network twice."""

  Settings = contract.NoSettings

  @staticmethod
  def loss(views, settings):
    _, strides = jax.random.normal(views.key), (4,)
    first, second = (views.network(views.plain, strides)[0] for _ in range(2))
    return jnp.square(first - second).sum(), {}


def test_no_key_is_used_twice_within_steps_nor_from_one_to_the_next(monkeypatch):
  small_run.replace_network_and_scans(monkeypatch.setattr)
  find = contract.find

  def found(name):
    twice = contract.Objective(name, TwiceOver.loss, TwiceOver.Settings, lambda _: {})
    return twice if name in ("first", "second") else find(name)

  monkeypatch.setattr(contract, "find", found)
  objectives = {"vicreg": {"width": 8}, "masked_volume": {"cell": 4}, "voxel_infonce": {}, "first": {}, "second": {}}
  settings = small_run.settings(
    objectives=objectives, data={"scans_per_step": 2}, optimizer={"accumulate": 2, "total_steps": 2}
  )
  keys, mesh = Keys(monkeypatch), make_mesh(settings.mesh)
  state, advance = step.init_state(settings, mesh), step.make_step(settings, mesh)
  batch = put_batch(batch_of(settings), settings.data.scans_per_step, mesh)
  for _ in range(2):
    state, _ = advance(state, batch)
  jax.effects_barrier()
  assert len(keys.drawn) > 100
  for what, used in (("drawn with", keys.drawn), ("derived", keys.children)):
    twice = [key for key, times in collections.Counter(used).items() if times > 1]
    assert not twice, f"{len(twice)} keys are {what} more than once"
  assert not set(keys.drawn) & set(keys.parents), "a key is drawn with that others are derived from"


def test_heads_of_objectives_start_apart(monkeypatch):
  small_run.replace_network_and_scans(monkeypatch.setattr)

  class Head:
    Settings = contract.NoSettings

    @staticmethod
    def heads(settings):
      import flax.linen as nn

      return {"one": nn.Dense(4), "two": nn.Dense(4)}

    @staticmethod
    def loss(views, settings):
      return sum(views.heads[name](views.plain_features[4]).sum() for name in ("one", "two")), {}

  monkeypatch.setattr(contract, "find", lambda name: contract.Objective(name, Head.loss, Head.Settings, Head.heads))
  settings = small_run.settings(objectives={"a": {}, "b": {}})
  heads = jax.device_get(step.init_state(settings, make_mesh(settings.mesh)).params["heads"])
  kernels = [heads[owner][name]["kernel"] for owner in "ab" for name in ("one", "two")]
  for number, kernel in enumerate(kernels):
    for other in kernels[:number]:
      assert np.abs(kernel - other).max() > 0.1


def real_settings(**sections):
  values = {
    "network": {"base_channels": 1, "patch_edge": 32, "feature_scales": [4], "dropout": 0.0},
    "data": {"scans_per_step": 2, "patches_per_scan": 3, "dense_patches": 1},
    "optimizer": {"learning_rate": 3e-3, "decay": "constant", "l2": 0.0, "total_steps": 50},
    "objectives": {"uam": {"weight": 1e-3}, "mss": {"weight": 20.0}},
  }
  return from_mapping(PretrainSettings, {**values, **sections})


def smooth_scans():
  """Bodies whose intensity changes slowly, so that places can be told apart."""
  z, y, x = np.meshgrid(*(np.linspace(0, 1, 48),) * 3, indexing="ij")
  made = []
  for number, shift in enumerate((0.0, 0.3)):
    values = 0.5 + 0.2 * np.sin(7 * z + shift) + 0.15 * np.cos(5 * y + 3 * x + shift) + 0.1 * np.sin(19 * x * z)
    made.append(crops.TrainingScan.of(f"smooth{number}", values.astype(np.float32)))
  return made


@pytest.fixture(scope="module")
def learning():
  """Metrics of 16 steps of a real MedLAM on one batch, and the first gradient."""
  settings = real_settings()
  gradient = jax.jit(step.make_gradient(settings))
  optimizer = step.make_optimizer(settings.optimizer)
  advance = jax.jit(lambda g, s, p: optimizer.update(g, s, p))
  state, batch = step.init_state(settings, make_mesh(settings.mesh)), batch_of(settings, scans=smooth_scans())
  params, moments, metrics, first = state.params, state.optimizer, [], None
  for number in range(16):
    slope, found = gradient(params, batch, jax.random.key(number))
    first = jax.device_get(slope) if first is None else first
    updates, moments = advance(slope, moments, params)
    params = jax.tree.map(jnp.add, params, updates)
    metrics.append(jax.device_get(found))
  return metrics, first


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loss", "uam", "mss"])
def test_losses_of_a_real_network_fall_over_a_few_steps(learning, name):
  metrics, _ = learning
  values = [float(each[name]) for each in metrics]
  assert np.isfinite(values).all()
  print(name, values)
  assert np.mean(values[-4:]) < 0.9 * np.mean(values[:4])


def test_the_loss_is_the_sum_of_its_terms_by_their_weights(learning):
  metrics, _ = learning
  for each in metrics:
    np.testing.assert_allclose(each["loss"], 1e-3 * each["uam"] + 20 * each["mss"], rtol=1e-4)


def test_every_parameter_that_a_loss_can_feel_gets_a_gradient(learning):
  """Constants that a norm or a difference takes off again get none: biases of convolutions and of the position head."""
  _, gradient = learning
  largest = {
    "/".join(part.key for part in path): float(np.abs(leaf).max())
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient["network"])
  }
  heard = {name for name, value in largest.items() if value > 1e-4 * max(largest.values())}
  assert heard == {name for name in largest if name.endswith("kernel")}


class KnowsThePlace:
  """A stand-in whose head tells the true place of its middle voxel, in units of the range."""

  def apply(self, variables, patches, *, feature_scales):
    middle = patches.shape[1] // 2
    code = jnp.round(patches[:, middle, middle, middle, 0] * 2**19 - 2**18).astype(jnp.int32)
    voxel = jnp.stack([code // 64**2, code // 64 % 64, code % 64], -1)
    return MedLAMOutput(3.0 * voxel / jnp.array(OFFSET_RANGE_MM), {}, None)


def test_validation_measures_offsets_in_mm(monkeypatch):
  """A head that is right errs by what the tanh bends alone; one that knows nothing errs by the mean offset."""
  monkeypatch.setattr(step, "make_module", lambda _: KnowsThePlace())
  code = np.arange(64**3, dtype=np.float32).reshape(64, 64, 64)
  coded = crops.TrainingScan("coded", (code + 2**18) / 2**19, np.array([[16] * 3, [47] * 3]), 0.0)
  settings = small_run.settings()
  batch = batch_of(settings, patches=4, scans=[coded])
  measure = step.make_validation(settings)
  offsets = batch.origins_mm[:, :, None] - batch.origins_mm[:, None]
  mean = np.linalg.norm(offsets, axis=-1).sum() / (8 * 12)
  assert float(measure({}, batch)) < 0.01 * mean
  monkeypatch.setattr(
    KnowsThePlace, "apply", lambda self, variables, patches, **_: MedLAMOutput(jnp.zeros((32, 3)), {}, None)
  )
  np.testing.assert_allclose(float(step.make_validation(settings)({}, batch)), mean, rtol=1e-5)
