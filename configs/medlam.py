"""MedLAM pre-training, UAM + MSS, the published recipe.

medlsam pretrain --config configs/medlam.py --workdir RUN --data.scans DIR_OR_LIST
    base width 24, 300,000 steps of 4 pairs: for one GPU or TPU, or a pod of them (docs/scaling.md).
medlsam pretrain --config configs/medlam.py:tiny --workdir RUN --data.scans REAL_CT,CTA_CT --data.scan_weights 72,8
    the packaged demo network: base width 8, features at half and quarter resolution, 2.5 s a step on two CPU cores.
    It went on from a network of width 4 (`--start-from`); see the model card beside the weights.
medlsam pretrain --config configs/medlam.py:open --workdir RUN
    the packaged network `open`: base width 16, on what `python tools/training_sets.py ../shared/data sets` makes, for
    as long as `--optimizer.total_seconds` says. 480 s on one H100 with 16 cores (5,379 steps) gave box IoU .560 and
    5.2 mm by the published search on people never seen, .772 and 4.0 mm on virtual patients (docs/real_people.md).
medlsam pretrain --config configs/medlam.py:smoke --workdir RUN
    two steps on one phantom, in under two minutes on two cores: shows that everything runs.
"""

import dataclasses

from ml_collections import ConfigDict

from medlsam_jax.medlam.pretraining.settings import PretrainSettings

REGIONS = {"headneck": 45.0, "trunk": 22.0, "torso": 13.0, "heart": 3.0, "phantoms": 17.0}
"""Prepared sets of the packaged network (tools/training_sets.py) and how often each is drawn, in percent.

By numbers of scans heads would be two thirds of the draws, and the one torso with thighs a two-hundredth: in such a
trial left and right femurs were taken for each other.
"""


def get_config(mode: str = "") -> ConfigDict:
  """The config of one mode: `` (published), `open`, `tiny` or `smoke`."""
  config = ConfigDict(dataclasses.asdict(PretrainSettings()))
  if mode:
    config.name = f"medlam_{mode}"
  if mode == "open":
    _learn_from_few_scans(config)
    config.network.base_channels = 16
    config.data.update(scans_per_step=6, threads=16)
    config.data.update(index=tuple(f"sets/{name}" for name in REGIONS), index_weights=tuple(REGIONS.values()))
    config.augment.update(blur_probability=0.25, cut_probability=0.25)
    config.optimizer.update(
      total_steps=100_000, total_seconds=480.0, warmup_steps=100, learning_rate=1e-3, ema_decay=0.998
    )
    config.update(log_every_steps=50)
    config.checkpoint.update(every_steps=1000, keep_last=8)
  elif mode in ("tiny", "smoke"):
    _learn_from_few_scans(config)
    config.network.base_channels = 8
    config.data.update(phantoms=48, validation_phantoms=4, scans_per_step=2)
    config.optimizer.update(total_steps=1420, warmup_steps=60, learning_rate=8e-4, ema_decay=0.995)
    config.update(log_every_steps=10, validate_every_steps=100)
    config.checkpoint.every_steps = 100
  elif mode:
    raise ValueError(f"configs/medlam.py has no mode '{mode}'; it has: (none), open, tiny, smoke")
  if mode == "smoke":
    config.network.base_channels = 4
    config.data.update(phantoms=1, validation_phantoms=1)
    # The published rate: with a higher one rounding grows from step to step, and layouts could not be compared.
    config.optimizer.update(total_steps=2, warmup_steps=1, learning_rate=1e-4)
    config.log_every_steps = 1
  return config.lock()


def _learn_from_few_scans(config: ConfigDict) -> None:
  """What the packaged networks have in common: hundreds of scans and thousands of steps, not the paper's millions."""
  # Stride 4 helps to learn but not to search: on phantoms stride 2 alone finds better boxes, and so do template cubes
  # twice as wide as published (model card).
  config.network.update(feature_scales=(4, 2), search_scales=(2,), template_edge=16, dropout=0.0)
  # As PyTorch's convolutions on a GPU are; what is trained so searches in float32 like any other network.
  config.network.precision = "default"
  config.data.update(patches_per_scan=3, dense_patches=2, points_per_patch=64, position_views="both")
  # One free control point bends by under a voxel; whole-body differences need a stronger field.
  config.augment.update(control_points=7, displacement_vox=8.0, locked_layers=0, noise_sd=0.08)
  config.optimizer.update(l2=0.0, decay="cosine", clip_norm=1.0)
  # UAM's squared mm would drown MSS, which is a mean over the points, in the shared encoder.
  config.objectives.uam.weight, config.objectives.mss.weight = 1e-3, 20.0
