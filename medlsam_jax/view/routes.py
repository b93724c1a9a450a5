"""The page's requests as routes of the guarded server: reads what came, calls `desk`, answers in JSON or bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from medlsam_jax.errors import InputError
from medlsam_jax.view.desk import Desk

PAGE = Path(__file__).parent / "page"
MAX_REQUEST_BYTES = 4 << 20
"""Largest body that the page sends: points of a hundred organs are a hundredth of it."""
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def routes(desk: Desk) -> list[Route]:
  """All that the page asks for."""
  here = _Here(desk)
  scan = "/api/scans/{scan:int}"
  return [
    Route("/", _file),
    Route("/page/{name}", _file),
    Route("/api/desk", here.overview),
    Route(scan, here.about),
    Route(scan + "/ahead", here.ahead, methods=["POST"]),
    Route(scan + "/volume", here.volume),
    Route(scan + "/labels/{which}", here.labels),
    Route(scan + "/draft", here.draft, methods=["PUT"]),
    Route(scan + "/points", here.points, methods=["POST"]),
    Route(scan + "/find", here.find, methods=["POST"]),
    Route(scan + "/segment", here.segment, methods=["POST"]),
    Route(scan + "/add", here.add, methods=["POST"]),
    Route(scan + "/decision", here.decision, methods=["PUT"]),
    Route("/api/jobs/{job:int}", here.job),
    Route("/api/jobs/{job:int}", here.stop, methods=["DELETE"]),
  ]


async def _file(request: Request) -> Response:
  """A file of the page, by a name that is one of them."""
  name = request.path_params.get("name", "index.html")
  known = {path.name: path for path in PAGE.iterdir() if path.suffix in _KINDS}
  if name not in known:
    return JSONResponse({"detail": "no such file of the page"}, 404)
  return Response(known[name].read_bytes(), media_type=_KINDS[known[name].suffix])


class _Here:
  """Handlers; what takes time runs in a thread, so that the page goes on hearing of its jobs."""

  def __init__(self, desk: Desk) -> None:
    self._desk = desk

  async def overview(self, _: Request) -> Response:
    return JSONResponse(await run_in_threadpool(self._desk.overview))

  async def about(self, request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(self._desk.about, _scan(request)))

  async def ahead(self, request: Request) -> Response:
    await run_in_threadpool(self._desk.read_ahead, _scan(request))
    return JSONResponse({})

  async def volume(self, request: Request) -> Response:
    content = await run_in_threadpool(self._desk.volume_bytes, _scan(request))
    return Response(content, media_type="application/octet-stream")

  async def labels(self, request: Request) -> Response:
    which = request.path_params["which"]
    content = await run_in_threadpool(self._desk.label_bytes, _scan(request), which)
    return Response(content, media_type="application/octet-stream")

  async def draft(self, request: Request) -> Response:
    said = await _said(request)
    self._desk.keep_draft(_scan(request), said)
    return JSONResponse({})

  async def points(self, request: Request) -> Response:
    said = await _said(request)
    return JSONResponse(await run_in_threadpool(self._desk.save_points, _scan(request), said.get("points")))

  async def find(self, request: Request) -> Response:
    said = await _said(request)
    organs, placed_too = _organs(said), said.get("placed_too") is True
    return JSONResponse(self._desk.find(_scan(request), organs or None, placed_too).state(), 202)

  async def segment(self, request: Request) -> Response:
    said = await _said(request)
    job = await run_in_threadpool(self._desk.segment, _scan(request), said.get("organs"))
    return JSONResponse(job.state(), 202)

  async def add(self, request: Request) -> Response:
    organs = _organs(await _said(request))
    if not organs:
      raise InputError("choose at least one organ to add")
    return JSONResponse(self._desk.add(_scan(request), organs).state(), 202)

  async def decision(self, request: Request) -> Response:
    said = await _said(request)
    await run_in_threadpool(self._desk.decide, _scan(request), said.get("decision"), said.get("note", ""))
    return JSONResponse({})

  async def job(self, request: Request) -> Response:
    return JSONResponse(self._desk.jobs[request.path_params["job"]].state())

  async def stop(self, request: Request) -> Response:
    self._desk.jobs[request.path_params["job"]].stop()
    return JSONResponse({})


def _scan(request: Request) -> int:
  return int(request.path_params["scan"])


async def _said(request: Request) -> dict[str, Any]:
  """The object that the page sent; a request that broke off is none, and changes nothing.

  Raises:
    InputError: it is no JSON object.
  """
  try:
    said = json.loads(await request.body())
  except (ValueError, RecursionError, ClientDisconnect) as error:
    raise InputError("the request was no JSON, or broke off; nothing was changed") from error
  if not isinstance(said, dict):
    raise InputError("the request was no JSON object; nothing was changed")
  return said


def _organs(said: dict[str, Any]) -> list[str]:
  organs = said.get("organs")
  if not isinstance(organs, list) or not all(isinstance(organ, str) for organ in organs):
    raise InputError("organs are a list of names")
  return organs
