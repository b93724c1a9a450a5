"""What every request to a server on this computer passes first: who asks, from which page, and how much is sent.

A port of the loopback interface is open to every program of every user of the computer, and to the scripts of any web
page that is open in a browser. Hence a token; hence names of hosts and origins are checked: a page elsewhere can
neither ask in the user's name nor come in by a name of its own that it has pointed at 127.0.0.1 (DNS rebinding).
"""

from __future__ import annotations

import hmac
import html
import os
import re
import secrets
import traceback
from collections.abc import Awaitable, Callable, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medlsam_jax.errors import MedlsamError

HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names by which a browser may call this server; others have been pointed here by somebody else's name server."""
CHANGING = ("POST", "PUT", "PATCH", "DELETE")
MAX_UPLOAD_BYTES = 1 << 30
CONTENT_POLICY = (
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
  "connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy: a page may load nothing from elsewhere, send nothing elsewhere, and lie in no frame."""

Report = Callable[[str], None]


def new_token() -> str:
  """A random token of 256 bits, in letters that a URL may hold."""
  return secrets.token_urlsafe(32)


def guarded_app(
  routes: Sequence[BaseRoute],
  token: str,
  report: Report,
  max_upload_bytes: int = MAX_UPLOAD_BYTES,
  content_policy: str = CONTENT_POLICY,
  **more: Any,
) -> Starlette:
  """An application whose every answer has passed `Guard`.

  A handler raises a `MedlsamError` where the request is wrong, which is answered by 400 and `{"detail": text}`. Any
  other exception is answered by 500 without a word of it, and told to `report` by its kind and place in the code: its
  text may hold names of files, and those may hold names of patients.

  Args:
    token: what a request must bring: `Authorization: Bearer TOKEN`, or the cookie that a browser gets by
      `/?token=TOKEN`.
    report: takes a line for the person who started the server.
    max_upload_bytes: largest body of a request.
    more: other arguments of `Starlette`, such as `lifespan` and `exception_handlers`.
  """
  guard = Middleware(Guard, token=token, report=report, max_bytes=max_upload_bytes, policy=content_policy)
  handlers = {MedlsamError: _refused, **more.pop("exception_handlers", {})}
  return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers, **more)


async def _refused(_: Request, error: Exception) -> Response:
  return refusal(400, str(error))


def refusal(status: int, detail: str) -> JSONResponse:
  """An answer that says in one line why there is no other."""
  return JSONResponse({"detail": " ".join(detail.split())}, status)


class _TooLarge(Exception):
  """A body went past the limit while it was read."""


