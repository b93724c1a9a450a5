"""How this copy of the package came to be here: its version, and the command that adds what an extra needs.

The package is on no index, so that `pip install medlsam_jax` would look for something that is not there.
"""

from __future__ import annotations

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import medlsam_jax

PACKAGE = "medlsam_jax"


def version(name: str = PACKAGE) -> str:
  """Version of an installed distribution, or `unknown`; ours as the code that runs says it, installed or not."""
  try:
    return medlsam_jax.__version__ if name == PACKAGE else metadata.version(name)
  except metadata.PackageNotFoundError:
    return "unknown"


def requirements(extra: str = "") -> list[str]:
  """What this package needs, or what an extra adds to it, as pyproject.toml says it: `jax>=0.10.2`."""
  if project := _project():
    extras: Any = project.get("optional-dependencies", {})
    needed: Any = extras.get(extra, []) if extra else project.get("dependencies", [])
    return list(needed)
  parts = [text.partition(";") for text in metadata.distribution(PACKAGE).requires or ()]
  of = [(name.strip(), re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)) for name, _, marker in parts]
  return [name for name, named in of if (named[1] if named else "") == extra]


def extras() -> list[str]:
  """Names of the extras, in the order of pyproject.toml."""
  if project := _project():
    named: Any = project.get("optional-dependencies", {})
    return list(named)
  return metadata.distribution(PACKAGE).metadata.get_all("Provides-Extra") or []


def install_hint(extra: str) -> str:
  """The command that adds the packages of an extra (`dicom`, `train`) to this installation.

  From a checkout, or where pip remembers what it installed: that, with the extra. Else the packages by their own names.
  """
  if _project():
    return f"pip install -e '{_checkout()}[{extra}]'"
  try:
    distribution = metadata.distribution(PACKAGE)
  except metadata.PackageNotFoundError:
    return f"pip install '.[{extra}]' in the folder of {PACKAGE}'s source"
  origin = _origin(distribution.read_text("direct_url.json"))
  if origin:
    return f"pip install '{origin.format(extra=extra)}'"
  return "pip install " + " ".join(f"'{name}'" for name in requirements(extra))


def _checkout() -> Path:
  """The folder that holds the package's folder."""
  return Path(__file__).resolve().parents[1]


def _project() -> dict[str, object]:
  """`[project]` of the checkout that this file lies in; empty where it lies in no checkout."""
  try:
    project = tomllib.loads((_checkout() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
  except (OSError, ValueError, KeyError):
    return {}
  return project if project.get("name") == PACKAGE else {}


def _origin(recorded: str | None) -> str:
  """What pip was told to install (PEP 610), with a place for the extra; empty where that is unknown or gone."""
  try:
    told = json.loads(recorded or "{}")
    address = str(told["url"])
    source = told.get("vcs_info", {})
  except (ValueError, KeyError, TypeError, AttributeError):
    return ""
  if not address.startswith("file:"):
    start = f"{source['vcs']}+" if source else ""
    revision = f"@{source['commit_id']}" if source else ""
    return f"{PACKAGE}[{{extra}}] @ {start}{address}{revision}"
  path = url2pathname(urlsplit(address).path)
  return f"{path}[{{extra}}]" if Path(path).exists() else ""
