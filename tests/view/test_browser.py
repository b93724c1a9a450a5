"""The page in a real browser: load, click six points, save, segment, correct, add; and left in the midst of all that.

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

  def __init__(self, browser, address, desk):
    self.desk = desk
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
    desk = make_desk(*words)
    app = guard.guarded_app(routes.routes(desk), token, print, routes.MAX_REQUEST_BYTES)
    server = listening.server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    thread.start()
    seen = Seen(browser, f"{listening.address(taken)}/?token={token}", desk)
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


def write_results(name, verdicts):
  """A result of organs side by side, with these verdicts."""
  volume = read_volume(f"scans/{name}_ct.nii.gz")
  findings, array = {}, np.zeros(volume.grid.shape, np.uint8)
  for value, (organ, verdict) in enumerate(verdicts.items(), 1):
    low = 10 * value
    findings[organ] = Finding.of_boxes(organ, value, [Box((10, 10, low), (20, 20, low + 8))], verdict)
    array[12:18, 12:18, low + 2 : low + 6] = value
  names = {organ: each.value for organ, each in findings.items()}
  ScanResult(name, volume, findings, LabelMap(array, volume.grid, names)).write("results", {})


class Gate:
  """Lets a method of a class wait until it is opened."""

  def __init__(self, monkeypatch, kind, name, waits=lambda *words: True):
    self._opened, self.reached = threading.Event(), threading.Event()
    done = getattr(kind, name)

    def waiting(this, *words):
      if waits(*words):
        self.reached.set()
        assert self._opened.wait(PATIENCE_MS / 1000)
      return done(this, *words)

    monkeypatch.setattr(kind, name, waiting)

  def open(self):
    self._opened.set()


def drag(seen, organ, voxels):
  """Chooses an organ and drags the upper (head) face of its box down, in the coronal plane."""
  if seen.value("medlsam.scene.selected") != organ:
    seen.page.click(f"[data-organ={organ}] .name")
  seen.page.keyboard.press("2")
  low, high = (np.array(seen.value(f"medlsam.scene.placed.{end}")) for end in ("low", "high"))
  middle = (low + high) / 2
  seen.look_at(np.rint(middle / spacing_of(seen)) * spacing_of(seen))
  beside = middle[0] - (high - low)[0] / 4
  seen.page.mouse.move(*seen.at("coronal", [beside, middle[1], high[2]]))
  seen.page.mouse.down()
  seen.page.mouse.move(*seen.at("coronal", [beside, middle[1], high[2] - voxels * spacing_of(seen)[2]]), steps=4)
  seen.page.mouse.up()
  return high[2] - voxels * spacing_of(seen)[2]


def head_face(seen, organ):
  (found,) = (each for each in seen.desk.about(seen.value("medlsam.state.current"))["organs"] if each["name"] == organ)
  return found["box"][1][2]


def asks_before_it_closes(seen):
  return seen.value(
    "(() => { const event = new Event('beforeunload', {cancelable: true});"
    " window.dispatchEvent(event); return event.defaultPrevented; })()"
  )


def test_a_job_that_ends_while_the_next_scan_loads_leaves_that_scan_its_own_masks(open_page, monkeypatch):
  from medlsam_jax.view.desk import Desk
  from medlsam_jax.view.engine import Engine

  write_results("q0", {"beta": "found"})
  write_results("q1", {"alpha": "uncertain"})
  seen = open_page("--results", "results")
  painting = Gate(monkeypatch, Engine, "paint")
  loading = Gate(monkeypatch, Desk, "volume_bytes", lambda number: number == 1)
  drag(seen, "alpha", 3)
  seen.page.keyboard.press("Enter")
  assert painting.reached.wait(60)
  seen.page.keyboard.press("n")
  assert loading.reached.wait(60)
  painting.open()
  assert seen.desk.jobs[1].ended.wait(60)
  time.sleep(1)  # by now the page has heard of it
  loading.open()
  seen.told("Painted alpha in q1")
  seen.page.wait_for_selector("#loading", state="hidden")
  shown = "[medlsam.state.current, medlsam.state.about.id, medlsam.scene.organs.map((organ) => organ.name)]"
  assert seen.page.inner_text("#title") == "q0" and seen.value(shown) == [1, 1, ["beta"]]
  assert [row.get_attribute("data-organ") for row in seen.page.query_selector_all("#organs .organ")] == ["beta"]
  assert "corrected" in seen.page.inner_text("#worklist li[data-scan='0']")
  assert seen.wrong == []


def test_a_scan_that_cannot_be_loaded_shows_nothing_of_the_one_before_and_can_be_left(open_page, monkeypatch):
  from medlsam_jax.errors import InputError
  from medlsam_jax.view.desk import Desk

  for name in ("q0", "q1"):
    write_results(name, {"alpha": "found"})
  seen = open_page("--results", "results")
  read = Desk.volume_bytes

  def fails(desk, number):
    if number == 1:
      raise InputError("q1: damaged")
    return read(desk, number)

  monkeypatch.setattr(Desk, "volume_bytes", fails)
  seen.page.keyboard.press("n")
  seen.page.wait_for_selector("#loading:has-text('q1: damaged')")
  seen.painted()
  assert seen.page.inner_text("#title") == "q1" and seen.page.inner_text("#panel").strip() == ""
  assert not seen.page.is_visible("#scan") and not seen.page.is_visible("#overlay")
  seen.page.keyboard.press("p")
  seen.page.wait_for_selector("#loading", state="hidden")
  assert seen.page.inner_text("#title") == "q0" and seen.page.is_visible("#scan") and seen.page.is_visible("#overlay")


def test_moves_outlive_the_jobs_of_others_and_are_not_lost_without_a_question(open_page, monkeypatch, tmp_path):
  from medlsam_jax.view.engine import Engine

  write_results("q0", {"alpha": "found", "beta": "found"})
  write_results("q1", {"alpha": "found"})
  seen = open_page("--results", "results")
  painting = Gate(monkeypatch, Engine, "paint")
  alpha = drag(seen, "alpha", 2)
  seen.page.keyboard.press("Enter")
  assert painting.reached.wait(60)
  beta = drag(seen, "beta", 3)
  again = drag(seen, "alpha", 1)
  seen.page.keyboard.press("Enter")
  seen.told("Something is at work")
  painting.open()
  seen.told("Painted alpha")
  assert head_face(seen, "alpha") == pytest.approx(alpha, abs=0.01) != again
  assert "Moved: alpha, beta" in seen.page.inner_text("#organs")
  seen.page.keyboard.press("Control+z")  # the second move of alpha alone: the first is painted
  assert "Moved: beta" in seen.page.inner_text("#organs")
  assert seen.value("medlsam.scene.placed.high[2]") == pytest.approx(alpha, abs=0.01)

  for key in ("n", "a", "r"):
    seen.page.keyboard.press(key)
    seen.page.wait_for_selector("#question[open]:has-text('beta')")
    seen.page.screenshot(path=tmp_path / "question.png")
    seen.page.keyboard.press("Enter" if key == "a" else "Escape")  # loses nothing either
    seen.page.wait_for_selector("#question", state="hidden")
  assert seen.page.inner_text("#title") == "q0" and not Path("results/decisions.json").exists()
  assert asks_before_it_closes(seen)
  seen.page.keyboard.press("Enter")
  seen.told("Painted beta")
  assert head_face(seen, "beta") == pytest.approx(beta, abs=0.01) and not asks_before_it_closes(seen)
  drag(seen, "beta", 1)
  seen.page.keyboard.press("a")
  seen.page.click("#question button:has-text('Go on without them')")
  seen.page.wait_for_selector("li.now[data-scan='1']")
  seen.page.wait_for_selector("#loading", state="hidden")
  assert seen.page.inner_text("#title") == "q1" and not asks_before_it_closes(seen)
  assert [line.split(":")[1] for line in seen.wrong] == [" Something is at work"]


def test_a_move_whose_job_fails_can_be_sent_again(open_page, monkeypatch):
  from medlsam_jax.errors import InputError
  from medlsam_jax.view.engine import Engine

  write_results("q0", {"alpha": "found"})
  seen = open_page("scans/q0_ct.nii.gz", "--results", "results")
  with monkeypatch.context() as broken:

    def fails(*_):
      raise InputError("no room")

    broken.setattr(Engine, "paint", fails)
    alpha = drag(seen, "alpha", 2)
    seen.page.keyboard.press("Enter")
    seen.told("no room")
  assert "Moved: alpha" in seen.page.inner_text("#organs")
  seen.page.click("#segment")
  seen.told("Painted alpha")
  assert head_face(seen, "alpha") == pytest.approx(alpha, abs=0.01)


def test_organs_placed_by_hand_are_looked_for_again_only_if_that_is_said(open_page):
  write_results("q0", {"alpha": "given", "beta": "found"})
  seen = open_page("scans/q0_ct.nii.gz", "--results", "results", "--templates", "templates")
  said = []

  def refuse(route):
    said.append(route.request.post_data_json)
    route.fulfill(status=400, json={"detail": f"refused {len(said)}"})

  seen.page.route("**/find", refuse)
  seen.page.click("#find")
  seen.page.wait_for_selector("#question[open]:has-text('alpha')")
  assert "beta" not in seen.page.inner_text("#question")
  seen.page.click("#question button:has-text('Cancel')")
  for words in ("Keep them", "Find them too"):
    seen.page.click("#find")
    seen.page.click(f"#question button:has-text('{words}')")
    seen.told(f"refused {len(said) or 1}")
  assert [each["placed_too"] for each in said] == [False, True]


def test_keys_decide_on_a_cohort_and_another_page_goes_on_there(open_page):
  for name, verdict in (("q0", "found"), ("q1", "uncertain")):
    write_results(name, {"alpha": verdict})
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
