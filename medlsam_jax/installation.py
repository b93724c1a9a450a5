"""How this copy of the package came to be here: its version, and the command that adds what an extra needs.

The package is on no index, so that `pip install medlsam_jax` would look for something that is not there.
"""

from __future__ import annotations

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

PACKAGE = "medlsam_jax"


def version(name: str = PACKAGE) -> str:
  """Version of an installed distribution, of a checkout that nobody installed, or `unknown`."""
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    project = _project() if name == PACKAGE else {}
    return str(project.get("version", "unknown"))


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
  names = [text.partition(";") for text in distribution.requires or ()]
  wanted = [name.strip() for name, _, marker in names if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", marker)]
  return "pip install " + " ".join(f"'{name}'" for name in wanted)


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
