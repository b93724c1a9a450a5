"""Rooms of the package and who imports whom, read from the code: `docs/house.svg`, and the table in `docs/house.md`.

  python tools/draw_house.py

A test compares both with the code, so a new room or a new arrow has to be drawn.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "medlsam_jax"
PAGE, DRAWING = ROOT / "docs" / "house.md", ROOT / "docs" / "house.svg"
BEGIN, END = "<!-- rooms: made by tools/draw_house.py -->", "<!-- end of rooms -->"
GROUND = "ground"
"""Files of the package's own folder that everybody may use."""
ON_TOP = ("pipeline", "loading")
"""Files of that folder that stand above the rooms."""
DOORS = {"__main__": "cli"}
"""Files of that folder that belong to a room: `python -m` asks for their place."""


def imports(path: Path) -> Iterator[str]:
  """Full names of what a file imports from the package, inside functions too."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names if alias.name.startswith("medlsam_jax."))
    elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "medlsam_jax":
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(name: str) -> str:
  """Room of a module, given its path in the package: `io/nifti.py`, or its full name."""
  part = re.split(r"[./]", name.removeprefix("medlsam_jax.").removesuffix(".py"))[0]
  return part if part in ON_TOP or (PACKAGE / part).is_dir() else DOORS.get(part, GROUND)


def rooms() -> dict[str, list[Path]]:
  """Files by room."""
  result = dict[str, list[Path]]()
  for path in sorted(PACKAGE.rglob("*.py")):
    inside = path.relative_to(PACKAGE)
    if path.name != "__init__.py" and inside.parts[0] != "configs":
      result.setdefault(room_of(str(inside)), []).append(path)
  return result


def arrows(files: Mapping[str, list[Path]]) -> dict[str, set[str]]:
  """Rooms that each room imports."""
  found = {room: {room_of(name) for path in paths for name in imports(path)} - {room} for room, paths in files.items()}
  return {room: {other for other in others if other in files} for room, others in found.items()}


def levels(reaches: Mapping[str, set[str]]) -> dict[str, int]:
  """Height of each room: above all that it imports.

  Raises:
    ValueError: rooms import each other in a circle.
  """
  height = dict[str, int]()
  while len(height) < len(reaches):
    ready = [room for room, others in reaches.items() if room not in height and others <= height.keys()]
    if not ready:
      raise ValueError(f"a circle of rooms: {sorted(reaches.keys() - height.keys())}")
    for room in ready:
      height[room] = max((height[other] + 1 for other in reaches[room]), default=0)
  return height


def direct(reaches: Mapping[str, set[str]]) -> dict[str, set[str]]:
  """Arrows without those that a longer way already says."""

  def all_below(room: str) -> set[str]:
    return set().union(*({other} | all_below(other) for other in reaches[room]))

  return {room: others - set().union(*(all_below(other) for other in others)) for room, others in reaches.items()}


def table() -> str:
  """Rooms from the top down: what each holds, by its first docstring, and what it imports."""
  files = rooms()
  reaches = arrows(files)
  height = levels(reaches)
  lines = ["| room | what it holds | imports |", "|---|---|---|"]
  for room in sorted(files, key=lambda room: (-height[room], room)):
    below = ", ".join(sorted(reaches[room], key=lambda other: (-height[other], other)))
    lines.append(f"| `{room}` | {_what(room, files[room])} | {below} |")
  return "\n".join(lines)


def _what(room: str, files: list[Path]) -> str:
  if room == GROUND:
    return "Files that everybody may use: " + ", ".join(f"`{path.stem}`" for path in files) + "."
  source = PACKAGE / f"{room}.py" if room in ON_TOP else PACKAGE / room / "__init__.py"
  return (ast.get_docstring(ast.parse(source.read_text())) or "").partition("\n")[0]


def draw() -> None:
  """Writes the drawing."""
  import matplotlib

  matplotlib.use("svg")
  matplotlib.rcParams |= {"svg.hashsalt": "house", "svg.fonttype": "none", "font.family": "sans-serif"}
  from matplotlib import pyplot

  files = rooms()
  reaches = arrows(files)
  height = levels(reaches)
  floors = [sorted(room for room in files if height[room] == level) for level in range(max(height.values()) + 1)]
  place = {
    room: ((number + 0.5) / len(floor), level)
    for level, floor in enumerate(floors)
    for number, room in enumerate(floor)
  }
  figure, axes = pyplot.subplots(figsize=(8, 0.8 * len(floors)))
  box = {"boxstyle": "round,pad=0.6", "facecolor": "#eef3f8", "edgecolor": "#5a7896"}
  shown = {
    room: axes.text(x, y, room, ha="center", va="center", bbox=box, fontsize=10) for room, (x, y) in place.items()
  }
  for room, others in direct(reaches).items():
    for other in others:
      ends = {"patchA": shown[room].get_bbox_patch(), "patchB": shown[other].get_bbox_patch()}
      arrow = {"arrowstyle": "->", "color": "0.45", **ends}
      axes.annotate("", place[other], place[room], arrowprops=arrow, zorder=0)
  axes.set(xlim=(0, 1), ylim=(-0.6, len(floors) - 0.4))
  axes.axis("off")
  figure.savefig(DRAWING, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
  """Draws, and puts the table on the page."""
  draw()
  before, rest = PAGE.read_text().split(BEGIN)
  PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
  main()
