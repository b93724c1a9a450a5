"""The public interface is what docs/python_interface.md promises, and importing it costs nothing."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from box_painter import BoxPainter

import medlsam_jax as ml

PAGE = Path(__file__).parents[1] / "docs" / "python_interface.md"


def test_import_loads_nothing():
  code = "import sys, medlsam_jax; print(sorted({'jax', 'numpy', 'nibabel', 'scipy', 'flax'} & set(sys.modules)))"
  run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
  assert run.stdout.strip() == "[]"


def test_asking_for_a_name_starts_no_backend():
  code = (
    "import medlsam_jax as ml\n"
    "ml.read_volume, ml.load, ml.Bank, ml.localize, ml.segment, ml.metrics, ml.read_templates\n"
    "from jax._src import xla_bridge\n"
    "assert not xla_bridge._backends, xla_bridge._backends"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_every_promised_name_is_there():
  assert set(ml.__all__) == {
    "Bank",
    "Box",
    "EverythingSettings",
    "Finding",
    "Grid",
    "KeptOutputs",
    "Predictor",
    "Prompt",
    "PropagationSettings",
    "SearchSettings",
    "SegmentationSettings",
    "Thresholds",
    "Volume",
    "VoteSettings",
    "errors",
    "load",
    "load_adapters",
    "localize",
    "metrics",
    "packaged_templates",
    "read_boxes",
    "read_templates",
    "read_volume",
    "segment",
    "segment_everything",
    "window_to_bytes",
  }
  assert dir(ml) == ml.__all__
  for name in ml.__all__:
    assert getattr(ml, name) is not None


def test_unknown_name_is_an_attribute_error_that_lists_the_known():
  with pytest.raises(AttributeError, match=r"has no attribute .predict.; its interface is .*segment"):
    _ = ml.predict


@pytest.mark.parametrize("name", ml.__all__)
def test_page_documents_the_name(name):
  assert f"ml.{name}" in PAGE.read_text()


@pytest.mark.parametrize(("name", "thing"), [("localize", ml.localize), ("segment", ml.segment)])
def test_page_names_every_argument(name, thing):
  section = PAGE.read_text().split(f"## `ml.{name}")[1].split("\n## ")[0]
  for argument in inspect.signature(thing).parameters:
    assert f"`{argument}`" in section or re.search(rf"\b{argument}\b", section.split("\n")[0]), argument


def test_the_pages_example_runs(mini_templates, mini_queries, small_network_file, tmp_path, monkeypatch):
  """The first block of code on the page, with small files in place of the named ones."""
  code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)[1]
  code = code.replace('"open"', f'"{small_network_file}"').replace('"templates/"', f'"{mini_templates}"')
  code = code.replace('"query_ct.nii.gz"', f'"{mini_queries / "q0_ct.nii.gz"}"')
  code = code.replace('"query_seg.nii.gz"', f'"{tmp_path / "s.nii.gz"}"').replace("liver", "beta")
  code = code.replace('mode="SPL"', 'mode="WPL"')
  from medlsam_jax import pipeline

  monkeypatch.setattr(pipeline, "predictor_of", lambda model, dtype=None: BoxPainter())
  names = {}
  exec(compile(code, str(PAGE), "exec"), names)
  assert (tmp_path / "s.nii.gz").exists() and set(names["found"]) == {"alpha", "beta", "gamma"}
