"""The picture of a result: radiological, in millimetres, with outlines where box and mask are."""

import dataclasses

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io import preview
from medlsam_jax.io import preview_marks as marks
from medlsam_jax.io.labels import LabelMap

ORIENTATIONS = {
  "LPS": [[-1, 0, 0], [0, -1, 0], [0, 0, 1]],
  "RAS": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  "SAR": [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
}


def case(codes, spacing=(2.0, 2.0, 4.0)):
  """A bright ball of 12 mm radius at world (30, 10, -20), and its organ."""
  direction = np.array(ORIENTATIONS[codes], float)
  steps = np.abs(direction.T) @ np.array(spacing)
  affine = np.eye(4)
  affine[:3, :3] = direction * steps
  extent = np.array([160.0, 120.0, 140.0])
  shape_xyz = np.rint(np.abs(direction.T) @ extent / steps).astype(int)
  affine[:3, 3] = -affine[:3, :3] @ (shape_xyz - 1) / 2
  grid = Grid(tuple(int(n) for n in shape_xyz[::-1]), affine)
  where = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
  ball = np.linalg.norm(grid.world_from_voxel(where) - [30, 10, -20], axis=-1) <= 12
  scan = Volume(np.where(ball, 200, -200).astype(np.float32), grid, "ball")
  found = {"ball": Finding.of_boxes("ball", 3, (Box.of_mask(ball),), "found")}
  return scan, found, LabelMap(np.where(ball, 3, 0).astype(np.uint8), grid, {"ball": 3})


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_planes_look_the_same_whatever_the_files_axes(codes):
  scan, found, labels = case(codes)
  scene = preview._Scene.of(scan, labels)
  edges = scene.box(found["ball"].box)
  # display axes (up, back, left): the ball lies low, in front of the middle, on the patient's right
  middle = np.array([140, 120, 160]) / 2
  assert np.allclose(edges.mean(0) - middle, [-20, -10, -30], atol=2.1)
  assert np.abs(edges[1] - edges[0] - 24).max() <= 4.1
  assert np.allclose(np.array(scene.centre(3, edges)) * scene.spacing_mm, edges.mean(0), atol=4.1)


def test_view_is_a_cube_in_mm_inside_the_scan():
  scan, found, labels = case("RAS")
  scene = preview._Scene.of(scan, labels)
  edges = scene.box(found["ball"].box)
  view = preview._view_mm(scene, 3, edges, scene.centre(3, edges))
  size = view[1] - view[0]
  assert size.min() == size.max() == pytest.approx(150)
  assert (view[0] <= edges[0]).all() and (view[1] >= edges[1]).all()


@pytest.mark.parametrize("painted", [True, False])
def test_picture_shows_box_and_mask(tmp_path, painted):
  scan, found, labels = case("LPS")
  preview.write_preview(tmp_path / "p.png", "ball", scan, found, labels if painted else None)
  image = matplotlib.image.imread(tmp_path / "p.png")[..., :3]
  colour = np.array(preview.colours.of(0))
  outline = np.abs(image - colour).max(-1) < 0.05
  assert (outline.sum() > 200) == painted


def test_right_of_the_patient_is_on_the_left_of_the_picture(tmp_path):
  scan, found, labels = case("RAS")
  preview.write_preview(tmp_path / "p.png", "ball", scan, found, labels)
  image = matplotlib.image.imread(tmp_path / "p.png")[..., :3]
  axial = image[:, : image.shape[1] // 3]
  outline = np.abs(axial - np.array(preview.colours.of(0))).max(-1) < 0.05
  assert np.argwhere(outline)[:, 1].mean() < axial.shape[1] / 2


def test_organs_outside_and_boxes_beyond_the_scan_do_not_break_it(tmp_path):
  scan, found, labels = case("LPS")
  found["gone"] = Finding.of_boxes("gone", 4, (Box((-90, 0, 0), (-80, 5, 5)),), "outside field of view")
  found["far"] = Finding.of_boxes("far", 5, (Box((-90, 0, 0), (-80, 5, 5)),), "uncertain")
  preview.write_preview(tmp_path / "p.png", "ball", scan, found, labels)
  nothing = {"gone": found["gone"]}
  preview.write_preview(tmp_path / "q.png", "ball", scan, nothing, labels)
  assert (tmp_path / "p.png").stat().st_size > (tmp_path / "q.png").stat().st_size > 1000


def test_thin_scan_of_one_slice_is_drawn(tmp_path):
  grid = Grid((1, 40, 50), np.diag([-1.0, -1.0, 5.0, 1.0]))
  scan = Volume(np.zeros(grid.shape, np.float32), grid, "thin")
  found = {"a": Finding.of_boxes("a", 1, (Box((0, 5, 5), (0, 20, 20)),))}
  preview.write_preview(tmp_path / "p.png", "thin", scan, found, None)
  assert (tmp_path / "p.png").exists()


def shows(image, colour):
  """Pixels of a colour such as `#8fd694`."""
  wanted = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
  return int((np.abs(image - wanted).max(-1) < 0.02).sum())


def picture(tmp_path, scan, found, labels=None):
  preview.write_preview(tmp_path / "p.png", "ball", scan, found, labels)
  return matplotlib.image.imread(tmp_path / "p.png")[..., :3]


@pytest.mark.parametrize("verdict", ["found", "given"])
def test_nothing_is_green_in_a_doubtful_scan(tmp_path, verdict):
  scan, found, _ = case("LPS")
  found = {"ball": dataclasses.replace(found["ball"], verdict=verdict)}
  green, orange = preview.VERDICT_COLOURS[verdict], preview.DOUBT_COLOUR
  clean = picture(tmp_path, scan, found)
  doubtful = dataclasses.replace(scan, doubts=("its values are no HU",))
  marked = picture(tmp_path, doubtful, {"ball": found["ball"].in_doubtful_scan(doubtful.doubts)})
  assert shows(clean, green) > 50 and not shows(clean, orange)
  assert shows(marked, orange) > 50 and not shows(marked, green)
  assert marked.shape[0] > clean.shape[0]  # the reason has a line of its own


def test_reasons_are_printed_under_the_organ_whole(tmp_path):
  scan, found, _ = case("LPS")
  short = picture(tmp_path, scan, {"ball": dataclasses.replace(found["ball"], doubts=("one template alone",))})
  long = tuple(f"reason {number} why this may well be another organ of the same size" for number in range(6))
  tall = picture(tmp_path, scan, {"ball": dataclasses.replace(found["ball"], doubts=long)})
  assert tall.shape[0] > short.shape[0] > picture(tmp_path, scan, found).shape[0]


def test_panels_have_letters_a_scale_and_names(tmp_path, monkeypatch):
  scan, found, labels = case("LPS")
  other = labels.array.copy()
  other[:8] = 4
  both = dataclasses.replace(labels, array=other, names={"ball": 3, "lower_half": 4})
  written = []
  text, annotate = Axes.text, Axes.annotate
  monkeypatch.setattr(Axes, "text", lambda self, x, y, s, **style: written.append(s) or text(self, x, y, s, **style))
  monkeypatch.setattr(
    Axes, "annotate", lambda self, s, *place, **style: written.append(s) or annotate(self, s, *place, **style)
  )
  preview.write_preview(tmp_path / "p.png", "ball", scan, found, both)
  assert [letter for letter in written if len(letter) == 1] == list("RLAPRLSIAPSI")
  assert written.count("5 cm") == 3 and written.count("ball") == 3
  assert "lower half" in written


def test_the_scale_is_as_long_as_it_says():
  figure = Figure()
  axes = figure.add_axes((0, 0, 1, 1))
  for width_mm, length_mm in ((150, 50), (60, 20), (20, 5), (700, 200)):
    marks.scale(axes, width_mm)
    share = np.ptp(axes.lines[-1].get_xdata())
    assert share * width_mm == pytest.approx(length_mm)
