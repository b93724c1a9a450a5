"""A run's checkpoint -> a weights file of ours, or one with the published program's names; both exact."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from etils import epath
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors.numpy import save_file

from medlsam_jax.errors import ConfigError, OutputError, WeightsError
from medlsam_jax.io.atomic import atomically
from medlsam_jax.io.weights.kinds import MEDLAM
from medlsam_jax.io.weights.weights_file import write_weights
from medlsam_jax.medlam.network import published as medlam
from medlsam_jax.medlam.network.medlam import FEATURE_STRIDES
from medlsam_jax.medlam.pretraining.settings import PretrainSettings
from medlsam_jax.train.checkpoint import FOLDER, read_arrays
from medlsam_jax.typed_settings import from_mapping

PUBLISHED_PREFIX = "module."
"""Before every name of the released file."""


def weights_header(settings: PretrainSettings) -> dict[str, str]:
  """Header of the weights file that such a run produces."""
  return {
    "kind": MEDLAM,
    "base_channels": str(settings.network.base_channels),
    "patch_edge": str(settings.network.patch_edge),
    "feature_scales": ",".join(map(str, settings.network.search_scales or settings.network.feature_scales)),
    "template_edge": str(settings.network.template_edge),
    "working_grid": "consistent",
    "trained_as": settings.name,
  }


def checkpoint_folder(place: epath.PathLike) -> epath.Path:
  """The checkpoints of a run, given its folder or theirs."""
  folder = epath.Path(place)
  return folder / FOLDER if (folder / FOLDER).is_dir() else folder


def read_network(place: epath.PathLike, step: int | None = None) -> tuple[PyTree, PretrainSettings, int]:
  """Network parameters of a run as host arrays (the averaged ones if it keeps them), its settings, and the step.

  Args:
    place: a run's folder, or its `checkpoints/`.
    step: one of those kept; None takes the newest that is whole, with a warning about those that are not.

  Raises:
    WeightsError: no such checkpoint, or none that can be read.
    ConfigError: it is no pre-training run's.
  """
  folder = checkpoint_folder(place)
  state, config, taken = read_arrays(folder, step)
  settings = from_mapping(PretrainSettings, config, str(folder))
  return jax.device_get(state.get("ema") or state["params"]["network"]), settings, taken


def export(
  place: epath.PathLike, output: Path, step: int | None = None, published: bool = False, float16: bool = False
) -> tuple[int, dict[str, str]]:
  """Writes the network of a checkpoint (the averaged one if the run keeps it) as .safetensors.

  Args:
    place: a run's folder, or its `checkpoints/`.
    output: the file; an existing one is replaced.
    step: one of those kept; None takes the newest.
    published: names and layouts of the published PyTorch program, in place of ours. Such a file says nothing of the
      working grid: the network was trained on the `consistent` one.
    float16: store parameters so, for a file of half the size; they are read back as float32. Not with `published`.

  Returns:
    The step, and the header of the file.

  Raises:
    WeightsError: no such checkpoint, or a network without the stages that the published program has.
    ConfigError: `float16` with `published`.
    OutputError: the file cannot be written.
  """
  if float16 and published:
    raise ConfigError("the published program keeps float32: leave float16 or the published names away")
  params, settings, taken = read_network(place, step)
  header = weights_header(settings) | {"trained_steps": str(taken)}
  if float16:
    params = jax.tree.map(lambda value: np.asarray(value, np.float16), params)
  if not published:
    write_weights(output, {"params": params}, header)
  else:
    write_published(output, params, settings)
  return taken, header


def write_published(output: Path, params: PyTree, settings: PretrainSettings) -> None:
  """Parameters under the published names.

  Raises:
    WeightsError: a network without the stages that the published program has.
    OutputError: the file cannot be written.
  """
  missing = set(FEATURE_STRIDES) - set(settings.network.feature_scales)
  if missing or settings.network.patch_edge != 64:
    raise WeightsError(
      f"{output}: the published program needs patches of 64 and features at strides 4, 2, 1; this network has patches "
      f"of {settings.network.patch_edge} and {list(settings.network.feature_scales)}"
    )
  tensors = medlam.TABLE.backward({"params": params}, source=str(output))
  try:
    named = {PUBLISHED_PREFIX + name: np.ascontiguousarray(a, np.float32) for name, a in tensors.items()}
    with atomically(output) as temporary:
      save_file(named, temporary)
  except (OSError, SafetensorError) as error:
    raise OutputError(f"{output}: cannot be written ({error})") from error
