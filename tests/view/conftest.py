"""A desk with the mini scans: a network of random weights finds, the templates' masks or a filler of boxes paint."""

import os
import shutil
import threading

import pytest
from box_painter import BoxPainter
from browser_page import FLAGS, Seen, missing, program


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
