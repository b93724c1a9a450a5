"""Settings of `medlsam localize`, `segment` and `evaluate`: search, verdicts, segmentation. These are the defaults.

medlsam segment --config configs/pipeline.py --templates DIR --query CT.nii.gz
medlsam segment --config configs/pipeline.py:medlsam ...
    slices and boxes prepared as in the MedLSAM paper.
A copy may hold a part of the fields only. Single ones: `--confidence.similarity 0.6 --search.dtype bfloat16`.
"""

import dataclasses

from ml_collections import ConfigDict

from medlsam_jax.pipeline import PipelineSettings
from medlsam_jax.sam.segmentation_settings import PRESETS


def get_config(mode: str = "litemedsam") -> ConfigDict:
  """The settings, with one of the segmentation presets `litemedsam` and `medlsam`."""
  if mode not in PRESETS:
    raise ValueError(f"configs/pipeline.py has no mode '{mode}'; it has: {', '.join(PRESETS)}")
  return ConfigDict(dataclasses.asdict(PipelineSettings(segmentation=PRESETS[mode]))).lock()
