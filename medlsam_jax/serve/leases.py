"""Who has a session: a few at once, each by a token of its own, and given back when nobody uses it."""

from __future__ import annotations

import dataclasses
import secrets
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from medlsam_jax.errors import MedlsamError

Session = TypeVar("Session")


class FullError(MedlsamError):
  """All sessions are taken."""


class GoneError(MedlsamError):
  """The session has ended, or never was."""


@dataclasses.dataclass(eq=False)
class _Lease(Generic[Session]):
  session: Session
  used: float
  """When a person last did something."""
  seen: float
  """When the client last said anything."""


class Leases(Generic[Session]):
  """Sessions by token.

  Args:
    make: a new session.
    close: called with a session that has ended.
    limit: sessions at once.
    idle_s: a session ends when nobody did anything for so long.
    silent_s: and when its client, which is to send a sign of life twice in this time, said nothing for so long.
    clock: seconds.
  """

  def __init__(
    self,
    make: Callable[[], Session],
    close: Callable[[Session], None],
    limit: int = 2,
    idle_s: float = 3600.0,
    silent_s: float = 120.0,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    self.limit, self.idle_s, self.silent_s = limit, idle_s, silent_s
    self._make, self._close, self._clock = make, close, clock
    self._held: dict[str, _Lease[Session]] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self._held)

  def claim(self) -> str:
    """The token of a new session.

    Raises:
      FullError: all are taken.
    """
    self.sweep()
    with self._lock:
      if len(self._held) >= self.limit:
        raise FullError(f"all {self.limit} sessions of this server are taken; close one, or start it with --sessions")
      token, now = secrets.token_urlsafe(24), self._clock()
      self._held[token] = _Lease(self._make(), now, now)
      return token

  def get(self, token: str | None, used: bool = True) -> Session:
    """A session, for something that a person did, or (`used=False`) for a sign of life of the client.

    Without a token it is the only session that there is.

    Raises:
      GoneError: there is none.
    """
    self.sweep()
    with self._lock:
      lease = self._of(token)
      lease.seen = self._clock()
      lease.used = lease.seen if used else lease.used
      return lease.session

  def remaining_s(self, token: str | None) -> float:
    """Until the session ends if nobody does anything.

    Raises:
      GoneError: there is none.
    """
    self.sweep()
    with self._lock:
      return max(0.0, self.idle_s - (self._clock() - self._of(token).used))

  def release(self, token: str | None) -> None:
    """Ends a session, if there is one."""
    with self._lock:
      lease = self._held.pop(token or "", None)
    if lease is not None:
      self._close(lease.session)

  def sweep(self) -> None:
    """Ends what nobody uses."""
    now = self._clock()
    with self._lock:
      over = [
        token
        for token, lease in self._held.items()
        if now - lease.used > self.idle_s or now - lease.seen > self.silent_s
      ]
    for token in over:
      self.release(token)

  def close(self) -> None:
    """Ends all."""
    for token in list(self._held):
      self.release(token)

  def _of(self, token: str | None) -> _Lease[Session]:
    if token is None and len(self._held) == 1:
      return next(iter(self._held.values()))
    if token is None:
      raise GoneError("no session was named: the client claims one first (nninteractive-client 2.5.1 or newer does)")
    if token not in self._held:
      raise GoneError("this session has ended, by a long pause or because the server was started anew: connect again")
    return self._held[token]
