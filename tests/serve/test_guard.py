"""Who is let through, what every answer carries, and what is never said (no JAX in here)."""

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from medlsam_jax.errors import InputError
from medlsam_jax.serve.guard import guarded_app, new_token

HERE = "http://127.0.0.1:8123"


async def hello(request):
  return PlainTextResponse("hello")


async def size(request):
  return PlainTextResponse(str(len(await request.body())))


async def wrong(request):
  raise InputError("a line\nwith a break")


async def broken(request):
  raise RuntimeError("/scans/DOE_JANE.nii.gz")


@pytest.fixture
def reports():
  return []


@pytest.fixture
def server(reports):
  routes = [
    Route("/", hello),
    Route("/size", size, methods=["POST"]),
    Route("/wrong", wrong),
    Route("/broken", broken),
  ]
  return guarded_app(routes, "secret", reports.append, max_upload_bytes=1000)


@pytest.fixture
def stranger(server):
  with TestClient(server, base_url=HERE, raise_server_exceptions=False) as client:
    yield client


@pytest.fixture
def program(server):
  headers = {"Authorization": "Bearer secret"}
  with TestClient(server, base_url=HERE, headers=headers, raise_server_exceptions=False) as client:
    yield client


@pytest.fixture
def browser(stranger):
  assert stranger.get("/?token=secret").text == "hello"
  return stranger


def test_no_answer_without_the_token(stranger):
  for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "secret"}, {"Cookie": "medlsam_8123=other"}):
    assert stranger.get("/", headers=headers).status_code == 401
  assert stranger.get("/?token=other").status_code == 401
  assert stranger.post("/size?token=secret").status_code == 401


def test_a_program_sends_the_token_as_a_header(program):
  assert program.get("/").text == "hello"
  assert program.post("/size", content=b"1234").text == "4"


def test_a_browser_gets_a_cookie_that_no_script_reads_and_an_address_without_the_token(stranger):
  first = stranger.get("/?token=secret&scan=a", follow_redirects=False)
  assert (first.status_code, first.headers["location"]) == (303, "/?scan=a")
  cookie = first.headers["set-cookie"].lower()
  assert "httponly" in cookie and "samesite=strict" in cookie
  assert stranger.get("/").text == "hello"


def test_a_browser_that_comes_from_a_file_is_led_on_by_a_page_of_this_server(stranger):
  comes = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
  first = stranger.get("/?token=secret&scan=a%22b", headers=comes, follow_redirects=False)
  # a redirect's request would be one of that file, which gets no strict cookie
  assert first.status_code == 200 and 'content="0;url=/?scan=a%22b"' in first.text and "secret" not in first.text
  assert "samesite=strict" in first.headers["set-cookie"].lower()


def test_the_redirect_stays_on_this_server(stranger):
  sent_to = stranger.get(f"{HERE}//elsewhere.example/?token=secret", follow_redirects=False).headers["location"]
  assert sent_to == "/elsewhere.example/"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8123", "127.0.0.1.evil.example", "localhost@evil", ""])
def test_another_hosts_name_is_refused(program, host):
  assert program.get("/", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8123", "127.0.0.1:9", "[::1]:8123", "localhost"])
def test_names_of_this_computer_are_let_through(program, host):
  assert program.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9", "https://127.0.0.1:8123"])
def test_a_page_of_another_origin_is_refused(browser, origin):
  assert browser.post("/size", headers={"Origin": origin}).status_code == 403
  assert browser.get("/", headers={"Origin": origin}).status_code == 403


def test_a_browser_that_changes_something_says_which_page_asks(browser):
  assert browser.post("/size").status_code == 403
  assert browser.post("/size", headers={"Origin": HERE}).text == "0"


def test_pages_of_other_ports_read_nothing_but_may_link_here(browser):
  for site in ("cross-site", "same-site"):
    assert browser.get("/", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert browser.get("/", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}).status_code == 200


def test_every_answer_has_the_policy(program, stranger):
  for answer in (program.get("/"), program.get("/nowhere"), program.get("/broken"), stranger.get("/")):
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers


def test_a_body_past_the_limit_is_refused_before_it_is_read(program):
  answer = program.post("/size", content=b"x" * 1001)
  assert answer.status_code == 413 and "MB" in answer.json()["detail"]
  assert program.post("/size", content=b"x" * 1000).text == "1000"


def test_a_body_without_a_length_is_read_to_the_limit_only(program):
  sent = []

  def endless():
    for _ in range(1000):
      sent.append(100)
      yield b"x" * 100

  assert program.post("/size", content=endless()).status_code == 413


def test_bad_input_is_one_line(program):
  answer = program.get("/wrong")
  assert (answer.status_code, answer.json()) == (400, {"detail": "a line with a break"})


def test_what_a_failure_says_names_no_file(program, reports):
  answer = program.get("/broken")
  assert answer.status_code == 500
  assert "DOE" not in answer.text and "DOE" not in "".join(reports)
  assert reports and "RuntimeError" in reports[0] and "test_guard.py" in reports[0]


def test_nothing_speaks_by_websocket(program):
  with pytest.raises(WebSocketDisconnect), program.websocket_connect("/"):
    pass


def test_tokens_differ():
  tokens = {new_token() for _ in range(5)}
  assert len(tokens) == 5 and all(len(token) >= 43 for token in tokens)
