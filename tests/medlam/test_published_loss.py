"""UAM and MSS against values that the published loss gave for the same inputs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.objectives import contract, mss, uam

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
  return dict(np.load(GOLDEN / "medlam_loss.npz"))


@pytest.fixture(scope="module")
def views(golden):
  def both(name):
    return np.stack([golden[name.format(patch)] for patch in (0, 1)], 1)

  def features(view):
    return {s: jnp.asarray(np.moveaxis(both(f"{view}_{{}}_feature{i}"), 2, -1)) for i, s in enumerate((4, 2, 1))}

  centres = np.stack([golden["offset_plain_mm"], np.zeros((2, 3))], 1)
  return contract.Views(
    positions=jnp.asarray(both("plain_{}_fc_position")),
    centres_mm=jnp.asarray(centres),
    plain=jnp.zeros((2, 2, 16, 16, 16)),
    augmented=jnp.zeros((2, 2, 16, 16, 16)),
    plain_features=features("plain"),
    plain_origin_mm=jnp.asarray(both("plain_mm_{}")[..., 0, 0, 0]),
    points=jnp.asarray(np.stack([golden["points_0"], golden["points_1"]])),
    augmented_features=features("augmented"),
    augmented_mm=jnp.asarray(np.moveaxis(both("augmented_mm_{}"), 2, -1)),
  )


def test_uam_equals_the_published_value(views, golden):
  value, _ = uam.loss(views, contract.NoSettings())
  np.testing.assert_allclose(value, golden["uam"], rtol=1e-5)


def test_mss_equals_the_published_value(views, golden):
  value, _ = mss.loss(views, mss.Settings())
  np.testing.assert_allclose(value, golden["mss"], rtol=1e-5)


def test_mss_stays_finite_with_finite_gradient_when_no_point_has_a_positive(views):
  lost = views._replace(augmented_mm=views.augmented_mm + 1e4)
  value, gradient = jax.value_and_grad(lambda f: mss.loss(lost._replace(augmented_features=f), mss.Settings())[0])(
    lost.augmented_features
  )
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_an_unknown_objective_is_named():
  with pytest.raises(ConfigError, match="no_such_loss"):
    contract.find("no_such_loss")


def test_objectives_are_found_by_the_name_of_their_file():
  found = contract.find("mss")
  assert found.loss is mss.loss and found.settings is mss.Settings and found.heads(mss.Settings()) == {}


def test_an_objective_may_be_a_module_of_the_users_own(tmp_path, monkeypatch):
  (tmp_path / "mine_alone.py").write_text("def loss(views, settings):\n  return views.positions.sum(), {}\n")
  monkeypatch.syspath_prepend(tmp_path)
  assert contract.find("mine_alone").settings is contract.NoSettings


def test_a_module_without_a_loss_is_refused():
  with pytest.raises(ConfigError, match="no function `loss`"):
    contract.find("view_points")
