"""The page of `medlsam view` in a real browser, and hands to work it with."""

import json
import shutil

import numpy as np

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
