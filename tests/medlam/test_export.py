"""Checkpoints kept, and weights that leave a run: ours and the published names."""

import resource
import warnings

import jax
import nibabel
import numpy as np
import pytest

from medlsam_jax.errors import ConfigError, OutputError, WeightsError
from medlsam_jax.io.scans import read_volume
from medlsam_jax.loading import load
from medlsam_jax.medlam.network.medlam import MedLAM, init_variables
from medlsam_jax.medlam.pretraining import data_sets as scans
from medlsam_jax.medlam.pretraining import export
from medlsam_jax.medlam.pretraining.export import weights_header
from medlsam_jax.medlam.pretraining.settings import DataSettings, PretrainSettings
from medlsam_jax.medlam.pretraining.step import TrainState
from medlsam_jax.train import checkpoint, cluster
from medlsam_jax.train.settings import CheckpointSettings, ClusterSettings
from medlsam_jax.typed_settings import from_mapping
from medlsam_jax.working_grid import to_working_grid


def settings(**network):
  return from_mapping(PretrainSettings, {"network": {"base_channels": 1, **network}})


def random_params(scales):
  shapes = jax.eval_shape(
    lambda key: init_variables(MedLAM(base_channels=1, feature_scales=scales), key), jax.random.key(0)
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes["params"])


def state(params, step=0):
  return TrainState(jax.numpy.asarray(step), {"network": params, "heads": {}}, (), None)


def save(directory, steps_and_errors, params, of=None, **keep):
  found = checkpoint.Checkpoints(
    directory / "checkpoints", CheckpointSettings(best_metric="validation_error_mm", **keep)
  )
  for step, error in steps_and_errors:
    metrics = {} if error is None else {"validation_error_mm": error}
    found.save(step, state(params, step), of or settings(), {"next_step": step, "drawn_from": ""}, metrics)
  found.close()


def test_the_last_and_the_best_checkpoints_stay(tmp_path):
  params = {"fc1": {"kernel": np.ones(2, np.float32)}}
  errors = [(1, 50.0), (2, 20.0), (3, 30.0), (4, None), (5, 40.0)]
  save(tmp_path, errors, params, keep_last=2, keep_best=1)
  assert checkpoint.steps_in(tmp_path / "checkpoints") == [2, 4, 5]


def test_a_run_that_was_stopped_before_its_first_checkpoint_leaves_no_folder(tmp_path):
  checkpoint.Checkpoints(tmp_path / "runs" / "mine" / "checkpoints", CheckpointSettings()).close()
  assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_that_leaves_the_earlier_checkpoint(tmp_path):
  params = {"fc1": {"kernel": np.random.default_rng(0).random((100, 100), np.float32)}}
  save(tmp_path, [(1, None)], params)
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # no file may grow past a page
  try:
    with pytest.raises(OutputError, match=r"could not be written .*earlier ones stay usable"):
      save(tmp_path, [(2, None)], params)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  network, _, step = export.read_network(tmp_path / "checkpoints")
  assert step == 1
  np.testing.assert_array_equal(network["fc1"]["kernel"], params["fc1"]["kernel"])


def test_exported_weights_are_the_checkpoints_and_load(tmp_path):
  params = random_params((4,))
  save(tmp_path, [(7, None)], params, of=settings(feature_scales=[4]))
  step, header = export.export(tmp_path, tmp_path / "ours.safetensors")
  network = load(tmp_path / "ours.safetensors")
  assert step == 7 and header["trained_steps"] == "7" and network.module.feature_scales == (4,)
  jax.tree.map(np.testing.assert_array_equal, network.params, params)
  with pytest.raises(WeightsError, match="strides 4, 2, 1"):
    export.export(tmp_path, tmp_path / "theirs.safetensors", published=True)
  with pytest.raises(WeightsError, match="no checkpoint of step 3"):
    export.export(tmp_path, tmp_path / "ours.safetensors", step=3)


def test_published_names_come_back_exactly(tmp_path):
  params = random_params((4, 2, 1))
  export.write_published(tmp_path / "theirs.safetensors", params, settings())
  jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "theirs.safetensors").params, params)


def test_a_folder_without_checkpoints_is_named(tmp_path):
  with pytest.raises(WeightsError, match="no checkpoint"):
    export.read_network(tmp_path)


def test_flags_that_do_not_describe_a_cluster_are_refused():
  for wrong in ({"coordinator": ""}, {"coordinator": "host:1", "processes": 2, "process": 2}):
    with pytest.raises(ConfigError, match="coordinator HOST:PORT"):
      cluster.connect(ClusterSettings(kind="flags", **wrong))


def test_weights_in_half_the_space_load_to_three_digits(tmp_path):
  params = random_params((4,))
  save(tmp_path, [(7, None)], params, of=settings(feature_scales=[4]))
  for name, half in (("whole", False), ("half", True)):
    export.export(tmp_path, tmp_path / f"{name}.safetensors", float16=half)
  sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
  assert sizes[0] < 0.6 * sizes[1]
  network = load(tmp_path / "half.safetensors")
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), network.params, params)
  assert {leaf.dtype for leaf in jax.tree.leaves(network.params)} == {np.dtype("float32")}
  with pytest.raises(ConfigError, match="float32"):
    export.export(tmp_path, tmp_path / "published.safetensors", published=True, float16=True)


def test_an_exported_network_claims_the_working_grid_that_it_was_trained_on(tmp_path):
  """A scan read by a run, and by a search with the exported network, becomes the same voxels."""
  hu = np.random.default_rng(0).integers(-200, 200, (14, 33, 27)).astype(np.int16)
  nibabel.save(nibabel.Nifti1Image(hu.T, np.diag([-1.7, 1.1, 5.0, 1.0])), tmp_path / "a_ct.nii.gz")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    (trained,) = scans.data_sets(DataSettings(scans=(str(tmp_path / "a_ct.nii.gz"),)))[0].items
    volume = read_volume(tmp_path / "a_ct.nii.gz")
  save(tmp_path, [(7, None)], random_params((4,)), of=settings(feature_scales=[4]))
  export.export(tmp_path, tmp_path / "ours.safetensors")
  claimed = load(tmp_path / "ours.safetensors").header["working_grid"]
  searched = {convention: to_working_grid(volume, convention).intensity for convention in ("consistent", "published")}
  np.testing.assert_array_equal(searched[claimed], trained.intensity)
  assert np.abs(searched["published"] - searched["consistent"]).max() > 0.01


def test_the_average_leaves_a_run_that_keeps_one(tmp_path):
  found = checkpoint.Checkpoints(tmp_path / "checkpoints", CheckpointSettings())
  params = random_params((4,))
  average = jax.tree.map(lambda a: a + 1, params)
  kept = state(params, 1)._replace(ema=average)
  found.save(1, kept, settings(feature_scales=[4]), {"next_step": 1, "drawn_from": ""}, {})
  found.close()
  export.export(tmp_path, tmp_path / "ours.safetensors")
  jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "ours.safetensors").params, average)
  assert kept.best_network is average


def test_the_header_says_which_cubes_a_search_is_to_compare():
  settings = from_mapping(PretrainSettings, {"network": {"template_edge": 16}})
  assert weights_header(settings)["template_edge"] == "16"
