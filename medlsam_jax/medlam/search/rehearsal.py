"""Programs of a search compiled before its scan is there: each runs once on nothing, beside the other.

For accelerators, where compiling takes longer than reading templates or a scan. On a CPU nothing is done.
"""

from __future__ import annotations

import jax
import numpy as np

from medlsam_jax import platform
from medlsam_jax.geometry import PATCH_EDGE
from medlsam_jax.medlam.bank.bank import OrganBank
from medlsam_jax.medlam.search import programs, search
from medlsam_jax.medlam.search.patches import Patches
from medlsam_jax.medlam.search.search_settings import SearchSettings
from medlsam_jax.network import Network
from medlsam_jax.rehearsal import Rehearsal

_POINTS = 6
_CENTRE = PATCH_EDGE // 2
"""Of the only patch that the scan of a rehearsal has."""


def of_search(network: Network, settings: SearchSettings, templates: int, edge: int) -> Rehearsal:
  """Begins to compile the two programs of a search, beside each other.

  Args:
    network: of the bank.
    settings: of the search.
    templates: that the organ with most of them has in the bank. With another number the search compiles for itself.
    edge: of the cube of features around a point, working voxels.
  """
  if not platform.patches_together():
    return Rehearsal()
  return Rehearsal(lambda: _coarse(network, settings), lambda: _fine(network, settings, templates, edge))


def _coarse(network: Network, settings: SearchSettings) -> None:
  prepared = programs.prepare(network, settings.operands)
  starts = np.full((settings.agents, 3), _CENTRE)
  jax.block_until_ready(programs.positions(prepared, _air(prepared).at(starts)))


def _fine(network: Network, settings: SearchSettings, templates: int, edge: int) -> None:
  prepared = programs.prepare(network, settings.operands)
  channels, strides = 4 * prepared.module.base_channels, settings.scales(prepared.module.feature_scales)
  shapes = {stride: (templates, _POINTS, *(edge // stride,) * 3, channels) for stride in strides}
  organ = OrganBank(
    organ="nothing",
    value=1,
    mode="WPL",
    templates=tuple(map(str, range(templates))),
    faces=np.arange(_POINTS)[None],
    positions=np.zeros((templates, _POINTS, 3), np.float32),
    features={stride: np.zeros(shape, np.float32) for stride, shape in shapes.items()},
  )
  search.settle(prepared, _air(prepared), np.full((_POINTS, 3), _CENTRE), [organ], settings)


def _air(network: programs.Prepared) -> Patches:
  return Patches.of(network, np.zeros((PATCH_EDGE + 1,) * 3, np.float32))
