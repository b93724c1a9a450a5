"""Imports point downhill, networks know nothing of files, importing the package does no work (architecture)."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "medlsam_jax"

LEVEL = {
  "display": 0, "errors": 0, "finding": 0, "geometry": 0, "relay": 0, "metrics": 0, "notices": 0, "progress": 0,
  "installation": 0, "platform": 0, "moved": 0, "network": 0, "rehearsal": 0, "label_boxes": 0, "volume_layers": 0,
  "working_grid": 0, "typed_settings": 0, "pages": 0,
  "io": 1,
  "phantom": 2,
  "train": 3,
  "template_masks": 4,
  "medlam": 5, "sam": 5,
  "sam3d": 6,
  "loading": 7, "pipeline": 7,
  "evaluation": 8, "cohort": 8, "serve": 8,
  "report": 9,
  "view": 9,
  "cli": 10,
  "__main__": 11,
}  # fmt: skip
FILE_LIBRARIES = {"nibabel", "pydicom", "grain", "ml_collections"}
NO_FILES = {"medlam", "sam", "sam3d", "template_masks"}
READS_RECORDS = {"shards.py", "prepare.py"}
"""Of pre-training: what turns files into batches."""


def rooms_imported(path: Path) -> set[str]:
  """Full names of everything a file imports, inside functions too."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


def room_of(path: Path) -> str:
  return path.relative_to(ROOT).parts[0].removesuffix(".py")


SOURCES = [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py" and "configs" not in p.parts]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downhill(path):
  room = room_of(path)
  assert room in LEVEL, f"{room} has no place in the architecture"
  for name in rooms_imported(path):
    if not name.startswith("medlsam_jax."):
      continue
    other = name.split(".")[1]
    beside = LEVEL[room] in (0, 7) and LEVEL[other] == LEVEL[room]
    allowed = other == room or LEVEL[other] < LEVEL[room] or beside
    assert allowed, f"{path.name} in {room} imports {name}, which is not downhill"


BLIND_TO_FILES = [p for p in SOURCES if room_of(p) in NO_FILES and p.name not in READS_RECORDS]


@pytest.mark.parametrize("path", BLIND_TO_FILES, ids=lambda p: p.name)
def test_networks_and_search_know_nothing_of_files(path):
  assert not {n.split(".")[0] for n in rooms_imported(path)} & FILE_LIBRARIES


@pytest.mark.parametrize("path", [p for p in SOURCES if room_of(p) == "train"], ids=lambda p: p.name)
def test_the_engine_names_no_network(path):
  """Not even in words: a third network brings its recipe, and nothing in the engine is about the first two."""
  text = path.read_text()
  assert not re.search(r"(?i)\bmed(lam|sam)\b|\bsam\b|lora|uam\b|validation_|\bprobe", text)


def test_only_the_command_line_prints():
  for path in SOURCES:
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    prints = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert room_of(path) == "cli" or not prints, f"{path} prints"


def test_importing_the_package_starts_nothing():
  code = "import sys, medlsam_jax; assert 'jax' not in sys.modules, 'importing medlsam_jax imported jax'"
  subprocess.run([sys.executable, "-c", code], check=True)


def test_no_circle_of_files():
  """Imports inside functions count, those for type checking alone too."""
  modules = {f"medlsam_jax.{'.'.join(p.relative_to(ROOT).with_suffix('').parts)}": p for p in SOURCES}
  needs = {
    name: {other for other in modules if any(each == other or each.startswith(f"{other}.") for each in imported)}
    for name, imported in ((name, rooms_imported(path)) for name, path in modules.items())
  }
  while ends := [name for name, others in needs.items() if not others]:
    needs = {name: others - set(ends) for name, others in needs.items() if name not in ends}
  assert not needs, f"these files import each other, or what does: {sorted(needs)}"
