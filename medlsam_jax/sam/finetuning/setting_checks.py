"""Settings of fine-tuning that cannot go together, refused by the names of their fields before a scan is read."""

from __future__ import annotations

from typing import get_args

from medlsam_jax.errors import ConfigError
from medlsam_jax.sam.finetuning.settings import FinetuneSettings, Prompts
from medlsam_jax.sam.finetuning.trained_parts import EMBEDDED
from medlsam_jax.sam.labelled_slices import WINDOWS_HU
from medlsam_jax.train.setting_checks import at_least, check_run, section

_METRICS = ("validation_dice", "organ_")


def check_finetuning(settings: FinetuneSettings) -> None:
  """Refuses a fine-tuning run that could not work, as far as settings alone can tell.

  Raises:
    ConfigError: naming the fields.
  """
  data, loss = settings.data, settings.loss
  check_run(settings, _METRICS)
  section("data", data, 1, "images_per_step", "slice_step", "validation_slice_step")
  section("data", data, 0, "phantoms", "validation_phantoms", "least_pixels", "jitter_px", "threads")
  section("data", data, 0, "vote_jitter_mm", "vote_share", "window_cells")
  section("loss", loss, 0, "dice", "bce", "iou")
  if settings.train != "distill" and not loss.dice + loss.bce:
    raise ConfigError("loss.dice and loss.bce are both 0: no mask would be learned")
  at_least(0, changes_rank=settings.changes_rank)
  if settings.train == "lora":
    at_least(1, lora_rank=settings.lora_rank)
  if settings.train in EMBEDDED and settings.batch_norm == "updated":
    raise ConfigError(f"batch_norm updated: with train {settings.train} the encoder stays as it is; leave it frozen")
  _check_prompts(settings)
  unknown = [name for name in data.windows if name not in WINDOWS_HU]
  if unknown or not data.windows:
    raise ConfigError(f"data.windows {list(data.windows)}: known windows are {list(WINDOWS_HU)}")
  if settings.optimizer.accumulate != 1 or settings.optimizer.ema_decay or settings.optimizer.total_seconds:
    raise ConfigError(
      "optimizer.accumulate, optimizer.ema_decay and optimizer.total_seconds are for pre-training; leave them as they "
      "are"
    )


def _check_prompts(settings: FinetuneSettings) -> None:
  data = settings.data
  if data.prompts not in get_args(Prompts):
    raise ConfigError(f"data.prompts {data.prompts!r}: choose {' or '.join(get_args(Prompts))}")
  if data.vote_share > 1:
    raise ConfigError(f"data.vote_share {data.vote_share}: a share is at most 1")
  if data.window_cells and not (data.prompts == "templates" and settings.train in EMBEDDED):
    raise ConfigError("data.window_cells is for data.prompts templates and train decoder or prompts; leave it at 0")
  if data.prompts != "templates":
    return
  if settings.train == "distill":
    raise ConfigError("data.prompts templates: train distill shows no prompts; leave it at boxes")
  if data.phantoms or data.validation_phantoms:
    raise ConfigError("data.prompts templates: phantoms have no templates; leave data.phantoms at 0, give data.scans")
