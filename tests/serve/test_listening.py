"""The port, and the end by Ctrl-C (in a process of its own)."""

import signal
import subprocess
import sys
import urllib.request

import pytest

from medlsam_jax.errors import ConfigError
from medlsam_jax.serve.listening import address, listen

PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal: what runs in the background ignores it
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from medlsam_jax.serve.guard import guarded_app
from medlsam_jax.serve.listening import address, listen, run

def hello(request):
  return PlainTextResponse("hello")

taken = listen(0)
print(address(taken), flush=True)
try:
  run(guarded_app([Route("/", hello)], "secret", print), taken)
except KeyboardInterrupt:
  print("ended", flush=True)
"""


def test_a_taken_port_is_one_line():
  with listen(0) as first:
    port = first.getsockname()[1]
    with pytest.raises(ConfigError, match=rf"port {port} is taken .* --port"):
      listen(port)


def test_a_port_that_is_no_port():
  with pytest.raises(ConfigError, match="port 70000 cannot"):
    listen(70000)


def test_only_this_computer_reaches_it():
  with listen(0) as taken:
    assert taken.getsockname()[0] == "127.0.0.1" and address(taken).startswith("http://127.0.0.1:")


def test_ctrl_c_ends_it_without_a_traceback():
  with subprocess.Popen(
    [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  ) as process:
    where = process.stdout.readline().strip()
    request = urllib.request.Request(where, headers={"Authorization": "Bearer secret"})
    with urllib.request.urlopen(request, timeout=60) as answer:
      assert answer.read() == b"hello"
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
  assert said.strip() == "ended" and errors == ""
