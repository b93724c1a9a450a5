"""Settings of training adapters that cannot go together, refused by the names of their fields before a scan is read."""

from __future__ import annotations

from medlsam_jax.errors import ConfigError
from medlsam_jax.sam3d.cube_settings import CubeSettings
from medlsam_jax.sam3d.network.variants import VARIANTS
from medlsam_jax.sam3d.training.settings import AdaptSettings
from medlsam_jax.train.setting_checks import check_run, section, share

_METRICS = ("validation_dice", "organ_")


def check_adapting(settings: AdaptSettings) -> None:
  """Refuses a run that could not work, as far as settings alone can tell.

  Raises:
    ConfigError: naming the fields.
  """
  data, views = settings.data, settings.views
  check_run(settings, _METRICS)
  if settings.model not in VARIANTS:
    raise ConfigError(f"model {settings.model!r} is unknown; choose {', '.join(VARIANTS)}")
  section("data", data, 1, "organs_per_cube", "cubes_per_step")
  section("data", data, 0, "phantoms", "validation_phantoms", "margin", "threads")
  section("views", views, 0, "shift_hu", "noise_hu", "jitter_mm")
  section("loss", settings.loss, 0, "dice", "bce")
  share("data.background", data.background)
  share("views.points", views.points)
  if len(data.window_hu) != 2 or not data.window_hu[0] < data.window_hu[1]:
    raise ConfigError(
      f"data.window_hu {data.window_hu}: give HU shown as black and as white, the first below the second"
    )
  if not CubeSettings(data.spacing_mm, data.window_hu, data.margin).are_of_use:
    raise ConfigError(
      f"data.spacing_mm {data.spacing_mm}, data.window_hu {data.window_hu}, data.margin {data.margin}: no cube can be "
      "cut by these; a spacing is above 0 and below 100 mm, a margin below 10, a window of two numbers"
    )
  if len(views.zoom) != 2 or not 0.1 <= views.zoom[0] <= views.zoom[1] <= 10:
    raise ConfigError(f"views.zoom {views.zoom}: give the least and the largest, from 0.1 to 10")
  if not settings.loss.dice + settings.loss.bce:
    raise ConfigError("loss.dice and loss.bce are both 0: no mask would be learned")
  if settings.optimizer.accumulate != 1 or settings.optimizer.ema_decay:
    raise ConfigError("optimizer.accumulate and optimizer.ema_decay are for pre-training; leave them as they are")
