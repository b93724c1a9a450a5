"""What a release needs: one version, hashes of the weights, and a container's recipe that speaks of what is there."""

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import medlsam_jax
from medlsam_jax import installation

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "medlsam_jax" / "weights"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_version_stands_in_one_place():
  assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
  assert PROJECT["tool"]["hatch"]["version"]["path"] == "medlsam_jax/__init__.py"
  assert installation.version() == medlsam_jax.__version__
  assert "\nversion:" not in (ROOT / "CITATION.cff").read_text()


def test_the_changelog_begins_with_this_version():
  assert re.search(r"^## (\S+?),", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == medlsam_jax.__version__


def test_the_package_runs_as_a_module():
  call = [sys.executable, "-m", "medlsam_jax", "--version"]
  run = subprocess.run(call, capture_output=True, text=True, check=True, cwd=ROOT)
  assert run.stdout == f"medlsam_jax {medlsam_jax.__version__}\n"


def test_weights_in_the_package_have_their_hashes_beside_them():
  """After a change: cd medlsam_jax/weights && sha256sum *.safetensors > sha256sums.txt"""
  said = dict(reversed(line.split()) for line in (WEIGHTS / "sha256sums.txt").read_text().splitlines())
  assert said == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in WEIGHTS.glob("*.safetensors")}


def test_weights_in_the_package_have_model_cards():
  for path in WEIGHTS.glob("*.safetensors"):
    assert path.with_suffix(".md").is_file(), f"{path.name} has no model card"


@pytest.mark.parametrize("file", re.findall(r"^COPY (.+) /source", DOCKERFILE, re.M))
def test_the_container_gets_what_is_there(file):
  kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
  for name in file.split():
    assert (ROOT / name).exists() and name in kept


def test_the_container_gets_what_the_package_is_built_of():
  """The build's own needs: readme, licences, and what is put into the wheel."""
  copied = " ".join(re.findall(r"^COPY (.+) /source", DOCKERFILE, re.M)).split()
  wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
  needs = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], *wheel["packages"]}
  assert {*needs, *wheel["force-include"]} <= set(copied)


def test_the_container_names_extras_and_a_python_that_are_tested():
  extras = set(PROJECT["project"]["optional-dependencies"])
  for named in re.findall(r"EXTRAS=([\w,]+)", DOCKERFILE):
    assert set(named.split(",")) <= extras
  newest = re.search(r"NEWEST=(\S+)", (ROOT / ".ci" / "run").read_text())[1]
  assert re.search(r"^ARG PYTHON=(\S+)", DOCKERFILE, re.M)[1] == newest
