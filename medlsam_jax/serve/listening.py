"""A port of the loopback interface, and the server's life on it: until Ctrl-C."""

from __future__ import annotations

import errno
import socket

import uvicorn
from starlette.types import ASGIApp

from medlsam_jax.errors import ConfigError

LOOPBACK = "127.0.0.1"
CLOSING_SECONDS = 3
"""How long a request at work may go on after Ctrl-C."""


def listen(port: int) -> socket.socket:
  """A listening socket of the loopback interface, which no other computer reaches; port 0 takes any that is free.

  Raises:
    ConfigError: another program has the port, or it may not be taken.
  """
  taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
  try:
    # a port that was left a moment ago is free; on Windows this would share one with a program that has it
    if hasattr(socket, "SO_REUSEPORT"):
      taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind((LOOPBACK, port))
    taken.listen()
  except (OSError, OverflowError) as error:
    taken.close()
    raise ConfigError(_refused(port, getattr(error, "errno", None))) from error
  return taken


def _refused(port: int, number: int | None) -> str:
  other = "choose another with --port, or --port 0 for any that is free"
  if number == errno.EADDRINUSE:
    return f"port {port} is taken by another program, perhaps a medlsam that still runs: {other}"
  if number == errno.EACCES:
    return f"port {port} may be taken by the system's administrator only: {other}"
  return f"port {port} cannot be listened on: {other}"


def address(taken: socket.socket) -> str:
  """`http://127.0.0.1:PORT` of a socket."""
  return f"http://{LOOPBACK}:{taken.getsockname()[1]}"


def server(app: ASGIApp) -> uvicorn.Server:
  """A server that writes no log: a log of requests would name scans. `run(sockets=[...])` ends at Ctrl-C."""
  config = uvicorn.Config(
    app,
    log_config=None,
    log_level="critical",
    access_log=False,
    server_header=False,
    proxy_headers=False,
    ws="none",
    timeout_graceful_shutdown=CLOSING_SECONDS,
  )
  return uvicorn.Server(config)


def run(app: ASGIApp, taken: socket.socket) -> None:
  """Answers until a signal asks to stop, which is then raised as elsewhere in the program; closes the socket."""
  try:
    server(app).run(sockets=[taken])
  finally:
    taken.close()
