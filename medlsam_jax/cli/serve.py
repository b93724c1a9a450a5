"""`medlsam serve`: a server on this computer for viewers that speak nnInteractive's protocol."""

from __future__ import annotations

import argparse
import importlib.util
from typing import TYPE_CHECKING

from medlsam_jax.cli import options

if TYPE_CHECKING:
  import socket

  from medlsam_jax.cli.terminal import Terminal

PORT = 1527
"""The one that nnInteractive's front ends offer."""

TRAINED_ON_BOXES = ("litemedsam", "medsam")
"""Kinds of networks to which a point alone says little (docs/viewers.md)."""


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "serve",
    "answer the clicks of 3D Slicer and napari, by their nnInteractive front ends",
    "  medlsam serve\n"
    "  prints an address and an API key, for the front end's remote server; Ctrl-C ends it\n"
    "  medlsam serve --bank headneck\n"
    "  finds its organs in the viewer's image too, when it is asked to (docs/viewers.md)\n"
    "Research use only; not a medical device. Reached from this computer alone; nothing is sent anywhere.",
  )
  parser.add_argument("--port", type=options.whole_number, default=PORT, help=f"0 takes any that is free ({PORT})")
  parser.add_argument("--token-file", metavar="FILE", help="keep the API key in it, else every start draws a new one")
  parser.add_argument("--sessions", type=options.positive_int, default=2, metavar="N", help="viewers at once (2)")
  group = parser.add_argument_group("what answers")
  group.add_argument("--model", default="litemedsam", metavar="NAME_OR_FILE", help="of the SAM family (litemedsam)")
  group.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    help="operands of its products (default: bfloat16 for litemedsam on a GPU or TPU, else float32)",
  )
  group.add_argument(
    "--preset", choices=("litemedsam", "medlsam"), help="window, scaling and margin of the slices (litemedsam)"
  )
  group.add_argument(
    "--no-ahead", action="store_true", help="encode a slice when it is marked, not before: spares the processor"
  )
  group.add_argument(
    "--axis-codes",
    metavar="LPS",
    help="directions in which x, y and z of the viewers' images rise, where they do not say them: to look organs up",
  )
  options.add_organs(parser)
  options.add_search(parser)
  options.add_settings(parser, "search, confidence, segmentation, masks")
  options.add_quiet(parser)
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Serves until it is stopped."""
  from medlsam_jax.errors import ConfigError
  from medlsam_jax.installation import install_hint

  for name in ("starlette", "uvicorn", "blosc2"):
    if importlib.util.find_spec(name) is None:
      raise ConfigError(f"medlsam serve needs {name}: {install_hint('serve')}")
  from medlsam_jax.cli import networks_and_banks
  from medlsam_jax.serve.guard import new_token
  from medlsam_jax.serve.listening import listen
  from medlsam_jax.serve.session import grid_of
  from medlsam_jax.serve.token_file import kept_token

  if with_bank(arguments):
    networks_and_banks.check_search(arguments)
  if arguments.axis_codes is not None:
    grid_of((1, 1, 1), None, arguments.axis_codes)
  # the port comes first: that it is taken is told before anything is loaded
  with listen(arguments.port) as taken:
    token = new_token() if arguments.token_file is None else kept_token(arguments.token_file)
    return _serve(arguments, terminal, taken, token)


def with_bank(arguments: argparse.Namespace) -> bool:
  """Whether organs are to be looked up too."""
  return arguments.bank is not None or arguments.templates is not None


def _serve(arguments: argparse.Namespace, terminal: Terminal, taken: socket.socket, token: str) -> int:
  from medlsam_jax.cli import networks_and_banks
  from medlsam_jax.cli.search import Search, settings_of
  from medlsam_jax.serve import listening
  from medlsam_jax.serve.organs import Organs
  from medlsam_jax.serve.viewers import viewer_app, warm

  settings = settings_of(arguments)
  predictor = networks_and_banks.predictor_of(arguments.model, terminal, arguments.dtype)
  organs = None
  if with_bank(arguments):
    search = Search.prepare(arguments, settings, terminal)
    sections = search.provenance()
    organs = Organs(search.network, search.bank, predictor, settings, arguments.seed, sections, search.wait)
  with terminal.bar("making the network ready"):
    warm(predictor)
  app = viewer_app(
    predictor,
    settings.segmentation,
    token,
    terminal.warn,
    arguments.axis_codes,
    arguments.sessions,
    not arguments.no_ahead,
    organs.routes if organs is not None else lambda protocol, turns: (),
  )
  terminal.result(f"server: {listening.address(taken)}")
  terminal.result(f"API key: {token}")
  if predictor.network.kind in TRAINED_ON_BOXES:
    terminal.say(f"{predictor.network.kind} has learned from boxes: begin with one, and correct by points")
  terminal.say("Put both into the viewer's nnInteractive front end (remote server); Ctrl-C ends this one.")
  listening.run(app, taken)
  return 0
