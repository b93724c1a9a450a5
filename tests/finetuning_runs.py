"""What tests of fine-tuning share: a small member of the family, settings of a short run, and what a run changed."""

import numpy as np
import quick_programs
from flax.traverse_util import flatten_dict

from medlsam_jax.sam.finetuning import step
from medlsam_jax.sam.finetuning.settings import FinetuneSettings
from medlsam_jax.sam.network.sam import DecoderSizes, SamVariant
from medlsam_jax.sam.network.tiny_vit import TinyViTSizes
from medlsam_jax.typed_settings import from_mapping

LITE = SamVariant(
  "lite-tiny", 32, TinyViTSizes((8, 8, 8, 8), (1, 1, 1, 1), (2, 2, 2, 2), (4, 4, 4, 4), neck=16), "unit",
  DecoderSizes(2, 16, 16),
)  # fmt: skip


def settings(templates, queries=None, **fields):
  data = {"scans": [str(templates)], "slice_step": 12, "validation_slice_step": 20, "images_per_step": 2,
          "least_pixels": 1.0, "threads": 1, "validation": [str(queries)] if queries else []}  # fmt: skip
  values = {
    "optimizer": {
      "kind": "adamw",
      "total_steps": 3,
      "learning_rate": 1e-3,
      "decay": "constant",
      "l2": 0.01,
      "warmup_steps": 0,
      "clip_norm": 0.0,
    },
    "checkpoint": {"every_steps": 100, "best_metric": "validation_dice"},
    "log_every_steps": 1,
    **{name: value for name, value in fields.items() if name != "data"},
    "data": data | fields.get("data", {}),
  }
  return from_mapping(FinetuneSettings, values)


def changed(before, after):
  """First two parts of the names of all tensors that differ."""
  first, second = (flatten_dict(tree, sep="/") for tree in (before, after))
  assert first.keys() == second.keys()
  return {"/".join(n.split("/")[:2]) for n in first if not np.array_equal(np.asarray(first[n]), np.asarray(second[n]))}


def compile_quickly(patch):
  """The training step."""
  quick_programs.compile_quickly(patch, step)
  step._compiled_step.cache_clear()
