"""`medlsam view`: what cannot work is told in a line before the page opens."""

import re
import socket
import stat
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def test_a_port_that_is_taken_is_told_before_anything_is_read(medlsam, monkeypatch):
  with socket.socket() as other:
    other.bind(("127.0.0.1", 0))
    other.listen()
    monkeypatch.setitem(sys.modules, "medlsam_jax.view.routes", None)  # which takes seconds to import
    answer = medlsam("view", "nowhere.nii.gz", "--port", other.getsockname()[1], "--no-browser")
  assert answer.code == 2 and "is taken by another program" in answer.err and answer.err.count("\n") == 1


def test_a_bank_of_an_older_version_is_named(medlsam, mini_queries, tmp_path):
  from safetensors.numpy import save_file

  save_file({}, tmp_path / "old.safetensors", {"format": "medlsam_jax bank 0"})
  answer = medlsam("view", mini_queries, "--bank", "old.safetensors", "--port", 0, "--no-browser")
  assert answer.code == 2 and "old.safetensors" in answer.err.splitlines()[-1] and "Traceback" not in answer.err


def test_decisions_of_a_newer_version_are_named_and_left_alone(medlsam, mini_queries, tmp_path):
  (tmp_path / "results").mkdir()
  (tmp_path / "results" / "decisions.json").write_text('{"format": "medlsam_jax decisions 2", "scans": {}}')
  answer = medlsam("view", mini_queries, "--results", "results", "--port", 0, "--no-browser")
  assert answer.code == 2 and "decisions.json" in answer.err and "another version" in answer.err


def test_a_lone_scan_that_cannot_be_read_is_told_before_the_page_opens(medlsam, tmp_path):
  (tmp_path / "empty.nii.gz").write_bytes(b"")
  answer = medlsam("view", "empty.nii.gz", "--port", 0, "--no-browser")
  assert answer.code == 2 and "empty.nii.gz" in answer.err and answer.err.count("\n") == 1 and not answer.out


def test_what_is_missing_is_told_with_what_brings_it(medlsam, mini_queries, monkeypatch):
  import medlsam_jax.serve

  monkeypatch.delattr(medlsam_jax.serve, "guard", raising=False)
  monkeypatch.setitem(sys.modules, "medlsam_jax.serve.guard", None)
  answer = medlsam("view", mini_queries, "--port", 0, "--no-browser")
  assert answer.code == 2 and "[serve]" in answer.err and answer.err.count("\n") == 1


def path_of(uri):
  return Path(url2pathname(urlsplit(uri).path))


def test_the_address_is_told_and_a_browser_opened_unless_it_is_not_wanted(medlsam, mini_queries, monkeypatch):
  import webbrowser

  from medlsam_jax.serve import listening

  opened, served, texts = [], [], []
  monkeypatch.setattr(webbrowser, "open", opened.append)

  def run(app, taken):
    served.append(taken)
    texts.extend(
      (place.read_text(), stat.S_IMODE(place.stat().st_mode))
      for place in map(path_of, opened[len(texts) :])
      if place.exists()
    )

  monkeypatch.setattr(listening, "run", run)
  answer = medlsam("view", mini_queries, "--port", 0)
  (place,), ((text, rights),) = opened, texts
  (address,) = re.findall(r"http://127\.0\.0\.1:\d+/\?token=[\w-]+", answer.out)
  assert answer.code == 0 and f"url={address}" in text
  # other users of the computer see the browser's command line
  assert "token" not in place and rights & 0o077 == 0 and not path_of(place).exists()
  assert medlsam("view", mini_queries, "--port", 0, "--no-browser").code == 0
  assert len(opened) == 1 and len(served) == 2
