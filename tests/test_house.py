"""Pages and docstrings name files, functions and modules that exist, and the drawing of the house is of this house."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "medlsam_jax"
PAGES = [
  *sorted((ROOT / "docs").glob("*.md")),
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  ROOT / "bench" / "README.md",
]
NAMED = re.compile(r"(?<![\w/.-])((?:\w+/)*\w+\.py)(?::(\w+))?\b")
"""A file, and perhaps a function in it."""
NOT_OURS = {"NAME.py", "FILE.py", "test_NAME.py", "train.py", "utils.py"}


@pytest.fixture(scope="module")
def house():
  spec = importlib.util.spec_from_file_location("draw_house", ROOT / "tools" / "draw_house.py")
  module = importlib.util.module_from_spec(spec)
  sys.modules["draw_house"] = module
  spec.loader.exec_module(module)
  return module


def named_in(page):
  """Files, with functions, that a page names and that are to be ours."""
  return [(file, function) for file, function in NAMED.findall(page.read_text()) if Path(file).name not in NOT_OURS]


def homes(file):
  """Where a name on a page may lie: in the repository, in the package, or anywhere by its last parts."""
  direct = [folder / file for folder in (ROOT, PACKAGE) if (folder / file).is_file()]
  anywhere = (path for folder in (PACKAGE, ROOT / "bench") for path in folder.rglob(Path(file).name))
  return direct or [path for path in anywhere if str(path).endswith("/" + file)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page):
  for file, function in named_in(page):
    assert homes(file), f"{page.name} names {file}, which is not there"
    if function and not file.startswith("configs/"):  # whose modes are no functions
      texts = [path.read_text() for path in homes(file)]
      assert any(re.search(rf"^ *(def|class) {function}\b", text, re.M) for text in texts), f"{file} has no {function}"


def test_a_page_that_names_what_is_not_there_is_noticed(tmp_path):
  page = tmp_path / "page.md"
  page.write_text("see `medlam/search/nowhere.py:find` and `NAME.py`")
  assert named_in(page) == [("medlam/search/nowhere.py", "find")] and not homes("medlam/search/nowhere.py")


def test_modules_that_docstrings_name_are_there(house):
  rooms = "|".join(sorted(room for room in house.rooms() if (PACKAGE / room).is_dir()))
  named = re.compile(rf"`((?:{rooms})(?:\.\w+)+)`")
  for path in PACKAGE.rglob("*.py"):
    for name in named.findall(path.read_text()):
      parts = name.split(".")
      places = [PACKAGE.joinpath(*parts[:count]) for count in range(len(parts), 0, -1)]
      module = next(place for place in places if place.is_dir() or place.with_suffix(".py").is_file())
      rest = parts[len(module.relative_to(PACKAGE).parts) :]
      source = (module / "__init__.py") if module.is_dir() else module.with_suffix(".py")
      known = {node.id for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Name)}
      known |= {node.name for node in ast.walk(ast.parse(source.read_text())) if hasattr(node, "name")}
      assert not rest or rest[0] in known, f"{path.relative_to(ROOT)} names {name}"


def test_the_page_shows_these_rooms(house):
  shown = house.PAGE.read_text().split(house.BEGIN)[1].split(house.END)[0].strip()
  assert shown == house.table(), "run python tools/draw_house.py"


def test_the_drawing_shows_these_rooms(house):
  files = house.rooms()
  text = house.DRAWING.read_text()
  assert all(f">{room}</text>" in text for room in files)
  assert text.count('"patch_') >= len(files) + sum(map(len, house.direct(house.arrows(files)).values()))


def test_a_circle_of_rooms_is_refused(house):
  with pytest.raises(ValueError, match=r"circle of rooms: \['a', 'b'\]"):
    house.levels({"a": {"b"}, "b": {"a"}, "c": set()})
