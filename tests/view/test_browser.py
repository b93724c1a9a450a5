"""The page in a real browser: load, click six points, save, segment, correct, add; and left in the midst of all that.

Skipped where there is no chromium or no playwright, unless MEDLSAM_BROWSER_TESTS=required is set: then it fails.
"""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from browser_page import CORNERS, click_six, spacing_of
from PIL import Image

from medlsam_jax.cli.provenance import bank_sha256
from medlsam_jax.io.point_files import read_points
from medlsam_jax.io.scans import read_volume
from medlsam_jax.io.templates import read_templates
from medlsam_jax.loading import load
from medlsam_jax.medlam.bank.bank import Bank

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")]


def test_the_picture_shows_the_scan_the_radiologists_way_in_all_three_planes(open_page, tmp_path):
  seen = open_page("scans/q0_ct.nii.gz", "--templates", "none")
  seen.value("medlsam.scene.setWindow({key: 'own', level: 0, width: 2000})")
  volume, spacing = read_volume("scans/q0_ct.nii.gz"), spacing_of(seen)
  from medlsam_jax.view.frame import Frame

  hu = Frame.of(volume.grid).scan(volume.array)
  middle = np.array(hu.shape[::-1]) // 2
  seen.look_at(middle * spacing)
  seen.painted()
  picture = tmp_path / "page.png"
  seen.page.screenshot(path=picture)
  grey = np.asarray(Image.open(picture).convert("L"), float)
  rng = np.random.default_rng(0)
  for plane, along in (("axial", 2), ("coronal", 1), ("sagittal", 0)):
    shown, told = [], []
    while len(shown) < 150:
      voxel = np.array([rng.integers(n) for n in hu.shape[::-1]])
      voxel[along] = middle[along]
      if (np.abs(np.delete(voxel - middle, along)) < 4).any():
        continue  # under the crosshair
      x, y = seen.at(plane, voxel * spacing)
      if 350 < y < 450 or not (60 < y < 700):
        continue  # letters of the orientation, titles and scales
      shown.append(grey[round(y), round(x)])
      told.append(np.clip((hu[tuple(voxel[::-1])] + 1000) / 2000, 0, 1))
    assert np.corrcoef(shown, told)[0, 1] > 0.9, plane
  right, left = (
    seen.at("axial", mm * spacing)[0] for mm in ([middle[0] + 9, *middle[1:]], [middle[0] - 9, *middle[1:]])
  )
  assert right < left  # of the patient
  assert seen.wrong == []


def test_from_six_clicks_to_a_bank_that_grew(open_page, tmp_path, small_network_file):
  seen = open_page("scans/q0_ct.nii.gz", "--templates", "templates", "--out", "out")
  places, spacing = click_six(seen, "alpha"), spacing_of(seen)
  seen.page.click("#save-points")
  seen.told("Saved q0_points.json")

  # the same bank as of points typed by hand
  typed = tmp_path / "typed"
  typed.mkdir()
  shutil.copy("scans/q0_ct.nii.gz", typed)
  volume = read_volume("scans/q0_ct.nii.gz")
  from medlsam_jax.view.frame import Frame

  voxels = Frame.of(volume.grid).from_page(np.array(list(places.values())))
  world = volume.grid.world_from_voxel(np.rint(voxels))[::-1]
  (typed / "q0_points.json").write_text(json.dumps({"coordinate_system": "RAS", "alpha": world.tolist()}))
  clicked = tmp_path / "clicked"
  clicked.mkdir()
  for name in ("q0_ct.nii.gz", "q0_points.json"):
    shutil.copy(Path("templates") / name, clicked)
  network = load(small_network_file)
  ours, theirs = (Bank.build(network, read_templates(folder), "WPL") for folder in (clicked, typed))
  assert bank_sha256(ours) == bank_sha256(theirs)

  seen.page.click("#segment-points")
  seen.told("Painted alpha")
  box = corners_of("out", spacing, volume)
  np.testing.assert_array_equal(box, CORNERS)

  # the upper face, four voxels down
  seen.page.keyboard.press("2")
  top = ((CORNERS.mean(0)[:2] * spacing[:2]).tolist(), (CORNERS[1][2] + 0.5) * spacing[2])
  seen.look_at(CORNERS.mean(0).round() * spacing)
  start = seen.at("coronal", [top[0][0] - 2 * spacing[0], top[0][1], top[1]])
  end = seen.at("coronal", [top[0][0] - 2 * spacing[0], top[0][1], top[1] - 4 * spacing[2]])
  seen.page.mouse.move(*start)
  seen.page.mouse.down()
  seen.page.mouse.move(*end, steps=5)
  seen.page.mouse.up()
  assert "Moved: alpha" in seen.page.inner_text("#organs")
  seen.page.click("#segment")
  seen.page.wait_for_selector("#organs:not(:has-text('Moved'))")
  np.testing.assert_array_equal(corners_of("out", spacing, volume), CORNERS - [[0, 0, 0], [0, 0, 4]])

  seen.page.check("[data-organ=alpha] input")
  seen.page.click("#add")
  seen.page.wait_for_selector("#check")
  row = seen.page.inner_text("#check tr:nth-child(2)").split()
  assert row[0] == "alpha" and all(0 <= float(cell) <= 1 for cell in row[1:4])
  (template,) = (each for each in read_templates("templates") if each.name == "q0")
  assert list(template.values) == ["alpha"] and not template.points

  seen.page.screenshot(path=tmp_path / "grown.png")
  assert seen.wrong == []
  assert {address.split("/")[2] for address in seen.asked} == {seen.address.split("/")[2]}


def corners_of(folder, spacing, volume):
  """The box in a result's file as voxels (x, y, z) of the page."""
  from medlsam_jax.io.box_input import read_boxes
  from medlsam_jax.view.frame import Frame

  frame = Frame.of(volume.grid)
  (low, high) = np.array(frame.box_to_page(read_boxes(Path(folder) / "q0_boxes.json", volume)["alpha"].box))
  return np.rint(np.array([low + spacing / 2, high - spacing / 2]) / spacing)


def test_points_outlive_a_page_that_is_closed_and_a_save_is_whole_or_not_there(open_page):
  seen = open_page("scans/q0_ct.nii.gz", "--templates", "mine")
  click_six(seen, "alpha")
  seen.page.keyboard.press("Escape")
  seen.open()
  seen.page.fill("#organ-name", "alpha")
  seen.page.click("#mark")
  assert seen.value("medlsam.scene.marking.count") == 6
  seen.page.click("#save-points", no_wait_after=True)
  seen.page.close()
  path, until = Path("mine/q0_points.json"), time.monotonic() + 5
  while time.monotonic() < until and not path.exists():
    time.sleep(0.1)
  if path.exists():
    assert list(read_points(path)) == ["alpha"]
  assert not list(Path("mine").glob(".*")) if Path("mine").exists() else True


def test_the_file_that_a_browser_is_opened_with_leads_to_the_page(open_page, monkeypatch):
  from medlsam_jax.serve import opening

  seen, places = open_page("scans/q0_ct.nii.gz", "--templates", "none"), []
  monkeypatch.setattr(opening.webbrowser, "open", places.append)
  seen.context.clear_cookies()
  with opening.opened(seen.address):
    seen.address = places[0]
    seen.page.goto(seen.address)
    seen.page.wait_for_selector("#title:has-text('q0')")
  assert "token" not in seen.page.url and seen.page.url.startswith("http://127.0.0.1:")
  assert seen.wrong == []
