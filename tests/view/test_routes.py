"""Requests reach the desk behind the guard; nothing outside the page's files is given, nothing half is kept."""

import types

import pytest
from starlette.testclient import TestClient

from medlsam_jax.errors import InputError
from medlsam_jax.serve.guard import guarded_app
from medlsam_jax.view import routes

TOKEN = "t" * 40
HERE = "http://127.0.0.1:8742"


class Desk:
  """Remembers what it is asked."""

  def __init__(self):
    self.asked = []

  def __getattr__(self, name):
    def ask(*words):
      self.asked.append((name, *words))
      if name == "about" and words != (0,):
        raise InputError("no scan 7 in this list")
      return types.SimpleNamespace(state=lambda: {"job": 1}) if name in ("find", "segment", "add") else {}

    return ask


@pytest.fixture
def desk():
  return Desk()


@pytest.fixture
def page(desk):
  app = guarded_app(routes.routes(desk), TOKEN, print, max_upload_bytes=routes.MAX_REQUEST_BYTES)
  return TestClient(app, base_url=HERE, headers={"Authorization": f"Bearer {TOKEN}", "Origin": HERE})


def test_the_page_and_its_files_are_given_with_their_kinds_and_no_others(page):
  assert page.get("/").headers["content-type"].startswith("text/html")
  assert page.get("/page/main.js").headers["content-type"].startswith("text/javascript")
  for name in ("nothing.js", "..%2Froutes.py", "%2e%2e/routes.py", "niivue-0.69.0.LICENSES.txt", "/etc/passwd"):
    assert page.get(f"/page/{name}").status_code == 404, name


def test_the_page_loads_nothing_from_elsewhere(page):
  policy = page.get("/").headers["content-security-policy"]
  assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
  text = (routes.PAGE / "index.html").read_text()
  assert "http" not in text and "style=" not in text and "onclick" not in text
  own = [path for path in routes.PAGE.glob("*.js") if not path.name.startswith("niivue-")]
  assert len(own) > 10 and not [path.name for path in own if "http" in path.read_text().replace("https://github", "")]


def test_the_bundle_is_the_one_that_notice_names():
  import hashlib

  bundle = routes.PAGE / "niivue-0.69.0.umd.js"
  told = (routes.PAGE / "niivue-0.69.0.LICENSES.txt").read_text()
  assert hashlib.sha256(bundle.read_bytes()).hexdigest() in told and "BSD 2-Clause License" in told
  assert bundle.name in (routes.PAGE.parents[2] / "NOTICE").read_text()


def test_only_the_adapter_knows_niivue():
  for path in routes.PAGE.glob("*.js"):
    if path.name not in ("niivue_adapter.js", "niivue-0.69.0.umd.js"):
      assert "niivue." not in path.read_text().replace("niivue_adapter.", ""), path.name


@pytest.mark.parametrize(
  ("method", "path", "body", "asked"),
  [
    ("GET", "/api/desk", None, ("overview",)),
    ("GET", "/api/scans/0", None, ("about", 0)),
    ("POST", "/api/scans/3/points", {"points": {"liver": []}}, ("save_points", 3, {"liver": []})),
    ("POST", "/api/scans/3/find", {"organs": []}, ("find", 3, None, False)),
    ("POST", "/api/scans/3/find", {"organs": ["a"], "placed_too": True}, ("find", 3, ["a"], True)),
    ("POST", "/api/scans/3/segment", {"organs": {"a": {}}}, ("segment", 3, {"a": {}})),
    ("POST", "/api/scans/3/add", {"organs": ["a"]}, ("add", 3, ["a"])),
    ("PUT", "/api/scans/3/decision", {"decision": "accept", "note": "n"}, ("decide", 3, "accept", "n")),
    ("PUT", "/api/scans/3/draft", {"liver": {}}, ("keep_draft", 3, {"liver": {}})),
  ],
)
def test_each_request_reaches_the_desk(page, desk, method, path, body, asked):
  assert page.request(method, path, json=body).status_code in (200, 202)
  assert desk.asked == [asked]


@pytest.mark.parametrize("body", [b"", b'{"points": {"liver": [[1, 2', b"[1]", b"\xff", b"[" * 100_000])
def test_a_request_that_broke_off_changes_nothing(page, desk, body):
  answer = page.post("/api/scans/0/points", content=body)
  assert answer.status_code == 400 and "nothing was changed" in answer.json()["detail"] and desk.asked == []


def test_what_is_wrong_is_said_in_a_line(page):
  answer = page.get("/api/scans/7")
  assert answer.status_code == 400 and answer.json() == {"detail": "no scan 7 in this list"}
  assert page.post("/api/scans/0/add", json={"organs": []}).status_code == 400


def test_nobody_is_let_in_without_the_token_nor_from_another_page(page, desk):
  stranger = TestClient(page.app, base_url=HERE)
  assert stranger.get("/api/desk").status_code == 401
  elsewhere = {"Origin": "http://elsewhere.example"}
  assert page.put("/api/scans/0/decision", json={"decision": "reject"}, headers=elsewhere).status_code == 403
  assert desk.asked == []


def test_a_body_that_is_too_large_is_refused(page, desk):
  answer = page.post("/api/scans/0/points", content=b"x" * (routes.MAX_REQUEST_BYTES + 1))
  assert answer.status_code == 413 and desk.asked == []
