"""The requests of nnInteractive's remote sessions (nninteractive-client 2.5.1 to 2.6), answered by SAM's family.

A client claims a session and sends its token with every request. It sends an image once, and then marks; each answer is
the part of the mask that has changed. What was sent beside an array stands in a header, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from medlsam_jax import geometry
from medlsam_jax.errors import InputError
from medlsam_jax.serve import wire
from medlsam_jax.serve.guard import refusal
from medlsam_jax.serve.leases import FullError, GoneError, Leases
from medlsam_jax.serve.mask_changes import Change
from medlsam_jax.serve.session import Session

META, LEASE = "x-meta", "x-lease-token"
CLIENT_VERSION = "2.6.0"
"""Of nninteractive-client, by which this is tested."""
_OLDER = ("/upload_image", "/upload_segment", "/add_bbox", "/add_point")
"""Beginnings of what front ends asked for before there were sessions."""
_BUFFER_TYPES = ("bool", "uint8", "uint16", "int16", "int32", "float32")

Handler = Callable[[Request], Awaitable[Response]]


def capabilities(license_text: str, session: Session) -> dict[str, Any]:
  """What a viewer is told when it connects; the channels are nnInteractive's own and mean nothing here."""
  return {
    "supported_interactions": dict.fromkeys(("points", "bbox2d", "bbox3d", "lasso", "scribble"), True),
    "channel_mapping": {
      "prev_seg": 0, "bbox2d": [1, 2], "bbox3d": [1, 2], "lasso": [1, 2], "points": [3, 4], "scribble": [5, 6]
    },
    "num_interaction_channels": 7,
    "supports_initial_label": True,
    "supports_zero_shot_label_refinement": True,
    "preferred_scribble_thickness": [1, 1, 1],
    "interaction_decay": None,
    "do_autozoom": session.spreads,
    "inference_session_version": CLIENT_VERSION,
    "license": license_text,
    "supports_undo": True,
  }  # fmt: skip


class Protocol:
  """Routes over the sessions of `leases`.

  Args:
    license_text: of the network's weights, which viewers show.
    report: told of a client of another version.
  """

  def __init__(self, leases: Leases[Session], license_text: str, report: Callable[[str], None]) -> None:
    self._leases, self._license, self._report = leases, license_text, report

  def routes(self) -> list[Route]:
    """To be mounted behind the guard."""
    posts: dict[str, Handler] = {
      "/claim": self._claim,
      "/release": self._release,
      "/heartbeat": self._heartbeat,
      "/set_image": self._on_array(_set_image),
      "/set_target_buffer": self._on_json(_set_target_buffer),
      "/set_do_autozoom": self._on_json(_set_do_autozoom),
      "/reset_interactions": self._on_json(_reset),
      "/undo": self._on_json(_undo),
      "/predict": self._on_json(_predict),
      "/add_bbox_interaction": self._on_json(_add_box),
      "/add_point_interaction": self._on_json(_add_point),
      "/add_scribble_interaction": self._on_array(_add_scribble),
      "/add_lasso_interaction": self._on_array(_add_lasso),
      "/add_initial_seg_interaction": self._on_array(_add_mask),
    }
    gets: dict[str, Handler] = {
      "/healthz": self._healthz, "/capabilities": self._capabilities, "/lease_status": self._lease_status
    }  # fmt: skip
    return [
      *(Route(path, handler, methods=["POST"]) for path, handler in posts.items()),
      *(Route(path, handler, methods=["GET"]) for path, handler in gets.items()),
      Route("/{rest:path}", self._unknown, methods=["POST"]),
    ]

  def handlers(self) -> dict[Any, Any]:
    """For `guarded_app(exception_handlers=...)`: what ends a session has a number of its own."""
    return {GoneError: _gone, FullError: _full, wire.WireVersionError: self._other_version}

  def session(self, request: Request, used: bool = True) -> Session:
    """Of a request.

    Raises:
      GoneError: it has ended.
    """
    return self._leases.get(request.headers.get(LEASE), used)

  def _on_json(self, work: Callable[[Session, dict[str, Any]], Response]) -> Handler:
    async def handler(request: Request) -> Response:
      session = self.session(request)
      given = dict_of(await request.body())
      return await self._in_turn(request, session, work, given)

    return handler

  def _on_array(self, work: Callable[[Session, np.ndarray, dict[str, Any]], Response]) -> Handler:
    async def handler(request: Request) -> Response:
      session = self.session(request)
      meta, body = dict_of(request.headers.get(META, "{}").encode()), await request.body()

      def with_array(session: Session, meta: dict[str, Any]) -> Response:
        return work(session, wire.unpacked(body, geometry.MAX_VOXELS), meta)

      answer = await self._in_turn(request, session, with_array, meta)
      self.session(request)  # sending an image may have taken longer than a pause may be
      return answer

    return handler

  async def _in_turn(self, request: Request, session: Session, work: Callable[..., Response], *given: Any) -> Response:
    try:
      return await run_in_threadpool(_locked, session, work, *given)
    except Exception:
      self.session(request)  # one that was given back in the middle of it has nothing to work on: told is that it ended
      raise

  async def _claim(self, _: Request) -> Response:
    leases = self._leases
    token = await run_in_threadpool(leases.claim)
    timeouts = {"idle_timeout_seconds": leases.idle_s, "liveness_timeout_seconds": leases.silent_s}
    return JSONResponse({"lease_token": token, **timeouts, "max_sessions": leases.limit})

  async def _release(self, request: Request) -> Response:
    await run_in_threadpool(self._leases.release, request.headers.get(LEASE))
    return JSONResponse({"released": True})

  async def _heartbeat(self, request: Request) -> Response:
    self.session(request, used=False)
    return JSONResponse({"remaining_seconds": self._leases.remaining_s(request.headers.get(LEASE))})

  async def _lease_status(self, request: Request) -> Response:
    remaining = self._leases.remaining_s(request.headers.get(LEASE))
    return JSONResponse({"remaining_seconds": remaining, "idle_timeout_seconds": self._leases.idle_s})

  async def _healthz(self, _: Request) -> Response:
    return JSONResponse({"ok": True})

  async def _capabilities(self, request: Request) -> Response:
    return JSONResponse(capabilities(self._license, self.session(request)))

  async def _unknown(self, request: Request) -> Response:
    older = request.url.path.startswith(_OLDER)
    return self._told(404, "an older" if older else "another")

  async def _other_version(self, _: Request, error: Exception) -> Response:
    self._report(str(error))
    return refusal(400, str(error))

  def _told(self, status: int, which: str) -> Response:
    text = (
      f"a viewer speaks {which} protocol than this server (nninteractive-client 2.5.1 to {CLIENT_VERSION}): install "
      f"nninteractive-client {CLIENT_VERSION} beside it, or update its nnInteractive extension"
    )
    self._report(text)
    return refusal(status, text)


