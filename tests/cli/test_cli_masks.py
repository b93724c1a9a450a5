"""`segment --masks`: the templates paint without any network, a network where it is asked for or they have no mask."""

import json

import nibabel
import numpy as np
import pytest
from box_painter import BoxPainter
from safetensors.numpy import load_file, save_file
from sam_weights import tiny_network

from medlsam_jax import pipeline
from medlsam_jax.cli import networks_and_banks
from medlsam_jax.metrics import dice
from medlsam_jax.sam import device_painting
from medlsam_jax.sam.predictor import Predictor


@pytest.fixture
def no_network(monkeypatch):
  def refuse(model, terminal, dtype=None):
    raise AssertionError(f"{model} was loaded")

  monkeypatch.setattr(networks_and_banks, "predictor_of", refuse)


@pytest.fixture
def old_bank(mini_bank, tmp_path):
  """As banks were written before they kept masks."""
  from safetensors import safe_open

  with safe_open(mini_bank, framework="numpy") as file:
    header = file.metadata()
  arrays = {name: array for name, array in load_file(mini_bank).items() if ".crop." not in name}
  save_file(arrays, tmp_path / "old.safetensors", metadata=header)
  return tmp_path / "old.safetensors"


def origin_of(folder):
  return json.loads((folder / "q0_boxes.json").read_text())["provenance"]


def test_templates_paint_without_a_network(medlsam, no_network, search, one_query, tmp_path):
  result = medlsam("segment", *search, "--query", one_query, "--out", tmp_path / "out")
  assert (result.code, result.err) == (0, "")
  origin = origin_of(tmp_path / "out")
  assert origin["painted"] == {"templates": ["beta", "alpha"]} and "segmentation" not in origin["networks"]
  assert origin["settings"]["masks"]["sharpness"] == 4 and "segmentation" not in origin["settings"]


def test_a_corrected_box_is_painted_by_the_bank(medlsam, no_network, mini_bank, one_query, mini_queries, tmp_path):
  truth = np.asarray(nibabel.load(mini_queries / "q0_seg.nii.gz").dataobj).T == 2
  where = np.argwhere(truth)
  box = {"box_vox": [where.min(0).tolist(), where.max(0).tolist()], "label": 2}
  (tmp_path / "mine.json").write_text(json.dumps({"organs": {"beta": box}}))
  words = ["--boxes", tmp_path / "mine.json", "--bank", mini_bank, "--query", one_query, "--out", tmp_path / "out"]
  assert medlsam("segment", *words).code == 0
  origin = origin_of(tmp_path / "out")
  assert origin["painted"] == {"templates": ["beta"]} and origin["bank"]["templates"] == ["t0", "t1"]
  mask = np.asarray(nibabel.load(tmp_path / "out" / "q0_seg.nii.gz").dataobj).T == 2
  assert dice(mask, truth) > 0.5


def test_an_option_of_the_network_means_the_network(medlsam, painter, search, one_query, tmp_path):
  for number, words in enumerate((["--masks", "network"], ["--axes", "coronal"], ["--segmentation.margin_px", 5])):
    out = tmp_path / str(number)
    assert medlsam("segment", *search, "--query", one_query, "--out", out, *words).code == 0
    assert origin_of(out)["painted"] == {"network": ["beta", "alpha"]}


def test_operands_reach_the_network_and_stand_in_the_result(medlsam, monkeypatch, search, one_query, tmp_path):
  def painter_of(model, terminal, dtype=None):
    painter = BoxPainter()
    painter.operands = dtype or "float32"
    return painter

  monkeypatch.setattr(networks_and_banks, "predictor_of", painter_of)
  words = ["segment", *search, "--query", one_query]
  assert medlsam(*words, "--out", tmp_path / "a", "--dtype", "bfloat16").code == 0
  assert origin_of(tmp_path / "a")["networks"]["segmentation"]["operands"] == "bfloat16"
  assert medlsam(*words, "--out", tmp_path / "b", "--masks", "network").code == 0
  assert "operands" not in origin_of(tmp_path / "b")["networks"]["segmentation"]


