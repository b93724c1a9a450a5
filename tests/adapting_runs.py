"""What tests of training adapters share: settings of a short run on the tiny network, and quick compiling."""

import quick_programs

from medlsam_jax.sam3d import cube_predictor
from medlsam_jax.sam3d.training import step
from medlsam_jax.sam3d.training.settings import AdaptSettings
from medlsam_jax.typed_settings import from_mapping

FIELDS = {
  "model": "sam3d-tiny",
  "data": {"organs_per_cube": 2, "spacing_mm": 8.0, "cubes_per_step": 2, "threads": 1},
  "optimizer": {"kind": "adamw", "total_steps": 4, "learning_rate": 3e-3, "decay": "linear", "l2": 0.1,
                "warmup_steps": 0, "clip_norm": 1.0},
  # by a figure that nobody measures no step is the best: the last one's are given, better or not
  "checkpoint": {"every_steps": 100, "best_metric": "organ_none_dice"},
  "log_every_steps": 1,
  "validate_every_steps": 2,
}  # fmt: skip


def settings(scans, validation=None, **fields):
  data = {"scans": [str(scans)], "validation": [str(validation)] if validation else []}
  merged = {name: FIELDS.get(name, {}) | value if isinstance(value, dict) else value for name, value in fields.items()}
  merged = {**FIELDS, **merged}
  return from_mapping(AdaptSettings, {**merged, "data": {**FIELDS["data"], **data, **fields.get("data", {})}})


def words(scans, validation, **fields):
  """The same settings for a command line."""

  def said(value):
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

  flat = {f"{section}.{field}": value for section, values in FIELDS.items() if isinstance(values, dict)
          for field, value in values.items()}  # fmt: skip
  flat |= {name: value for name, value in FIELDS.items() if not isinstance(value, dict)}
  flat |= {"data.scans": scans, "data.validation": validation, **fields}
  return [f"--{name}={said(value)}" for name, value in flat.items() if name != "model"]


def compile_quickly(patch):
  """The training step, and painting."""
  quick_programs.compile_quickly(patch, step, cube_predictor)
  step.make_step.cache_clear()
  cube_predictor._program.cache_clear()
