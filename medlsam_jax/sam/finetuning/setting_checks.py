"""Settings of fine-tuning that cannot go together, refused by the names of their fields before a scan is read."""

from __future__ import annotations

from medlsam_jax.errors import ConfigError
from medlsam_jax.sam.finetuning.settings import FinetuneSettings
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
  section("loss", loss, 0, "dice", "bce", "iou")
  if settings.train != "distill" and not loss.dice + loss.bce:
    raise ConfigError("loss.dice and loss.bce are both 0: no mask would be learned")
  if settings.train == "lora":
    at_least(1, lora_rank=settings.lora_rank)
  if settings.train == "decoder" and settings.batch_norm == "updated":
    raise ConfigError("batch_norm updated: with train decoder the encoder stays as it is; leave it frozen")
  unknown = [name for name in data.windows if name not in WINDOWS_HU]
  if unknown or not data.windows:
    raise ConfigError(f"data.windows {list(data.windows)}: known windows are {list(WINDOWS_HU)}")
  if settings.optimizer.accumulate != 1 or settings.optimizer.ema_decay or settings.optimizer.total_seconds:
    raise ConfigError(
      "optimizer.accumulate, optimizer.ema_decay and optimizer.total_seconds are for pre-training; leave them as they "
      "are"
    )
