"""The Python that pages show is run, block after block, with small files and networks in place of the named."""

import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from box_painter import BoxPainter
from sam_weights import TINY

import medlsam_jax as ml
from medlsam_jax import loading, pipeline
from medlsam_jax.network import Network
from medlsam_jax.sam.network.sam import Sam

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if BLOCK.search(page.read_text())]


@pytest.fixture(scope="module")
def files(tmp_path_factory, mini_templates, mini_queries, small_network_file):
  """What the blocks name."""
  root = tmp_path_factory.mktemp("shown")
  for name in ("templates", "my_templates"):
    shutil.copytree(mini_templates, root / name)
    (root / name / "labels.json").write_text(json.dumps({"liver": 1, "spleen": 2, "pancreas": 3}))
  for name in ("patient.nii.gz", "query_ct.nii.gz", "a_ct.nii.gz", "b_ct.nii.gz"):
    shutil.copy(mini_queries / "q0_ct.nii.gz", root / name)
  (root / "scans.txt").write_text("a_ct.nii.gz\nb_ct.nii.gz\n")
  bank = ml.Bank.build(ml.load(small_network_file), ml.read_templates(root / "templates"), mode="WPL")
  bank.save(root / "organs.safetensors")
  return root


@pytest.fixture
def small_networks(monkeypatch, small_network_file):
  """Those of the package are a small one; SAMs are the tests' own, and boxes are filled."""
  load = loading.load

  def tiny_sam():
    module, edge = Sam(TINY), TINY.image_size
    variables = module.init(jax.random.key(0), jnp.zeros((1, edge, edge, 3)), jnp.array([[0.0, 0.0, 9.0, 9.0]]))
    return Network(module, variables, "sam-tiny", "made up")

  monkeypatch.setattr(loading, "load", lambda name: tiny_sam() if name == "litemedsam" else load(small_network_file))
  monkeypatch.setattr(loading, "load_adapters", lambda path: BoxPainter())
  monkeypatch.setattr(pipeline, "predictor_of", lambda model, dtype=None: BoxPainter())
  monkeypatch.setattr(pipeline, "painter_of", lambda *_, **__: BoxPainter(), raising=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_shown_python_runs(page, files, small_networks, tmp_path, monkeypatch):
  shutil.copytree(files, tmp_path / "here")
  monkeypatch.chdir(tmp_path / "here")
  known = {"ml": ml, "scan": ml.read_volume("patient.nii.gz")}
  known["found"] = ml.localize(ml.load("open"), ml.Bank.load("organs.safetensors"), known["scan"])
  for block in BLOCK.findall(page.read_text()):
    exec(compile(block, str(page), "exec"), known)


def test_blocks_are_found():
  assert {"README.md", "python_interface.md", "new_objective.md"} <= {page.name for page in PAGES}
