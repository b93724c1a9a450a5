"""Prints the lowest version that pyproject.toml allows of every package, as constraints for pip.

python tools/lowest_versions.py > lowest.txt && pip install --constraint lowest.txt '.[dev]'
"""

import re
import tomllib
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9._-]+")
FLOOR = re.compile(r"(?:>=|==)\s*([0-9][0-9A-Za-z.]*)")
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(requirements: list[str]) -> dict[str, str]:
  """Package -> lowest version; one without a floor has nothing that could be tested, so that it is an error."""
  floors = {}
  for requirement in requirements:
    name, floor = NAME.match(requirement), FLOOR.search(requirement)
    if name is None or floor is None:
      raise SystemExit(f"pyproject.toml: {requirement!r} states no lowest version")
    floors[name.group()] = floor.group(1)
  return floors


def main() -> None:
  """Prints one constraint a line."""
  project = tomllib.loads(PYPROJECT.read_text())["project"]
  optional = project["optional-dependencies"]
  own = f"{project['name']}["
  (tested,) = (re.findall(r"\w+", r.removeprefix(own)) for r in optional["dev"] if r.startswith(own))
  extras = [optional[name] for name in (*tested, "dev")]
  every = [r for part in (project["dependencies"], *extras) for r in part if not r.startswith(own)]
  for name, version in lowest(every).items():
    print(f"{name}=={version}")


if __name__ == "__main__":
  main()
