"""The application that viewers connect to: their protocol over a few sessions, behind the guard."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import jax
import numpy as np
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from medlsam_jax.sam.predictor import EncodedImage, Predictor
from medlsam_jax.sam.prompts import Prompt
from medlsam_jax.sam.segmentation_settings import SegmentationSettings
from medlsam_jax.serve.guard import guarded_app
from medlsam_jax.serve.kept_slices import Turns
from medlsam_jax.serve.leases import Leases
from medlsam_jax.serve.protocol import Protocol
from medlsam_jax.serve.session import Session

LICENSE = "research use only, not a medical device; weights: see NOTICE of medlsam_jax"
_LOOK_EVERY_S = 15.0
POINTS = (1, 4, 8)
"""Numbers of points on a slice, with and without a box, that have a program each before anybody marks."""

Report = Callable[[str], None]


def viewer_app(
  predictor: Predictor,
  settings: SegmentationSettings,
  token: str,
  report: Report,
  axis_codes: str | None = None,
  sessions: int = 2,
  ahead: bool = True,
  more_routes: Callable[[Protocol, Turns], Sequence[BaseRoute]] = lambda protocol, turns: (),
) -> Starlette:
  """Answers nnInteractive's clients with a member of the SAM family.

  Args:
    predictor: encodes and decodes.
    settings: how slices and boxes are prepared for it.
    token: the API key of its clients.
    report: takes a line for the person who started it.
    axis_codes: directions of rising x, y, z voxels of the images, where a client does not say them, if they are known.
    sessions: at once.
    ahead: whether slices are encoded while nobody waits.
    more_routes: made of the protocol, by which they find a request's session, and of what lets one compute at a time.
  """
  turns = Turns()

  def session() -> Session:
    return Session(predictor, settings, turns, axis_codes, ahead, report)

  leases = Leases(session, Session.close, sessions)
  protocol = Protocol(leases, LICENSE, report)

  @contextlib.asynccontextmanager
  async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async def look() -> None:
      while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        await asyncio.to_thread(leases.sweep)

    looking = asyncio.create_task(look())
    yield
    looking.cancel()
    leases.close()

  routes = [*more_routes(protocol, turns), *protocol.routes()]
  return guarded_app(routes, token, report, exception_handlers=protocol.handlers(), lifespan=lifespan)


def warm(predictor: Predictor) -> None:
  """Compiles, or fetches from the cache, the programs that first marks need: to encode, to ask by box and points."""
  edge = predictor.image_size
  fit = predictor.fit_of(edge, edge)
  (embedding,) = predictor.encode(np.zeros((1, edge, edge, 3), np.float32))
  box = np.array([0, 0, edge / 2, edge / 2], np.float32)
  jax.block_until_ready(predictor.decode(embedding, box[None])[0])
  for count in POINTS:
    points = np.ones((count, 2)), np.ones(count, int)
    for prompt in (Prompt(*points), Prompt(*points, box)):
      predictor.answer(EncodedImage(embedding, fit), [prompt])
