"""Values print themselves in one line without an array in it, and show tables in notebooks."""

import numpy as np
import pytest

import medlsam_jax as ml
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io.labels import LabelMap

GRID = Grid((12, 16, 20), np.diag([-2.0, -2.0, 2.5, 1.0]))


@pytest.fixture(scope="module")
def everything(mini_templates, mini_queries, small_network_file):
  """One of each kind of value that a user meets."""
  network = ml.load(small_network_file)
  templates = ml.read_templates(mini_templates)
  bank = ml.Bank.build(network, templates, mode="WPL")
  scan = ml.read_volume(mini_queries / "q0_ct.nii.gz")
  found = ml.localize(network, bank, scan)
  labels = LabelMap(np.zeros(scan.grid.shape, np.uint8), scan.grid, {"alpha": 1, "beta": 2})
  organ = next(iter(found.values()))
  kinds = (network, templates[0], bank, bank.organs["alpha"], scan, scan.grid, found, labels, organ, organ.confidence)
  return {type(value).__name__: value for value in kinds}


KINDS = (
  "Network", "Template", "Bank", "OrganBank", "Volume", "Grid", "Findings", "LabelMap", "Finding", "Confidence"
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_prints_one_short_line_without_an_array(everything, kind):
  for text in (str(everything[kind]), repr(everything[kind])):
    assert "\n" not in text and len(text) < 400 and "array(" not in text and "[[" not in text and "np." not in text


@pytest.mark.parametrize(
  ("kind", "words"),
  [
    ("Network", ["small.safetensors", "medlam"]),
    ("Template", ["t0", "3 organs (alpha, beta, gamma)"]),
    ("Bank", ["3 organs (alpha, beta, gamma)", "2 templates (t0, t1)", "WPL"]),
    ("Volume", ["q0_ct.nii.gz", "voxels (z, y, x)", "mm"]),
    ("LabelMap", ["2 organs (alpha 1, beta 2)"]),
    ("Findings", ["alpha", "beta", "gamma"]),
    ("Finding", ["alpha", "box"]),
  ],
)
def test_the_line_says_what_a_user_asks_first(everything, kind, words):
  assert all(word in repr(everything[kind]) for word in words), repr(everything[kind])


@pytest.mark.parametrize("kind", ["Network", "Bank", "Volume", "LabelMap", "Findings"])
def test_notebooks_show_a_table_of_text_alone(everything, kind):
  page = everything[kind]._repr_html_()
  assert page.startswith("<div>") and "array" not in page and len(page) < 6000


def test_names_in_a_table_are_escaped():
  labels = LabelMap(np.zeros(GRID.shape, np.uint8), GRID, {"<b>liver & spleen</b>": 1})
  assert "&lt;b&gt;liver &amp; spleen" in labels._repr_html_() and "<b>" not in labels._repr_html_()


def test_many_names_are_counted_and_one_is_singular():
  labels = LabelMap(np.zeros(GRID.shape, np.uint8), GRID, {f"organ_{n}": n for n in range(1, 62)})
  assert "61 organs (organ_1 1, " in repr(labels) and "and 55 more)" in repr(labels)
  assert "1 organ (a 1)" in repr(LabelMap(np.zeros(GRID.shape, np.uint8), GRID, {"a": 1}))


def test_doubts_stand_in_the_line_of_a_scan():
  scan = Volume(
    np.zeros(GRID.shape, np.float32), GRID, "mr.nii.gz", doubts=("mr.nii.gz: no HU",), notes=("left out a slice",)
  )
  assert repr(scan) == (
    "Volume mr.nii.gz: 12 x 16 x 20 voxels (z, y, x) of 2.5 x 2 x 2 mm, LPS, float32; doubtful: no HU"
  )
  assert "left out a slice" in scan._repr_html_()


def test_a_box_of_numpy_numbers_prints_plain_numbers():
  box = Box(*(tuple(row) for row in np.array([[1, 2, 3], [4.5, 5, 6]])))
  assert repr(box) == "Box(low=(1, 2, 3), high=(4.5, 5, 6))"
