"""Hints that work for the installation that gives them, and a version for a checkout that nobody installed."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import medlsam_jax
from medlsam_jax import installation

ROOT = Path(installation.__file__).parents[1]


class Distribution:
  """What importlib.metadata says of an installed copy."""

  requires = (
    "jax>=0.6",
    "optax>=0.2.4; extra == 'train'",
    'grain>=0.2 ; extra == "train"',
    "pydicom>=3; extra=='dicom'",
  )

  def __init__(self, direct_url):
    self.direct_url = direct_url

  def read_text(self, name):
    return None if self.direct_url is None else json.dumps(self.direct_url)


@pytest.fixture
def installed(monkeypatch, tmp_path):
  """An installation outside a checkout, of which pip recorded this."""

  def make(direct_url):
    monkeypatch.setattr(installation, "_checkout", lambda: tmp_path / "site-packages")
    monkeypatch.setattr(metadata, "distribution", lambda name: Distribution(direct_url))

  return make


def test_a_checkout_is_hinted_at_by_its_folder(monkeypatch, tmp_path):
  (tmp_path / "pyproject.toml").write_text('[project]\nname = "medlsam_jax"\nversion = "7.8"\n')
  monkeypatch.setattr(installation, "_checkout", lambda: tmp_path)
  assert installation.install_hint("train") == f"pip install -e '{tmp_path}[train]'"


def test_an_installed_copy_is_hinted_at_as_pip_was_told(installed, tmp_path):
  wheel = tmp_path / "a b.whl"
  wheel.touch()
  installed({"url": wheel.as_uri(), "archive_info": {}})
  assert installation.install_hint("dicom") == f"pip install '{wheel}[dicom]'"
  installed({"url": "https://host/it.git", "vcs_info": {"vcs": "git", "commit_id": "abc123"}})
  assert installation.install_hint("train") == "pip install 'medlsam_jax[train] @ git+https://host/it.git@abc123'"


@pytest.mark.parametrize("recorded", [None, {"url": "file:///gone/long/ago"}, {"no": "url"}, [1]])
def test_an_installation_of_unknown_origin_is_hinted_at_by_what_it_needs(installed, recorded):
  installed(recorded)
  assert installation.install_hint("train") == "pip install 'optax>=0.2.4' 'grain>=0.2'"


def test_no_message_names_a_package_on_no_index():
  """`pip install 'medlsam_jax[train]'` finds nothing: every hint is made by `install_hint`."""
  sources = [p for p in (ROOT / "medlsam_jax").rglob("*.py") if p.name != "installation.py"]
  told = [p.name for p in sources if "pip install 'medlsam_jax" in p.read_text()]
  assert told in ([], ["dicom.py"])


def test_a_checkout_that_nobody_installed_has_a_version(monkeypatch):
  def nothing(name):
    raise metadata.PackageNotFoundError(name)

  monkeypatch.setattr(metadata, "version", nothing)
  assert installation.version() == medlsam_jax.__version__
  assert installation.version("no_such_distribution") == "unknown"


def test_requirements_are_those_of_the_checkout_or_of_the_installed_copy(installed, monkeypatch):
  assert any(text.startswith("jax>=") for text in installation.requirements())
  assert [text.partition(">")[0] for text in installation.requirements("completion")] == ["shtab"]
  assert "train" in installation.extras()
  installed(None)
  assert installation.requirements() == ["jax>=0.6"]
  assert installation.requirements("dicom") == ["pydicom>=3"]


def test_the_command_says_its_version_without_an_installation():
  """-S leaves site-packages, and with it the distribution, out."""
  code = "import sys; sys.path.insert(0, sys.argv.pop()); from medlsam_jax.cli.main import main; sys.exit(main())"
  run = subprocess.run(
    [sys.executable, "-S", "-c", code, "--version", str(ROOT)], capture_output=True, text=True, check=False
  )
  assert run.returncode == 0 and run.stdout.startswith("medlsam_jax ") and "unknown" not in run.stdout, run.stderr
