"""Python values over a socket between a process and its child, arrays as they lie in memory."""

from __future__ import annotations

import pickle
import socket
import struct
import time

import numpy as np

_HEAD = struct.Struct("<QQ")
_LENGTH = struct.Struct("<Q")


def send(line: socket.socket, value: object) -> None:
  """Sends a value.

  Raises:
    OSError: the other end is gone.
  """
  buffers: list[pickle.PickleBuffer] = []
  content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
  views = [buffer.raw() for buffer in buffers]
  line.sendall(_HEAD.pack(len(content), len(views)) + b"".join(_LENGTH.pack(view.nbytes) for view in views) + content)
  for view in views:
    line.sendall(view)


def receive(line: socket.socket, deadline: float | None = None) -> object:
  """The next value. Of one's own child alone: what is unpickled can do anything.

  Args:
    deadline: by `time.monotonic`; None waits for ever.

  Raises:
    EOFError: the other end is gone.
    TimeoutError: the deadline passed.
  """
  length, count = _HEAD.unpack(_exactly(line, _HEAD.size, deadline))
  lengths = [_LENGTH.unpack(_exactly(line, _LENGTH.size, deadline))[0] for _ in range(count)]
  content = _exactly(line, length, deadline)
  return pickle.loads(content, buffers=[_exactly(line, each, deadline) for each in lengths])


def _exactly(line: socket.socket, count: int, deadline: float | None) -> memoryview:
  # not zeroed first, as a bytearray would be
  content = np.empty(count, np.uint8).data
  done = 0
  while done < count:
    if deadline is not None:
      if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
      line.settimeout(left)
    try:
      got = line.recv_into(content[done:])
    except ConnectionError as error:
      raise EOFError from error
    if got == 0:
      raise EOFError
    done += got
  line.settimeout(None)
  return content