def _locked(session: Session, work: Callable[..., Response], *given: Any) -> Response:
  """One request of a session after another."""
  with session.lock:
    return work(session, *given)


async def _gone(_: Request, error: Exception) -> Response:
  return refusal(410, str(error))


async def _full(_: Request, error: Exception) -> Response:
  return refusal(503, str(error))


def dict_of(text: bytes) -> dict[str, Any]:
  """A JSON object that was sent; nothing is an empty one.

  Raises:
    InputError: it is none.
  """
  try:
    given = json.loads(text or b"{}")
  except ValueError as error:
    raise InputError("what was sent beside the array, or in its place, is no JSON") from error
  if not isinstance(given, dict):
    raise InputError("what was sent is no JSON object")
  return given


def _part(given: dict[str, Any], name: str) -> Any:
  if name not in given:
    raise InputError(f"{name} is missing")
  return given[name]


def _answered(session: Session, given: dict[str, Any], default: bool = True) -> Response:
  """The new mask where it changed, or, if the client does not want it yet, nothing."""
  return changed(session.answer()) if given.get("run_prediction", default) else _nothing(False)


def changed(change: Change) -> Response:
  """A part of the mask with the box that it belongs in, half open."""
  if change.box is None or change.mask is None:
    return _nothing(True)
  box = [[each.start, each.stop] for each in change.where]
  meta = {"ran_prediction": True, "bbox": box, "dtype": "uint8", "shape": list(change.mask.shape)}
  return _binary(wire.packed(change.mask.astype(np.uint8)), meta)


def _nothing(ran: bool) -> Response:
  return _binary(b"", {"ran_prediction": ran, "bbox": None})


def _binary(body: bytes, meta: dict[str, Any]) -> Response:
  headers = {"X-Meta": json.dumps(meta, separators=(",", ":"))}
  return Response(body, media_type="application/octet-stream", headers=headers)


def _set_image(session: Session, image: np.ndarray, meta: dict[str, Any]) -> Response:
  shape: Sequence[int] = session.set_image(image, meta.get("image_properties"))
  return JSONResponse({"original_image_shape": list(shape)})


def _set_target_buffer(session: Session, given: dict[str, Any]) -> Response:
  shape, dtype = _part(given, "shape"), _part(given, "dtype")
  if dtype not in _BUFFER_TYPES:
    raise InputError(f"a target buffer of type {str(dtype)[:20]!r}; known: {', '.join(_BUFFER_TYPES)}")
  if shape != list(session.volume.array.shape):
    raise InputError(f"a target buffer of another shape than the image, {list(session.volume.array.shape)}")
  return JSONResponse({})


def _set_do_autozoom(session: Session, given: dict[str, Any]) -> Response:
  session.set_spreads(bool(_part(given, "do_autozoom")))
  return JSONResponse({})


def _reset(session: Session, _: dict[str, Any]) -> Response:
  if session.has_image:
    session.reset()
  return JSONResponse({})


def _undo(session: Session, _: dict[str, Any]) -> Response:
  change = session.undo()
  return _nothing(False) if change is None else changed(change)


def _predict(session: Session, _: dict[str, Any]) -> Response:
  return changed(session.answer())


def _add_box(session: Session, given: dict[str, Any]) -> Response:
  session.add_box(_part(given, "bbox_coords"), bool(_part(given, "include_interaction")))
  return _answered(session, given)


def _add_point(session: Session, given: dict[str, Any]) -> Response:
  session.add_point(_part(given, "coordinates"), bool(_part(given, "include_interaction")))
  return _answered(session, given)


def _add_scribble(session: Session, mask: np.ndarray, meta: dict[str, Any]) -> Response:
  session.add_scribble(mask, meta.get("interaction_bbox"), bool(_part(meta, "include_interaction")))
  return _answered(session, meta)


def _add_lasso(session: Session, mask: np.ndarray, meta: dict[str, Any]) -> Response:
  session.add_lasso(mask, meta.get("interaction_bbox"), bool(_part(meta, "include_interaction")))
  return _answered(session, meta)


def _add_mask(session: Session, mask: np.ndarray, meta: dict[str, Any]) -> Response:
  refine = bool(meta.get("run_prediction", False))
  session.begin_with(mask, refine)
  return _answered(session, meta, False)
