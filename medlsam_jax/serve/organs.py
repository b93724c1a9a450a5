"""Organs of a bank, found and painted in the image that a viewer has sent."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from medlsam_jax import pipeline
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Volume
from medlsam_jax.io import boxes_file, scan_checks
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.search.findings import Findings
from medlsam_jax.network import Network
from medlsam_jax.pipeline import PipelineSettings
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.serve.kept_slices import Turns
from medlsam_jax.serve.mask_changes import Change
from medlsam_jax.serve.protocol import Protocol, changed, dict_of
from medlsam_jax.serve.session import Session, grid_of

NAME = "viewer"
"""What a viewer's image is called in what is sent back."""


@dataclasses.dataclass(frozen=True, eq=False)
class Organs:
  """A bank with all that finds and paints its organs.

  Raises:
    InputError: of its methods: no image, no such organ, or the image's axes are not known.
  """

  network: Network
  bank: Bank
  predictor: Predictor
  """Paints organs of which no template has a mask."""
  settings: PipelineSettings
  seed: int
  provenance: Mapping[str, object]
  wait: Callable[[], None] = lambda: None
  """Called before the first search: programs may still be in the making."""

  def routes(self, protocol: Protocol, turns: Turns) -> list[Route]:
    """To be mounted beside the protocol's; a request without a lease means the only session that there is."""

    def found(session: Session, given: Mapping[str, Any]) -> Response:
      with turns:
        return JSONResponse(self.find(session, given))

    async def find(request: Request) -> Response:
      session, given = protocol.session(request), dict_of(await request.body())
      return await run_in_threadpool(_locked, session, found, given)

    async def show(request: Request) -> Response:
      session, given = protocol.session(request), dict_of(await request.body())
      return await run_in_threadpool(_locked, session, _show, given)

    async def mask(request: Request) -> Response:
      session = protocol.session(request)
      return await run_in_threadpool(_locked, session, _mask, {"organ": request.path_params["organ"]})

    async def known(_: Request) -> Response:
      organs = [{"organ": name, "templates": len(each.templates)} for name, each in self.bank.organs.items()]
      return JSONResponse({"organs": organs})

    return [
      Route("/medlsam/organs", known, methods=["GET"]),
      Route("/medlsam/find", find, methods=["POST"]),
      Route("/medlsam/show", show, methods=["POST"]),
      Route("/medlsam/mask/{organ}", mask, methods=["GET"]),
    ]

  def find(self, session: Session, given: Mapping[str, Any]) -> dict[str, object]:
    """Looks organs up and keeps their masks in the session; answers as a boxes file does.

    Args:
      given: `organs`, names (all, if it is missing); `masks`, false to leave them away; `axis_codes` of the image.
    """
    scan = scan_checks.check_scan(_stated(session, given.get("axis_codes")))
    organs = given.get("organs")
    if organs is not None and not (isinstance(organs, list) and organs and all(isinstance(o, str) for o in organs)):
      raise InputError("organs is a list of names, such as those of /medlsam/organs")
    self.wait()
    findings = pipeline.localize(
      self.network,
      self.bank,
      scan,
      self.seed,
      organs=organs,
      settings=self.settings.search,
      thresholds=self.settings.confidence,
    )
    volumes_ml = None
    if given.get("masks", True):
      masks, volumes_ml = self._painted(scan, findings)
      session.found = masks
    return json.loads(json.dumps(boxes_file.to_dict(NAME, scan, findings, volumes_ml, self.provenance)))

  def _painted(self, scan: Volume, findings: Findings) -> tuple[dict[str, Change], dict[str, float]]:
    """Masks by organ, and their volumes: by the templates where these have masks, else by the network."""
    crops = pipeline.crops_of(findings, True)
    parts = [
      (Findings({o: f for o, f in findings.items() if o in crops}, findings.crops), None),
      (Findings({o: f for o, f in findings.items() if o not in crops}), self.predictor),
    ]
    masks, volumes_ml = dict[str, Change](), dict[str, float]()
    for some, painter in parts:
      if some:
        settings = self.settings
        labels = pipeline.segment(scan, some, painter, settings=settings.segmentation, vote=settings.masks)
        volumes_ml |= labels.volumes_ml()
        masks |= {organ: Change.of(labels[organ]) for organ in some}
    return masks, volumes_ml


def _stated(session: Session, codes: object) -> Volume:
  """The image on a grid whose directions somebody has stated: a guess would take left for right."""
  volume = session.volume
  if codes is not None:
    return dataclasses.replace(volume, grid=grid_of(volume.array.shape, volume.spacing_mm.tolist(), codes))
  if not session.axes_are_stated:
    raise InputError(
      "how the image's axes run is not known, and left could be taken for right: send axis_codes, the directions of "
      "rising x, y and z voxels, such as LPS, or start medlsam serve with --axis-codes"
    )
  return volume


def _locked(session: Session, work: Callable[..., Response], given: Mapping[str, Any]) -> Response:
  with session.lock:
    return work(session, given)


def _show(session: Session, given: Mapping[str, Any]) -> Response:
  session.show(_of(session, given).laid(session.volume.array.shape))
  return JSONResponse({})


def _mask(session: Session, given: Mapping[str, Any]) -> Response:
  return changed(_of(session, given))


def _of(session: Session, given: Mapping[str, Any]) -> Change:
  organ = given.get("organ")
  if organ not in session.found:
    raise InputError(f"no mask of that organ; found and painted: {', '.join(session.found) or 'none yet'}")
  return session.found[organ]
