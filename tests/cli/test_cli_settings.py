"""Config files and `--section.field VALUE`: typed, checked, unknown fields refused."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import pytest

from medlsam_jax.cli import settings as config
from medlsam_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Inner:
  steps: int = 1
  rate: float = 0.5
  mode: Literal["fast", "exact"] = "exact"
  window: tuple[float, float] = (0.0, 1.0)
  scales: tuple[int, ...] | None = None
  clean: bool = False


@dataclasses.dataclass(frozen=True)
class Outer:
  name: str = "x"
  inner: Inner = dataclasses.field(default_factory=Inner)
  weights: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"a": 1.0})


def resolve(*rest, file=None):
  return config.resolve(Outer(), file, rest)


@pytest.mark.parametrize(
  ("words", "field", "value"),
  [
    (["--inner.steps", "3"], "steps", 3),
    (["--inner.rate=2"], "rate", 2.0),
    (["--inner.mode", "fast"], "mode", "fast"),
    (["--inner.window", "-160,240"], "window", (-160.0, 240.0)),
    (["--inner.scales", "4,2"], "scales", (4, 2)),
    (["--inner.scales", "none"], "scales", None),
    (["--inner.clean", "true"], "clean", True),
    (["--inner.clean=no"], "clean", False),
  ],
)
def test_value_gets_the_type_of_its_field(words, field, value):
  found = getattr(resolve(*words).inner, field)
  assert found == value and type(found) is type(value)


def test_names_and_mappings_can_be_set():
  found = resolve("--name", "run", "--weights.a", "0.25")
  assert (found.name, dict(found.weights)) == ("run", {"a": 0.25})


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--inner.stepz", "3"], "--inner.stepz: unknown setting; here are .*steps"),
    (["--outer", "3"], "--outer: unknown setting"),
    (["--inner.steps", "three"], "'three' is not a whole number"),
    (["--inner.steps", "1.5"], "not a whole number"),
    (["--inner.clean", "maybe"], "not true or false"),
    (["--inner.mode", "slow"], "not one of fast, exact"),
    (["--inner", "3"], "a whole section"),
    (["--inner.steps"], "needs a value"),
    (["stray"], "unknown argument 'stray'"),
    (["--inner.steps.more", "3"], "unknown setting"),
  ],
)
def test_wrong_value_is_refused(words, message):
  with pytest.raises(ConfigError, match=message):
    resolve(*words)


def write(path, body):
  path.write_text("from ml_collections import ConfigDict\ndef get_config(mode=''):\n" + body)
  return path


def test_config_may_hold_a_part_and_the_line_wins(tmp_path):
  file = write(tmp_path / "c.py", "  return ConfigDict({'inner': {'steps': 7 if mode == 'long' else 5, 'rate': 3}})\n")
  assert resolve(file=str(file)).inner == Inner(steps=5, rate=3.0)
  assert resolve("--inner.rate", "4", file=f"{file}:long").inner == Inner(steps=7, rate=4.0)


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ("  return ConfigDict({'inner': {'stepz': 5}})\n", "c.py: inner.stepz: unknown setting; here are .*steps"),
    ("  return ConfigDict({'inner': {'steps': 'five'}})\n", "c.py: inner.steps: 'five' is not a whole number"),
    ("  raise ValueError('no such mode')\n", "c.py: ValueError: no such mode"),
    ("  return 5\n", "c.py: get_config gave int"),
    ("  return (\n", "c.py: SyntaxError"),
  ],
)
def test_faulty_config_is_named(tmp_path, body, message):
  with pytest.raises(ConfigError, match=message):
    resolve(file=str(write(tmp_path / "c.py", body)))


def test_missing_config_is_named():
  with pytest.raises(ConfigError, match=r"none.py: no such config file"):
    resolve(file="none.py")


def test_packaged_configs_are_found_from_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert config.read_config("configs/medlam.py:smoke")["optimizer"]["total_steps"] == 2
  assert config.read_config("configs/pipeline.py:medlsam")["segmentation"]["margin_px"] == 10


def test_pipeline_config_is_the_defaults():
  from medlsam_jax.pipeline import PipelineSettings

  assert config.resolve(PipelineSettings(), "configs/pipeline.py", []) == PipelineSettings()


def test_thresholds_change_the_verdict_settings():
  from medlsam_jax.pipeline import PipelineSettings

  found = config.resolve(PipelineSettings(), None, ["--confidence.similarity", "0.9", "--search.dtype=bfloat16"])
  assert found.confidence.similarity == 0.9 and found.search.dtype == "bfloat16"


def test_out_of_range_value_is_refused():
  from medlsam_jax.pipeline import PipelineSettings

  with pytest.raises(ConfigError, match="window_hu"):
    config.resolve(PipelineSettings(), None, ["--segmentation.window_hu", "240,-160"])


def test_words_change_entries_of_a_mapping_and_files_replace_it(tmp_path):
  file = write(tmp_path / "c.py", "  return ConfigDict({'weights': {'b': 2}})\n")
  assert dict(resolve("--weights.c", "3").weights) == {"a": 1.0, "c": 3.0}
  assert dict(resolve(file=str(file)).weights) == {"b": 2.0}
  assert dict(resolve("--weights.c", "3", file=str(file)).weights) == {"b": 2.0, "c": 3.0}


@pytest.mark.parametrize("given", ["True", "5.5", "None", "'5'"])
def test_a_whole_number_is_nothing_else(tmp_path, given):
  file = write(tmp_path / "c.py", f"  return ConfigDict({{'inner': {{'steps': {given}}}}})\n")
  with pytest.raises(ConfigError, match=r"inner\.steps: .* is not a whole number"):
    resolve(file=str(file))
