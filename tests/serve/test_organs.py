"""Organs of a bank in a viewer's image are those that the library finds in the same scan."""

import numpy as np
import pytest
from box_painter import BoxPainter
from starlette.testclient import TestClient

import medlsam_jax as ml
from medlsam_jax.pipeline import PipelineSettings
from medlsam_jax.serve import wire
from medlsam_jax.serve.organs import Organs
from medlsam_jax.serve.viewers import viewer_app

NAMES = ["alpha", "beta"]


@pytest.fixture(scope="module")
def network(small_network_file):
  return ml.load(small_network_file)


@pytest.fixture(scope="module")
def bank(network, mini_templates):
  return ml.Bank.build(network, ml.read_templates(mini_templates), mode="WPL")


@pytest.fixture(scope="module")
def scan(mini_queries):
  return ml.read_volume(mini_queries / "q0_ct.nii.gz")


@pytest.fixture(scope="module")
def client(network, bank):
  organs = Organs(network, bank, BoxPainter(), PipelineSettings(), 0, {"seed": 0})
  app = viewer_app(BoxPainter(), PipelineSettings().segmentation, "k", print, ahead=False, more_routes=organs.routes)
  with TestClient(app, base_url="http://127.0.0.1", headers={"Authorization": "Bearer k"}) as program:
    program.headers["X-Lease-Token"] = program.post("/claim").json()["lease_token"]
    yield program


@pytest.fixture(scope="module")
def sent(client, scan):
  """The image, as a viewer sends it: nothing says how its axes run."""
  meta = f'{{"image_properties": {{"spacing": {scan.spacing_mm.tolist()}}}}}'
  assert client.post("/set_image", content=wire.packed(scan.array[None]), headers={"X-Meta": meta}).status_code == 200
  return client


@pytest.fixture(scope="module")
def answer(sent, scan):
  return sent.post("/medlsam/find", json={"organs": NAMES, "axis_codes": scan.grid.axis_codes}).json()


def array_of(response):
  box = response.json() if response.headers["content-type"] == "application/json" else None
  assert box is None, box
  return wire.unpacked(response.content, 10**6)


def test_the_banks_organs(client):
  organs = client.get("/medlsam/organs").json()["organs"]
  assert organs == [{"organ": name, "templates": 2} for name in ("alpha", "beta", "gamma")]


def test_findings_are_those_of_localize(answer, network, bank, scan):
  assert answer["format"] == "medlsam_jax boxes 1" and list(answer["organs"]) == NAMES
  for organ, each in ml.localize(network, bank, scan, 0, organs=NAMES).items():
    said = answer["organs"][organ]
    assert said["verdict"] == each.verdict and said["label"] == each.value
    # the viewer says edges of voxels and axes, not the scan's affine
    assert np.allclose(said["box_vox"], each.box.array(), atol=1e-2)


def test_masks_are_those_of_segment(answer, sent, network, bank, scan):
  labels = ml.segment(scan, ml.localize(network, bank, scan, 0, organs=NAMES))
  for organ in NAMES:
    assert answer["organs"][organ]["volume_ml"] == pytest.approx(labels.volumes_ml()[organ], abs=1e-3)
    got = sent.get(f"/medlsam/mask/{organ}")
    assert np.count_nonzero(array_of(got)) == np.count_nonzero(labels[organ]) > 0


def test_a_found_mask_is_what_the_next_answer_shows(answer, sent):
  mask = sent.get("/medlsam/mask/alpha")
  assert sent.post("/medlsam/show", json={"organ": "alpha"}).json() == {}
  shown = sent.post("/predict", json={})
  assert shown.headers["X-Meta"] == mask.headers["X-Meta"] and np.array_equal(array_of(shown), array_of(mask))
  back = sent.post("/undo", json={})
  assert not array_of(back).any() and back.headers["X-Meta"] == mask.headers["X-Meta"]


def test_left_is_not_guessed(sent):
  refused = sent.post("/medlsam/find", json={"organs": NAMES})
  assert refused.status_code == 400 and "left could be taken for right" in refused.json()["detail"]


@pytest.mark.parametrize(
  ("given", "text"),
  [
    ({"organs": ["nobody"]}, "nobody"),
    ({"organs": "alpha"}, "list of names"),
    ({"organs": []}, "list of names"),
    ({"axis_codes": "LLS"}, "three letters"),
    ({"axis_codes": 3}, "three letters"),
  ],
)
def test_what_cannot_be_meant(sent, given, text):
  refused = sent.post("/medlsam/find", json={"axis_codes": "LPS", **given})
  assert refused.status_code == 400 and text in refused.json()["detail"]


def test_masks_that_were_not_found(answer, sent):
  for refused in (sent.get("/medlsam/mask/gamma"), sent.post("/medlsam/show", json={"organ": "gamma"})):
    assert refused.status_code == 400 and refused.json()["detail"] == (
      "no mask of that organ; found and painted: alpha, beta"
    )
