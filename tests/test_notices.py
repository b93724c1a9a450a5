"""Warnings point at the user's line, whatever lies between it and the place that warns."""

import warnings

import pytest

from medlsam_jax.data import checks
from medlsam_jax.notices import MedlsamWarning


def test_a_warning_shows_the_line_that_called_the_package():
  import numpy as np

  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    checks.warn_range(np.zeros((2, 2, 2)), "scan")
  (warning,) = caught
  assert warning.filename == __file__ and issubclass(warning.category, MedlsamWarning)


def test_a_warning_inside_a_decorated_function_shows_the_same_line(tmp_path):
  from medlsam_jax.localization.bank import Bank
  from medlsam_jax.models.medlam import MedLAM
  from medlsam_jax.models.network import Network

  network = Network(MedLAM(base_channels=1, feature_scales=(4,)), {}, "medlam", "made up", {})
  with pytest.warns(MedlsamWarning, match="multiple") as caught, pytest.raises(Exception, match="template"):
    Bank.build(network, [], interval_mm=10.0)
  assert caught[0].filename == __file__
