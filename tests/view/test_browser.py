"""The page in a real browser: load, click six points, save, segment, correct, add; and closed in the midst of a save.

Skipped where there is no chromium or no playwright, unless MEDLSAM_BROWSER_TESTS=required is set: then it fails.
"""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medlsam_jax.cli.provenance import bank_sha256
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.point_files import read_points
from medlsam_jax.io.scan_result import ScanResult
from medlsam_jax.io.scans import read_volume
from medlsam_jax.io.templates import read_templates
from medlsam_jax.loading import load
from medlsam_jax.medlam.bank.bank import Bank

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")]

FLAGS = [
  "--headless",
  "--no-sandbox",
  "--use-gl=angle",
  "--use-angle=swiftshader",
  "--enable-unsafe-swiftshader",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
]
PATIENCE_MS = 300_000
FACES = {"feet": (2, 0), "head": (2, 1), "right": (0, 1), "left": (0, 0), "front": (1, 1), "back": (1, 0)}
"""Axis (x, y, z) and end of each face, in the order in which the page asks."""
CORNERS = np.array([[12, 14, 13], [21, 24, 26]])
"""Voxels (x, y, z) of the page between which the test marks its organ."""


def missing():
  """Why there is no browser; empty where there is one."""
  try:
    import playwright.sync_api  # noqa: F401
  except ImportError:
    return "playwright is not installed"
  return "" if program() else "there is no chromium"


def program():
  names = ("chromium", "chromium-browser", "google-chrome", "chrome")
  return next((found for found in map(shutil.which, names) if found), None)


@pytest.fixture(scope="module")
def browser():
  if why := missing():
    required = os.environ.get("MEDLSAM_BROWSER_TESTS") == "required"
    pytest.fail(why) if required else pytest.skip(why)
  from playwright.sync_api import sync_playwright

  with sync_playwright() as play:
    browser = play.chromium.launch(executable_path=program(), args=FLAGS)
    yield browser
    browser.close()


class Seen:
  """The page, what it complained of, and what it asked for."""

  def __init__(self, browser, address):
    self.context = browser.new_context(viewport={"width": 1280, "height": 800})
    self.page = self.context.new_page()
    self.page.set_default_timeout(PATIENCE_MS)
    self.wrong, self.asked = [], []
    self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
    self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
    self.page.on("request", lambda request: self.asked.append(request.url))
    self.address = address
    self.console = self.context.new_cdp_session(self.page)

  def open(self):
    self.page.goto(self.address)
    self.page.wait_for_selector("#loading", state="hidden")
    self.painted()

  def value(self, text):
    """Of an expression; by the debugger, since the page's policy allows no `eval`."""
    said = self.console.send("Runtime.evaluate", {"expression": text, "returnByValue": True, "awaitPromise": True})
    assert "exceptionDetails" not in said, said
    return said["result"].get("value")

  def painted(self):
    self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

  def look_at(self, mm):
    self.value(f"medlsam.scene.lookAt({json.dumps(list(mm))})")
    self.painted()

  def at(self, plane, mm):
    """Where a place lies on the page, pixels."""
    x, y = self.value(f"medlsam.scene.tiles.{plane}.toScreen({json.dumps(list(mm))})")
    left, top = self.value("(({left, top}) => [left, top])(document.getElementById('overlay').getBoundingClientRect())")
    return left + x, top + y

  def told(self, text):
    self.page.wait_for_selector(f"#message:has-text('{text}')")


@pytest.fixture
def open_page(browser, make_desk):
  """Starts the server for a call of `medlsam view` and opens its page."""
  from medlsam_jax.serve import guard, listening
  from medlsam_jax.view import routes

  ends = []

  def start(*words):
    taken, token = listening.listen(0), guard.new_token()
    app = guard.guarded_app(routes.routes(make_desk(*words)), token, print, routes.MAX_REQUEST_BYTES)
    server = listening.server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    thread.start()
    seen = Seen(browser, f"{listening.address(taken)}/?token={token}")
    ends.append((server, thread, taken, seen))
    seen.open()
    return seen

  yield start
  for server, thread, taken, seen in ends:
    seen.context.close()
    server.should_exit = True
    thread.join(30)
    taken.close()


def spacing_of(seen):
  return np.array(seen.value("medlsam.scene.frame.spacing_mm"))


def six_places(spacing):
  """Voxel middles on the faces of the organ, mm of the page, by face."""
  middle = CORNERS.mean(0).round()
  places = {}
  for key, (axis, end) in FACES.items():
    voxel = middle.copy()
    voxel[axis] = CORNERS[end][axis]
    places[key] = voxel * spacing
  return places


def click_six(seen, organ):
  seen.page.fill("#organ-name", organ)
  seen.page.click("#mark")
  places = six_places(spacing_of(seen))
  for key, mm in places.items():
    assert seen.page.get_attribute("[data-face].now, [data-face][class~=now]", "data-face") == key
    seen.look_at(mm)
    plane = seen.value("medlsam.scene.large")
    seen.page.mouse.click(*seen.at(plane, mm))
  assert seen.value("medlsam.scene.marking.isWhole")
  return places


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


def test_keys_decide_on_a_cohort_and_another_page_goes_on_there(open_page):
  for name, verdict in (("q0", "found"), ("q1", "uncertain")):
    volume = read_volume(f"scans/{name}_ct.nii.gz")
    finding = Finding.of_boxes("alpha", 1, [Box((10, 10, 10), (20, 20, 20))], verdict)
    array = np.zeros(volume.grid.shape, np.uint8)
    array[12:18, 12:18, 12:18] = 1
    ScanResult(name, volume, {"alpha": finding}, LabelMap(array, volume.grid, {"alpha": 1})).write("results", {})
  seen = open_page("--results", "results")
  assert [row.inner_text() for row in seen.page.query_selector_all("#worklist li .name")] == ["q1", "q0"]
  seen.page.keyboard.press("c")
  seen.page.wait_for_selector(".organ.selected[data-organ=alpha]")
  seen.page.keyboard.press("r")
  seen.page.wait_for_selector("li.now[data-scan='1']")
  seen.page.wait_for_selector("#loading", state="hidden")
  seen.page.keyboard.press("a")
  seen.told("All scans are decided")
  said = json.loads(Path("results/decisions.json").read_text())["scans"]
  assert {name: row["decision"] for name, row in said.items()} == {"q1": "reject", "q0": "accept"}
  seen.open()
  assert "2 of 2 decided" in seen.page.inner_text("#worklist")
  assert seen.wrong == []
