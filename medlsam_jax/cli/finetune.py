"""`medlsam finetune`: a network of the SAM family trained on a user's own labelled scans."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from medlsam_jax.cli import options
from medlsam_jax.errors import ConfigError
from medlsam_jax.installation import install_hint

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.network import Network, Variables
  from medlsam_jax.sam.finetuning.settings import FinetuneSettings
  from medlsam_jax.train.run_folder import Folder


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "finetune",
    "train LiteMedSAM, or another network of the SAM family, on labelled scans",
    "  medlsam finetune --workdir runs/mine --data.scans=train/ --data.validation=held_out/\n"
    "  train/ holds NAME_ct.nii.gz, NAME_seg.nii.gz and labels.json, as templates do. The same call resumes a stopped\n"
    "  run. Writes WORKDIR/NAME.safetensors (for `medlsam segment --model`; of the best step, none where no step is\n"
    "  better than the network that was given), validation.json (Dice by step, scan and organ), metrics.jsonl,\n"
    "  tensorboard/, config.json, checkpoints/ and embeddings/. A network for volumes, painted with likewise:\n"
    "  medlsam finetune --model sam3d-litemedsam-64 --workdir runs/volumes --data.scans=train/",
  )
  parser.add_argument(
    "--config",
    metavar="FILE.py[:MODE]",
    help="settings; modes of configs/finetune.py are decoder, medsam, lora, distill, prompted and smoke (default: "
    "configs/finetune.py:decoder)",
  )
  parser.add_argument(
    "--model",
    metavar="NAME",
    help="a network for volumes instead, whose adapters are trained beside weights that stay: sam3d-litemedsam-64, "
    "sam3d-vit-b, ... (modes of configs/sam3d.py)",
  )
  parser.add_argument(
    "--workdir", required=True, metavar="DIR", help="folder of the run, or an address such as gs://bucket/run"
  )
  options.add_reading(parser, "the scans of --data.scans")
  parser.add_argument(
    "--bank",
    metavar="FILE_OR_NAME",
    help="with --data.prompts=templates: the templates whose masks ask; each scan is searched and voted on once, and "
    "the votes are kept in WORKDIR/votes",
  )
  parser.add_argument(
    "--localizer", default="open", metavar="NAME_OR_FILE", help="the bank's localization network (default: open)"
  )
  options.add_quiet(parser)
  parser.set_defaults(run=run, takes_settings=True)
  # a region's bank that is in the package is built as `segment --bank` builds it
  parser.set_defaults(
    templates=None, organs=None, labels=None, save_bank=None, mode=None, interval_mm=None, template_edge=None
  )


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Trains, or goes on training."""
  from medlsam_jax.cli import adapt, networks_and_banks, trained_network
  from medlsam_jax.cli import settings as config

  try:
    from medlsam_jax.cli import template_votes
    from medlsam_jax.sam.finetuning import recipe
    from medlsam_jax.sam.finetuning.scores_file import VALIDATION_FILE, read_scores
    from medlsam_jax.sam.finetuning.setting_checks import check_finetuning
    from medlsam_jax.sam.finetuning.settings import FinetuneSettings
    from medlsam_jax.train import cluster, run_folder
  except ImportError as error:
    raise ConfigError(
      f"training needs packages that are not here ({error.name}); run: {install_hint('train')}"
    ) from error
  from medlsam_jax.io.weights.weights_file import write_weights
  from medlsam_jax.loading import load

  if adapt.adapts(arguments):
    return adapt.run(arguments, terminal)
  settings = config.resolve(
    FinetuneSettings(),
    arguments.config or "configs/finetune.py:decoder",
    [*arguments.rest, *options.reading_settings(arguments)],
  )
  check_finetuning(settings)
  check_bank(arguments, settings)
  workdir = run_folder.at(arguments.workdir)
  run_folder.require_writable_run(workdir)
  cluster.connect(settings.cluster)
  networks = []
  for name in (settings.network, settings.teacher):
    if name:
      networks_and_banks.fetch(name, terminal)
      networks.append(load(name, for_training=True))
  main = cluster.is_main()
  if arguments.bank is not None and main:
    template_votes.make(arguments, settings, workdir, terminal)
  with trained_network.told(settings, workdir, terminal) as (bar, report):
    variables, header = recipe.run(settings, networks[0], workdir, report, bar.title, bar, *networks[1:])
  if main:
    step, weights = int(header["trained_steps"]), workdir / f"{settings.name}.safetensors"
    trained_network.tell(read_scores(workdir / VALIDATION_FILE), step or settings.optimizer.total_steps, terminal)
    if not step:
      terminal.result(no_gain(header, settings.checkpoint.best_metric, settings.network))
      return 0
    with run_folder.whole_file(weights) as part:
      write_weights(part, variables, header)
    terminal.result(f"weights: {weights} ({trained_network.which(header, settings.checkpoint.best_metric)})")
    if settings.changes_rank:
      path = write_changes(settings, networks[0], variables, header, workdir)
      terminal.result(f"changes: {path} (of rank {settings.changes_rank}, to be loaded where {settings.network} is)")
  return 0


def write_changes(
  settings: FinetuneSettings, network: Network, variables: Variables, header: Mapping[str, str], workdir: Folder
) -> Folder:
  """The file of what training changed, beside the weights of `network`."""
  from medlsam_jax.io.weights.weights_file import write_weights
  from medlsam_jax.loading import CHANGES_OF
  from medlsam_jax.sam.weight_changes import changes
  from medlsam_jax.train import run_folder

  path = workdir / f"{settings.name}.changes.safetensors"
  origin = {CHANGES_OF: settings.network, f"{CHANGES_OF}_sha256": network.sha256}
  with run_folder.whole_file(path) as part:
    write_weights(part, changes(network.variables, variables, settings.changes_rank), {**header, **origin})
  return path


def check_bank(arguments: argparse.Namespace, settings: FinetuneSettings) -> None:
  """Refuses a bank without `--data.prompts=templates`, and that without a bank or a folder of votes.

  Raises:
    ConfigError: as said.
  """
  by_templates = settings.data.prompts == "templates"
  if arguments.bank is not None and not by_templates:
    raise ConfigError("--bank is for --data.prompts=templates; give both, or neither")
  if by_templates and arguments.bank is None and not settings.data.votes:
    raise ConfigError("--data.prompts=templates: give --bank, the templates that ask; or their votes, --data.votes=DIR")


def no_gain(header: Mapping[str, str], metric: str, network: str) -> str:
  """What to say where training made nothing better."""
  return (
    f"no gain: {metric} was {float(header[metric]):.3f} before training, and no step was better. No weights are "
    f"written; keep {network}, or try another optimizer.learning_rate, optimizer.total_steps or more scans in another "
    "--workdir"
  )
