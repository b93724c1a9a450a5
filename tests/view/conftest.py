"""A desk with the mini scans: a network of random weights finds, the templates' masks or a filler of boxes paint."""

import shutil

import pytest
from box_painter import BoxPainter


@pytest.fixture
def make_desk(tmp_path, mini_templates, mini_queries, small_network_file, monkeypatch):
  """Makes a desk by the words of the command line, with copies of the mini scans in the working folder."""
  from medlsam_jax import pipeline
  from medlsam_jax.cli import view
  from medlsam_jax.cli.main import build_parser
  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.view.engine import Engine

  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(pipeline, "predictor_of", lambda model, dtype=None: BoxPainter())
  monkeypatch.setattr(Engine, "_fetch", lambda self, name, job: None)
  shutil.copytree(mini_templates, tmp_path / "templates")
  (tmp_path / "scans").mkdir()
  for name in ("q0", "q1"):
    shutil.copy(mini_queries / f"{name}_ct.nii.gz", tmp_path / "scans")

  def make(*words, **more):
    words = [str(word) for word in ("view", *words, "--network", small_network_file, "--quiet")]
    arguments = build_parser().parse_args(words)
    desk = view.make_desk(arguments, Terminal(quiet=True))
    for name, value in more.items():
      setattr(desk, name, value)
    return desk

  return make
