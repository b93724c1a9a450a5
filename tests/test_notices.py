"""Warnings point at the user's line, whatever lies between it and the place that warns."""

import contextlib
import warnings

import numpy as np
import pytest

from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.io import scan_checks
from medlsam_jax.notices import MedlsamWarning

NO_CT = Volume(np.full((4, 4, 4), 40000.0), Grid((4, 4, 4), np.eye(4)), "scan")


def test_a_warning_shows_the_line_that_called_the_package():
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    scan_checks.check_scan(NO_CT)
  (warning,) = caught
  assert warning.filename == __file__ and issubclass(warning.category, MedlsamWarning)


def test_a_warning_inside_a_decorated_function_shows_the_same_line(tmp_path):
  from medlsam_jax.medlam.bank.bank import Bank
  from medlsam_jax.medlam.network.medlam import MedLAM
  from medlsam_jax.network import Network

  network = Network(MedLAM(base_channels=1, feature_scales=(4,)), {}, "medlam", "made up", {})
  with pytest.warns(MedlsamWarning, match="multiple") as caught, pytest.raises(Exception, match="template"):
    Bank.build(network, [], interval_mm=10.0)
  assert caught[0].filename == __file__


def test_a_warning_below_the_users_own_decorated_call_shows_the_line_of_that_call():
  """Between the user's line and ours lie only functions that pass the call on."""

  @contextlib.contextmanager
  def around():
    yield

  decorated = around()(scan_checks.check_scan)
  with pytest.warns(MedlsamWarning) as caught:
    decorated(NO_CT)
  assert caught[0].filename == __file__
