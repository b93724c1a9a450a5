"""`medlsam pretrain`: a MedLAM network from unlabelled scans."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from medlsam_jax import platform
from medlsam_jax.cli import options, probe, trained_network
from medlsam_jax.errors import ConfigError
from medlsam_jax.installation import install_hint

if TYPE_CHECKING:
  from jaxtyping import PyTree

  from medlsam_jax.cli.terminal import Bar, Terminal
  from medlsam_jax.medlam.network.medlam import MedLAM
  from medlsam_jax.medlam.pretraining.settings import PretrainSettings
  from medlsam_jax.train.settings import OptimizerSettings

PROFILE = "profile"
Report = Callable[[int, Mapping[str, float]], None]


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "pretrain",
    "train a localization network on scans without labels",
    "  medlsam pretrain --config configs/medlam.py:tiny --workdir runs/tiny --data.scans=a_ct.nii.gz,b_ct.nii.gz\n"
    "  Any setting of the config is an option; --optimizer.total_steps 500. The same call resumes a stopped run.\n"
    "  Writes WORKDIR/NAME.safetensors (for --network), metrics.jsonl, tensorboard/, config.json and checkpoints/.",
  )
  parser.add_argument(
    "--config",
    default="configs/medlam.py",
    metavar="FILE.py[:MODE]",
    help="settings; modes of configs/medlam.py are tiny and smoke (default: configs/medlam.py, the published recipe)",
  )
  parser.add_argument(
    "--workdir", required=True, metavar="DIR", help="folder of the run, or an address such as gs://bucket/run"
  )
  parser.add_argument(
    "--profile", action="store_true", help=f"trace three steps into WORKDIR/{PROFILE}, for TensorBoard"
  )
  parser.add_argument(
    "--start-from",
    metavar="WEIGHTS",
    help="begin with these weights (tiny, a .safetensors, a published checkpoint) of the same width or a part of it",
  )
  options.add_reading(parser, "the scans of --data.scans")
  options.add_quiet(parser)
  parser.set_defaults(run=run, takes_settings=True)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Trains, or goes on training."""
  from medlsam_jax.cli import settings as config

  try:
    from medlsam_jax.medlam.pretraining import recipe
    from medlsam_jax.medlam.pretraining.export import weights_header
    from medlsam_jax.medlam.pretraining.setting_checks import check_pretraining
    from medlsam_jax.medlam.pretraining.settings import PretrainSettings
    from medlsam_jax.train import cluster, goodput, run_folder
    from medlsam_jax.train.records import Records
  except ImportError as error:
    raise ConfigError(
      f"training needs packages that are not here ({error.name}); run: {install_hint('train')}"
    ) from error
  from medlsam_jax.io.weights.weights_file import write_weights

  settings = config.resolve(
    PretrainSettings(), arguments.config, [*arguments.rest, *options.reading_settings(arguments)]
  )
  check_pretraining(settings)
  workdir = run_folder.at(arguments.workdir)
  if arguments.profile and not run_folder.is_local(workdir):
    raise ConfigError("--profile writes to a folder of this machine; give one as --workdir")
  run_folder.require_writable_run(workdir)
  cluster.connect(settings.cluster)
  main = cluster.is_main()
  if main and (text := platform.widened(settings.network.dtype)):
    terminal.say(text)
  network = _start(arguments.start_from, settings) if arguments.start_from else None
  measure = probe.callback(settings.probe) if settings.probe_every_steps else None
  with terminal.bar("preparing") as bar, contextlib.ExitStack() as stack:
    report = _reporter(settings.optimizer, bar, terminal)
    records = stack.enter_context(contextlib.closing(Records(workdir, settings))) if main else None
    if records is not None:
      report = _both(records, report)
    profile = Path(workdir / PROFILE) if arguments.profile else None

    def tell(shares: dict[str, float]) -> None:
      lost = (records.lost_steps, records.lost_seconds) if records is not None else ()
      terminal.say(goodput.line(shares, *lost))

    params = recipe.run(settings, workdir, report, bar.title, measure, profile, network, ended=tell)
  if main:
    weights = workdir / f"{settings.name}.safetensors"
    with run_folder.whole_file(weights) as part:
      write_weights(part, {"params": params}, weights_header(settings))
    terminal.result(f"weights: {weights}")
  return 0


def _start(weights: str, settings: PretrainSettings) -> PyTree:
  """Parameters to start from."""
  from medlsam_jax.io.weights.kinds import MEDLAM
  from medlsam_jax.loading import load
  from medlsam_jax.medlam.pretraining.starting_parameters import starting_parameters

  network = load(weights, MEDLAM)
  return starting_parameters(cast("MedLAM", network.module), network.variables["params"], settings)


def _both(first: Report, second: Report) -> Report:
  def report(step: int, metrics: Mapping[str, float]) -> None:
    first(step, metrics)
    second(step, metrics)

  return report


def _reporter(optimizer: OptimizerSettings, bar: Bar, terminal: Terminal) -> Report:
  """Shows each report."""

  def report(step: int, metrics: Mapping[str, float]) -> None:
    bar.title("training")
    trained_network.say_step(step, optimizer, metrics, bar, terminal)

  return report
