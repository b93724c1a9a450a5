"""Adapters that make a 2D network of the SAM family one for volumes (3DMedSAM), trained on labelled CT.

medlsam finetune --model sam3d-litemedsam-64 --workdir runs/neck --data.scans=train/ --data.validation=held_out/
    Adapters of LiteMedSAM for cubes of 64 voxels at 2 mm, 128 mm an edge. 6 to 17 s a step on two CPU cores
    that other jobs used too.
medlsam finetune --model sam3d-vit-b --workdir runs/kidney --data.scans=train/ --data.validation=held_out/
    The sizes and the recipe of the published relative (3DSAM-adapter) on SAM's ViT-B: cubes of 128 voxels at 1 mm,
    AdamW 4e-4, no decay, linear to a hundredth, one cube a step, clipped at 1; for accelerators. Its windows by data
    set: kidney tumours -54 to 247 HU, liver -48 to 163, pancreas -39 to 204, colon -57 to 175
    (--data.window_hu=-54,247).
medlsam finetune --config configs/sam3d.py:scratch --workdir runs/control --data.scans=train/
    --data.validation=held_out/
    The control: the network of the first mode with everything drawn at random and trained.
medlsam finetune --config configs/sam3d.py:smoke --workdir /tmp/smoke
    Two steps of the first mode on a phantom: shows that everything runs.
"""

import dataclasses

from ml_collections import ConfigDict

from medlsam_jax.sam3d.network.variants import VARIANTS
from medlsam_jax.sam3d.training.settings import AdaptSettings

MODES = tuple(name for name in VARIANTS if name != "sam3d-tiny")
"""Networks on published weights; the tiny one's base is none."""


def get_config(mode: str = "sam3d-litemedsam-64") -> ConfigDict:
  """The config of one mode: a name of `MODES`, `scratch` or `smoke`."""
  config = ConfigDict(dataclasses.asdict(AdaptSettings()))
  config.name = f"adapters_{mode}"
  if mode in MODES:
    config.model, config.network = mode, VARIANTS[mode].base.name
    if mode != "sam3d-litemedsam-64":
      config.data.spacing_mm, config.data.organs_per_cube = 1.0, 1
      config.dtype = "bfloat16"
  elif mode == "scratch":
    config.start = "scratch"
  elif mode == "smoke":
    config.data.update(phantoms=1, validation_phantoms=1, organs=("liver", "spleen"), spacing_mm=4.0)
    config.optimizer.update(total_steps=2, warmup_steps=1)
    config.log_every_steps = 1
  else:
    raise ValueError(f"configs/sam3d.py has no mode '{mode}'; it has: {', '.join(MODES)}, scratch, smoke")
  return config.lock()