class Guard:
  """ASGI middleware: checks host, origin and token, counts what is sent, and adds the headers of every answer."""

  def __init__(self, app: ASGIApp, token: str, report: Report, max_bytes: int, policy: str):
    self.app, self._token, self._report, self._max_bytes = app, token, report, max_bytes
    self._headers = {
      "Content-Security-Policy": policy,
      "X-Content-Type-Options": "nosniff",
      "Referrer-Policy": "no-referrer",
      "Cross-Origin-Resource-Policy": "same-origin",
      "Cross-Origin-Opener-Policy": "same-origin",
      "Cache-Control": "no-store",
    }

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
      await self.app(scope, receive, send)
      return
    if scope["type"] != "http":  # a websocket: nothing here speaks by one
      await send({"type": "websocket.close", "code": 1008})
      return
    started = False

    async def answer(message: Message) -> None:
      nonlocal started
      started = True
      if message["type"] == "http.response.start":
        headers = MutableHeaders(scope=message)
        for name, value in self._headers.items():
          headers.setdefault(name, value)
      await send(message)

    refused = self._refused(scope)
    try:
      if refused is None:
        await self.app(scope, self._counted(receive), answer)
    except _TooLarge:
      refused = self._too_large()
    except Exception as error:
      self._report(place(error))
      refused = refusal(500, "the server failed; its terminal names the place in the code")
    if refused is not None and not started:
      await refused(scope, receive, answer)

  def _refused(self, scope: Scope) -> Response | None:
    """The answer to a request that is not let through."""
    headers, host = Headers(scope=scope), Headers(scope=scope).get("host", "")
    if _without_port(host) not in HOSTS:
      return refusal(421, f"this server answers to {HOSTS[0]} and localhost only")
    if not _from_here(headers, host, scope["method"]):
      return refusal(403, "asked by a page of another origin")
    if not self._carries_token(headers, host):
      if scope["method"] == "GET" and self._is_token(_query_token(scope)):
        return self._with_cookie(scope, host)
      return refusal(401, "token missing or wrong: open the address that the server printed, or send it as API key")
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > self._max_bytes:
      return self._too_large()
    return None

  def _is_token(self, given: str) -> bool:
    return hmac.compare_digest(given.encode(), self._token.encode())

  def _carries_token(self, headers: Headers, host: str) -> bool:
    kind, _, given = headers.get("authorization", "").partition(" ")
    return (kind.lower() == "bearer" and self._is_token(given.strip())) or self._is_token(_cookie(headers, host))

  def _with_cookie(self, scope: Scope, host: str) -> Response:
    """Keeps the token where no script can read it, and takes it out of the address, which stays in the history."""
    query = [pair for pair in parse_qsl(scope["query_string"].decode("latin-1")) if pair[0] != "token"]
    path = re.sub(r"^/+", "/", scope["path"])  # `//elsewhere` would be another host
    place = path + (f"?{urlencode(query)}" if query else "")
    answer: Response = RedirectResponse(place, 303)
    if Headers(scope=scope).get("sec-fetch-site") == "cross-site":
      # come from a file (`opening`): the browser sends the cookie only when a page of this server asks
      answer = HTMLResponse(f'<!doctype html><meta http-equiv="refresh" content="0;url={html.escape(place)}">')
    answer.set_cookie(_cookie_name(host), self._token, httponly=True, samesite="strict")
    return answer

  def _too_large(self) -> Response:
    return refusal(413, f"more than {self._max_bytes >> 20} MB sent at once")

  def _counted(self, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Reads on until the limit, so that a body without a stated length, or with a wrong one, fills no memory."""
    seen = 0

    async def counted() -> Message:
      nonlocal seen
      message = await receive()
      seen += len(message.get("body", b""))
      if seen > self._max_bytes:
        raise _TooLarge
      return message

    return counted


def _from_here(headers: Headers, host: str, method: str) -> bool:
  """Whether no page of another origin asks; programs that are no browser say nothing of it, and have no cookie."""
  origin = headers.get("origin")
  if origin is not None and origin != f"http://{host}":
    return False
  if headers.get("sec-fetch-site") in ("cross-site", "same-site"):  # `same-site` is another port of this computer
    return method == "GET" and headers.get("sec-fetch-mode") == "navigate"
  by_cookie = "cookie" in headers and "authorization" not in headers
  return origin is not None or method not in CHANGING or not by_cookie


def _without_port(host: str) -> str:
  return re.sub(r":\d+$", "", host)


def _cookie_name(host: str) -> str:
  """Cookies are shared by all ports of a host, so that the port is in the name: two servers do not undo each other."""
  return f"medlsam_{host.rpartition(':')[2] if ':' in host else 80}".replace("]", "")


def _cookie(headers: Headers, host: str) -> str:
  try:
    found = SimpleCookie(headers.get("cookie", "")).get(_cookie_name(host))
  except CookieError:
    return ""
  return found.value if found else ""


def _query_token(scope: Scope) -> str:
  return (parse_qs(scope["query_string"].decode("latin-1")).get("token") or [""])[0]


def place(error: BaseException) -> str:
  """An exception by its kind and the last place of ours in the code, without its text."""
  frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
  ours = [frame for frame in frames if f"{os.sep}medlsam_jax{os.sep}" in frame.filename] or frames
  where = f" at {os.path.basename(ours[-1].filename)}:{ours[-1].lineno}" if ours else ""
  return f"the work on an image failed: {type(error).__name__}{where}"