def test_a_bank_without_masks_is_painted_by_the_network(medlsam, painter, search, old_bank, one_query, tmp_path):
  words = ["segment", "--bank", old_bank, *search[2:], "--query", one_query]
  assert medlsam(*words, "--out", tmp_path / "out").code == 0
  assert origin_of(tmp_path / "out")["painted"] == {"network": ["beta", "alpha"]}
  result = medlsam(*words, "--out", tmp_path / "asked", "--masks", "templates")
  assert result.code == 1 and "no template has a mask of beta, alpha" in result.err


@pytest.mark.parametrize(
  ("words", "said"),
  [
    (["--model", "litemedsam"], "--model is about the network"),
    (["--propagate"], "--propagate is about the network"),
    (["--segmentation.margin_px", "5"], "a segmentation setting is about the network"),
  ],
)
def test_templates_alone_and_an_option_of_the_network_contradict(medlsam, search, one_query, tmp_path, words, said):
  result = medlsam("segment", *search, "--query", one_query, "--out", tmp_path / "out", "--masks", "templates", *words)
  assert result.code == 2 and said in result.err


def test_templates_prompt_a_network(medlsam, painter, search, one_query, tmp_path):
  words = ["segment", *search, "--query", one_query]
  assert medlsam(*words, "--out", tmp_path / "out", "--masks", "prompted", "--masks.vote_share", 0.25).code == 0
  origin = origin_of(tmp_path / "out")
  assert (
    origin["painted"] == {"prompted": ["beta", "alpha"]} and origin["networks"]["segmentation"]["sha256"] == "0" * 64
  )
  assert origin["settings"]["masks"]["vote_share"] == 0.25 and "propagation" not in origin["settings"]
  assert medlsam(*words, "--out", tmp_path / "alone", "--masks", "templates").code == 0
  prompted, alone = (nibabel.load(tmp_path / out / "q0_seg.nii.gz").get_fdata() for out in ("out", "alone"))
  assert (prompted > 0).any() and not np.array_equal(prompted, alone)


@pytest.mark.parametrize(
  ("words", "said"), [(["--axes", "all"], "leave --propagate and --axes away"), (["--masks.vote_share", "2"], "share")]
)
def test_what_a_prompted_network_cannot_do_is_refused(medlsam, painter, search, one_query, tmp_path, words, said):
  result = medlsam("segment", *search, "--query", one_query, "--out", tmp_path / "out", "--masks", "prompted", *words)
  assert result.code == 2 and said in result.err


def test_templates_are_needed_beside_boxes(medlsam, one_query, tmp_path):
  (tmp_path / "mine.json").write_text(json.dumps({"organs": {"beta": {"box_vox": [[1, 1, 1], [4, 4, 4]]}}}))
  words = ["--boxes", tmp_path / "mine.json", "--query", one_query, "--out", tmp_path / "out", "--masks", "templates"]
  result = medlsam("segment", *words)
  assert result.code == 2 and "give --bank FILE beside --boxes" in result.err


def test_what_paints_is_compiled_while_organs_are_looked_for_and_waited_for(
  medlsam, search, one_query, tmp_path, monkeypatch
):
  seen, predictor = [], Predictor(tiny_network())

  class Spy:
    def __init__(self, network):
      assert network is predictor
      seen.append("begun")

    def wait(self):
      seen.append("waited")

  def watched(name):
    run = getattr(pipeline, name)
    monkeypatch.setattr(pipeline, name, lambda *given, **named: seen.append(name) or run(*given, **named))

  monkeypatch.setattr(networks_and_banks, "painter_of", lambda model, terminal, dtype=None: predictor)
  monkeypatch.setattr(device_painting, "rehearse", Spy)
  watched("localize")
  watched("segment")
  words = ["--query", one_query, "--out", tmp_path / "out", "--masks", "network"]
  assert medlsam("segment", *search, *words).code == 0
  assert seen == ["begun", "localize", "waited", "segment"]
