"""`medlsam probe`: how well a network finds organs of people it has not seen, from a few examples."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medlsam_jax.cli import options

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.models.network import Network


def add_to(commands: Any) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "probe",
    "measure a network or a checkpoint by few-shot localization of held-out phantoms",
    "  medlsam probe runs/mine\n  medlsam probe tiny\n"
    "  Prints box IoU, wall distance and point error (ALE) in mm, beside those of a trivial baseline, as JSON.",
  )
  parser.add_argument("network", metavar="CHECKPOINT", help="folder of a pre-training run, a weights file, or `tiny`")
  parser.add_argument("--step", type=options.positive_int, metavar="N", help="checkpoint to take (default: the newest)")
  parser.add_argument(
    "--parts", action="store_true", help="besides, what the position head and the features find each alone"
  )
  options.add_quiet(parser)
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Probes one network."""
  from medlsam_jax.evaluation.probe import Probe

  place = Path(arguments.network)
  network = _of_checkpoint(place, arguments.step) if place.is_dir() else _of_file(arguments.network)
  with terminal.bar("probing"):
    probe = Probe.of_phantoms()
    found = probe(network) | (probe.parts(network) if arguments.parts else {})
  terminal.result(json.dumps({name: round(value, 4) for name, value in found.items()}, indent=1))
  return 0


def callback() -> Callable[[Any, Any], Mapping[str, float]]:
  """The probe as the training loop takes it; phantoms are made when it is first called."""
  from medlsam_jax.evaluation.probe import Probe

  made: list[Probe] = []

  def probe(params: Any, settings: Any) -> Mapping[str, float]:
    if not made:
      made.append(Probe.of_phantoms())
    return made[0](network_of(params, settings, "run"))

  return probe


def network_of(params: Any, settings: Any, source: str) -> Network:
  """Parameters of a pre-training run as a network to search with."""
  import jax

  from medlsam_jax.models.medlam import MedLAM
  from medlsam_jax.models.network import Network
  from medlsam_jax.training.export import weights_header

  module = MedLAM(
    base_channels=settings.network.base_channels,
    patch_edge=settings.network.patch_edge,
    feature_scales=tuple(settings.network.feature_scales),
  )
  return Network(module, {"params": jax.device_put(params)}, "medlam", source, weights_header(settings))


def _of_checkpoint(place: Path, step: int | None) -> Network:
  from medlsam_jax.cli.export import training_packages

  checkpoint, export = training_packages()
  params, settings, _ = checkpoint.read_network(export.checkpoint_folder(place), step)
  return network_of(params, settings, str(place))


def _of_file(name: str) -> Network:
  from medlsam_jax.loading import load

  return load(name, kind="medlam")
