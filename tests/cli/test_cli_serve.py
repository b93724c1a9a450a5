"""`medlsam serve`: what it says before it listens, and that it ends."""

import importlib.util
import threading
import time

import httpx
import pytest

from medlsam_jax.serve import listening, viewers


@pytest.fixture
def quick(monkeypatch, painter):
  """A painter without programs to compile."""
  monkeypatch.setattr(viewers, "warm", lambda predictor: None)


def test_a_taken_port_is_told_before_anything_is_loaded(medlsam):
  with listening.listen(0) as taken:
    port = taken.getsockname()[1]
    run = medlsam("serve", "--port", port)
  assert run.code == 2 and run.err.count("\n") == 1 and f"port {port} is taken" in run.err


def test_what_is_missing_is_named_with_its_command(medlsam, monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
  run = medlsam("serve", "--port", 0)
  assert run.code == 2 and "needs uvicorn" in run.err and "serve]" in run.err and run.err.count("\n") == 1


def test_it_says_where_it_is_once_and_answers(medlsam, quick, monkeypatch):
  answers, servers = [], []
  original = listening.server

  def kept(app):
    servers.append(original(app))
    return servers[0]

  def ask(where, key):
    while not servers or not servers[0].started:
      time.sleep(0.01)
    answers.append(httpx.get(f"{where}/healthz", headers={"Authorization": f"Bearer {key}"}).json())
    answers.append(httpx.get(f"{where}/healthz").status_code)
    servers[0].should_exit = True

  def run_and_ask(app, taken):
    asking = threading.Thread(target=ask, args=(listening.address(taken), "k" * 40))
    asking.start()
    listening.server(app).run(sockets=[taken])
    asking.join()

  monkeypatch.setattr(listening, "server", kept)
  monkeypatch.setattr(listening, "run", run_and_ask)
  monkeypatch.setattr("medlsam_jax.serve.guard.new_token", lambda: "k" * 40)
  run = medlsam("serve", "--port", 0, "--quiet")
  assert run.code == 0 and answers == [{"ok": True}, 401]
  assert run.out.count("k" * 40) == 1 and run.out.startswith("server: http://127.0.0.1:")
