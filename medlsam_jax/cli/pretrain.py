"""`medlsam pretrain`: a MedLAM network from unlabelled scans."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medlsam_jax.cli import options
from medlsam_jax.errors import ConfigError, OutputError

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal

METRICS, CONFIG, CHECKPOINTS = "metrics.jsonl", "config.json", "checkpoints"


def add_to(commands: Any) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "pretrain",
    "train a localization network on scans without labels",
    "  medlsam pretrain --config configs/medlam.py:tiny --workdir runs/tiny --data.scans=a_ct.nii.gz,b_ct.nii.gz\n"
    "  Any setting of the config is an option; --optimizer.total_steps 500. The same call resumes a stopped run.\n"
    "  Writes WORKDIR/NAME.safetensors (for --network), metrics.jsonl, config.json and checkpoints/.",
  )
  parser.add_argument(
    "--config",
    default="configs/medlam.py",
    metavar="FILE.py[:MODE]",
    help="settings; modes of configs/medlam.py are tiny and smoke (default: configs/medlam.py, the published recipe)",
  )
  parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")
  options.add_quiet(parser)
  parser.set_defaults(run=run, takes_settings=True)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Trains, or goes on training."""
  from medlsam_jax.cli import settings as config
  from medlsam_jax.results.staging import require_writable, staged

  try:
    from medlsam_jax.training import loop
    from medlsam_jax.training.settings import PretrainSettings
  except ImportError as error:
    raise ConfigError(
      f"training needs packages that are not here ({error.name}); run: pip install 'medlsam_jax[train]'"
    ) from error
  from medlsam_jax.porting.weights_file import write_weights

  settings = config.resolve(PretrainSettings(), arguments.config, arguments.rest)
  workdir = Path(arguments.workdir)
  require_writable(workdir)
  with staged(workdir) as scratch:
    (scratch / CONFIG).write_text(json.dumps(dataclasses.asdict(settings), indent=1) + "\n")
  with terminal.bar("preparing") as bar:
    report = _reporter(workdir / METRICS, settings.optimizer.total_steps, bar, terminal)
    params = loop.run(settings, workdir / CHECKPOINTS, report, bar.title)
  weights = workdir / f"{settings.name}.safetensors"
  write_weights(weights, {"params": params}, loop.weights_header(settings))
  terminal.result(f"weights: {weights}")
  return 0


def _reporter(path: Path, total: int, bar: Any, terminal: Terminal) -> Any:
  """Writes each report as a line of JSON, and shows it."""

  def report(step: int, metrics: Mapping[str, float]) -> None:
    try:
      with open(path, "a") as file:
        file.write(json.dumps({"step": step, **{name: round(value, 6) for name, value in metrics.items()}}) + "\n")
    except OSError as error:
      raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    bar.title("training")
    bar(step, total)
    terminal.say(f"step {step}/{total}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))

  return report
