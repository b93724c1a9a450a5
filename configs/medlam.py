"""MedLAM pre-training, UAM + MSS, the published recipe.

medlsam pretrain --config configs/medlam.py --workdir RUN --data.scans DIR_OR_LIST
    base width 24, 300,000 steps of 4 pairs: for one GPU or TPU, or a pod of them (docs/scaling.md).
medlsam pretrain --config configs/medlam.py:tiny --workdir RUN --data.scans REAL_CT,CTA_CT --data.scan_weights 72,8
    the packaged demo network: base width 8, features at half and quarter resolution, 2.5 s a step on two CPU cores.
    It went on from a network of width 4 (`--start-from`); see the model card beside the weights.
medlsam pretrain --config configs/medlam.py:smoke --workdir RUN
    two steps on one phantom, in under two minutes on two cores: shows that everything runs.
"""

import dataclasses

from ml_collections import ConfigDict

from medlsam_jax.training.settings import PretrainSettings


def get_config(mode: str = "") -> ConfigDict:
  """The config of one mode: `` (published), `tiny` or `smoke`."""
  config = ConfigDict(dataclasses.asdict(PretrainSettings()))
  if mode in ("tiny", "smoke"):
    config.name = f"medlam_{mode}"
    # Stride 4 helps to learn but not to search: on phantoms stride 2 alone finds better boxes, and so do template cubes
    # twice as wide as published (model card).
    config.network.update(base_channels=8, feature_scales=(4, 2), search_scales=(2,), template_edge=16, dropout=0.0)
    config.data.update(phantoms=48, validation_phantoms=4, scans_per_step=2, patches_per_scan=3, dense_patches=2)
    config.data.update(points_per_patch=64, position_views="both")
    # One free control point bends by under a voxel; whole-body differences need a stronger field.
    config.augment.update(control_points=7, displacement_vox=8.0, locked_layers=0, noise_sd=0.08)
    config.optimizer.update(
      total_steps=1420, warmup_steps=60, learning_rate=8e-4, l2=0.0, decay="cosine", clip_norm=1.0, ema_decay=0.995
    )
    # UAM's squared mm would drown MSS, which is a mean over the points, in the shared encoder.
    config.objectives.uam.weight, config.objectives.mss.weight = 1e-3, 20.0
    config.update(log_every_steps=10, validate_every_steps=100)
    config.checkpoint.every_steps = 100
  elif mode:
    raise ValueError(f"configs/medlam.py has no mode '{mode}'; it has: (none), tiny, smoke")
  if mode == "smoke":
    config.network.base_channels = 4
    config.data.update(phantoms=1, validation_phantoms=1)
    # The published rate: with a higher one rounding grows from step to step, and layouts could not be compared.
    config.optimizer.update(total_steps=2, warmup_steps=1, learning_rate=1e-4)
    config.log_every_steps = 1
  return config.lock()
