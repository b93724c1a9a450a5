"""`medlsam finetune` of a volumetric network: adapters beside a base, trained on a user's own labelled scans."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from medlsam_jax.cli import options
from medlsam_jax.cli import settings as config
from medlsam_jax.errors import ConfigError

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.sam3d.training.settings import AdaptSettings

CONFIG = "configs/sam3d.py"


def adapts(arguments: argparse.Namespace) -> bool:
  """Whether a volumetric network is meant: by `--model`, or by a config that names a `model` or is sam3d.py.

  Raises:
    ConfigError: `--model` and a config, an option of fine-tuning slices, or a faulty config.
  """
  of_config = arguments.config is not None and (
    arguments.config.partition(":")[0].endswith("sam3d.py") or "model" in config.read_config(arguments.config)
  )
  if arguments.model is None and not of_config:
    return False
  if arguments.model is not None and arguments.config is not None:
    raise ConfigError(f"--model {arguments.model} names the settings {CONFIG}:{arguments.model}; leave --config away")
  if arguments.bank is not None:
    raise ConfigError("--bank is about slices that templates' masks ask about; volumes are asked for by boxes alone")
  return True


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Trains, or goes on training."""
  from medlsam_jax.cli import networks_and_banks, trained_network
  from medlsam_jax.loading import load
  from medlsam_jax.sam.finetuning.scores_file import VALIDATION_FILE, read_scores
  from medlsam_jax.sam3d.adapter_file import write_adapters
  from medlsam_jax.sam3d.training import recipe
  from medlsam_jax.sam3d.training.setting_checks import check_adapting
  from medlsam_jax.sam3d.training.settings import AdaptSettings
  from medlsam_jax.train import cluster, run_folder

  name = arguments.config or f"{CONFIG}:{arguments.model}"
  settings = config.resolve(AdaptSettings(), name, [*arguments.rest, *options.reading_settings(arguments)])
  check_adapting(settings)
  workdir = run_folder.at(arguments.workdir)
  run_folder.require_writable_run(workdir)
  cluster.connect(settings.cluster)
  base = None
  if settings.start == "base":
    networks_and_banks.fetch(settings.network, terminal)
    base = load(settings.network, for_training=True)
  main = cluster.is_main()
  with trained_network.told(settings, workdir, terminal) as (bar, report):
    adapted = recipe.run(settings, base, workdir, report, bar.title)
  if main:
    step, path = int(adapted.header["trained_steps"]), workdir / f"{settings.name}.safetensors"
    trained_network.tell(read_scores(workdir / VALIDATION_FILE), step or settings.optimizer.total_steps, terminal)
    if not step:
      # drawn at random before training: such a file would paint noise
      terminal.result(no_gain(adapted.header, settings.checkpoint.best_metric))
      return 0
    with run_folder.whole_file(path) as part:
      write_adapters(part, adapted.module, adapted.trained, base, adapted.header)
    terminal.result(f"adapters: {path} ({trained_network.which(adapted.header, settings.checkpoint.best_metric)})")
    terminal.say(f"to paint with them: {use_of(path, settings)}")
  return 0


def no_gain(header: Mapping[str, str], metric: str) -> str:
  """What to say where no step was better than adapters that have learned nothing."""
  return (
    f"no gain: {metric} was {float(header[metric]):.3f} before training, and no step was better. No adapters are "
    "written; take more optimizer.total_steps, another optimizer.learning_rate or more scans in another --workdir"
  )


def use_of(path: object, settings: AdaptSettings) -> str:
  """The command that paints with a file of adapters."""
  organs = f" --organs {','.join(settings.data.organs)}" if settings.data.organs else ""
  return f"medlsam segment --model {path} --templates templates/ --query scan_ct.nii.gz{organs}"
