"""`medlsam probe`: how well a network finds organs of people it has not seen, from a few examples."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medlsam_jax.cli import options
from medlsam_jax.errors import ConfigError

if TYPE_CHECKING:
  from jaxtyping import PyTree

  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.evaluation.probe import Probe
  from medlsam_jax.medlam.pretraining.settings import PretrainSettings, ProbeSettings
  from medlsam_jax.network import Network


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "probe",
    "measure networks or checkpoints by few-shot localization of people they have not seen",
    "  medlsam probe runs/mine\n  medlsam probe tiny\n"
    "  medlsam probe runs/mine tiny --templates templates/ --queries labelled/\n"
    "  Prints box IoU, wall distance and point error (ALE) in mm, beside those of a trivial baseline, as JSON;\n"
    "  of several networks a line each, as they come.",
  )
  parser.add_argument(
    "networks", metavar="CHECKPOINT", nargs="+", help="folder of a pre-training run, a weights file, `open` or `tiny`"
  )
  parser.add_argument("--step", type=options.positive_int, metavar="N", help="checkpoint to take (default: the newest)")
  parser.add_argument(
    "--parts", action="store_true", help="besides, what the position head and the features find each alone"
  )
  group = parser.add_argument_group("on scans in place of held-out phantoms")
  group.add_argument("--templates", metavar="DIR", help="folder of example scans with organs marked")
  group.add_argument(
    "--queries",
    metavar="DIR",
    help="folder of other scans with label maps; where its sound.json calls labels `whole`, figures are means over "
    "these, and those over all labels stand beside them",
  )
  options.add_organs(group)
  group.add_argument("--take", type=options.names, metavar="A,B", help="templates to use, by name (default: all)")
  group.add_argument("--count", type=options.positive_int, metavar="N", help="the first N queries only (default: all)")
  group.add_argument("--search", metavar="NAME", default="exact", help="as of `medlsam localize` (default: exact)")
  options.add_quiet(parser)
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Probes one network, or one after another."""
  _check(arguments)
  with terminal.bar("reading" if arguments.templates else "making phantoms") as bar:
    probe, several = _probe_of(arguments), len(arguments.networks) > 1
    for number, name in enumerate(arguments.networks):
      place = Path(name)
      network = _of_checkpoint(name, arguments.step) if "://" in name or place.is_dir() else _of_file(name)
      bar.title(f"probing {name}")
      bar(number, len(arguments.networks))
      figures = {key: round(value, 4) for key, value in probe(network, parts=arguments.parts).items()}
      if several:
        terminal.result(json.dumps({"network": name, **_steps(network), **figures}))
      else:
        terminal.result(json.dumps(figures, indent=1))
  return 0


def _check(arguments: argparse.Namespace) -> None:
  """Refuses options that contradict each other."""
  from medlsam_jax.medlam.search.search_settings import PRESETS

  if (arguments.templates is None) != (arguments.queries is None):
    raise ConfigError("give --templates and --queries together, or neither for phantoms")
  alone = [name for name in ("organs", "take", "count") if getattr(arguments, name) is not None]
  if arguments.templates is None and alone:
    raise ConfigError(f"--{alone[0]} is about scans of one's own: give --templates and --queries")
  if arguments.search not in PRESETS:
    raise ConfigError(f"--search {arguments.search}: choose {' or '.join(PRESETS)}")


def _probe_of(arguments: argparse.Namespace) -> Probe:
  from medlsam_jax.evaluation.probe import Probe

  if arguments.templates is None:
    made = Probe.of_phantoms()
    return made if arguments.search == "exact" else dataclasses.replace(made, search=arguments.search)
  return Probe.of_folders(
    arguments.templates,
    arguments.queries,
    arguments.organs,
    template_names=arguments.take,
    count=arguments.count,
    search=arguments.search,
  )


def _steps(network: Network | None) -> dict[str, int]:
  """Steps that the network was trained for, where its header says so."""
  steps = network.header.get("trained_steps", "") if network is not None else ""
  return {"step": int(steps)} if steps.isdecimal() else {}


def callback(settings: ProbeSettings | None = None) -> Callable[[PyTree, PretrainSettings], Mapping[str, float]]:
  """The probe as the training loop takes it. Scans are read at once, so that a wrong folder is said before a run
  begins; phantoms are made when it is first called.

  Raises:
    ConfigError, InputError: as `Probe.of_folders`.
  """
  from medlsam_jax.evaluation.probe import Probe

  made: list[Probe] = []
  if settings is not None and settings.templates:
    count, names = settings.count or None, settings.template_names or None
    made.append(
      Probe.of_folders(settings.templates, settings.queries, settings.organs or None, template_names=names, count=count)
    )

  def probe(params: PyTree, settings: PretrainSettings) -> Mapping[str, float]:
    if not made:
      made.append(Probe.of_phantoms())
    return made[0](network_of(params, settings, "run"))

  return probe


def network_of(params: PyTree, settings: PretrainSettings, source: str) -> Network:
  """Parameters of a pre-training run as a network to search with."""
  import jax

  from medlsam_jax.medlam.network.medlam import MedLAM
  from medlsam_jax.medlam.pretraining.export import weights_header
  from medlsam_jax.network import Network

  module = MedLAM(
    base_channels=settings.network.base_channels,
    patch_edge=settings.network.patch_edge,
    feature_scales=tuple(settings.network.feature_scales),
  )
  return Network(module, {"params": jax.device_put(params)}, "medlam", source, weights_header(settings))


def _of_checkpoint(place: str, step: int | None) -> Network:
  from medlsam_jax.cli.export import export_module

  params, settings, _ = export_module().read_network(place, step)
  return network_of(params, settings, place)


def _of_file(name: str) -> Network:
  from medlsam_jax.loading import load

  return load(name, kind="medlam")
