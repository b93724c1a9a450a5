"""The page in a real browser while jobs run: nothing of one scan lies over another, and no move is lost unasked.

Skipped where there is no chromium or no playwright, unless MEDLSAM_BROWSER_TESTS=required is set: then it fails.
"""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from browser_page import PATIENCE_MS, spacing_of

from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.scan_result import ScanResult
from medlsam_jax.io.scans import read_volume

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")]


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
