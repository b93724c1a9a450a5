"""Every package that is imported is declared where it is needed, and every one that is declared is used."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGE_OF = {
  "PIL": "pillow",
  "absl": "absl-py",
  "nnInteractive": "nninteractive-client",
  "gdcm": "python-gdcm",
  "nrrd": "pynrrd",
  "orbax": "orbax-checkpoint",
}
"""Module -> package, where their names differ."""
STUBS = {"_typeshed"}
"""Known to type checkers alone, and imported for them alone."""
RUN_NOT_IMPORTED = {
  "beartype": "by tests/shapes.py, and by name in the hook of jaxtyping",
  "build": "by make wheel",
  "gcsfs": "fsspec finds it by the address",
  "dcmqi": "its programs, by tests/io/test_dicom_seg.py",
  "ipykernel": "runs the notebooks",
  "mypy": "by make lint",
  "pre-commit": "by whoever commits",
  "pytest-xdist": "by .ci/run",
  "pylibjpeg": "pydicom finds it among the installed packages",
  "pylibjpeg-openjpeg": "pylibjpeg finds it among the installed packages",
  "ruff": "by make lint",
  "s3fs": "fsspec finds it by the address",
}
MAY_USE = {
  "medlsam_jax/cli/completion.py": {"completion"},
  "medlsam_jax/cli/startup.py": {"train"},
  "medlsam_jax/cohort/board.py": {"train"},
  "medlsam_jax/cohort/ray_": {"ray"},
  "medlsam_jax/io/addresses.py": {"cloud"},
  "medlsam_jax/io/dicom": {"dicom"},
  "medlsam_jax/io/nrrd_file.py": {"nrrd"},
  "medlsam_jax/io/rtstruct.py": {"dicom"},
  "medlsam_jax/cli/serve.py": {"serve"},
  "medlsam_jax/serve/": {"serve"},
  "medlsam_jax/view/": {"serve"},
  "medlsam_jax/train/": {"train"},
  "medlsam_jax/medlam/pretraining/": {"train"},
  "medlsam_jax/medlam/pretraining/prepare.py": {"train", "dicom"},
  "medlsam_jax/sam/finetuning/": {"train"},
  "medlsam_jax/sam3d/training/": {"train"},
  "medlsam_jax/sam/run_lengths.py": {"rle"},
  "tests/": {"dicom", "nrrd", "train", "rle", "serve", "completion", "docs", "dev"},
  "tests/bench/test_cubes_bench.py": {"parity"},
  "bench/": {"train", "parity", "dev"},
  "tools/": {"dev"},
}
"""Extras that a folder or file may rely on, beside what everybody has."""


def canonical(name: str) -> str:
  return re.sub(r"[-_.]+", "-", name).lower()


def declared(extra: str | None = None) -> set[str]:
  """Packages that everybody gets, or that an extra adds."""
  requirements = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
  names = {canonical(re.match(r"[\w.-]+", requirement).group()) for requirement in requirements}
  return names - {canonical(PROJECT["name"])}


def sources() -> list[Path]:
  return [
    path for folder in ("medlsam_jax", "configs", "bench", "tests", "tools") for path in (ROOT / folder).rglob("*.py")
  ]


def imported(path: Path) -> set[str]:
  """Packages that a file imports, inside functions too."""
  modules = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      modules |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
      modules.add(node.module)
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "importorskip":
      modules.add(ast.literal_eval(node.args[0]))
  ours = {"medlsam_jax", "bench"} | {found.stem for found in (ROOT / "tests").rglob("*.py")}
  tops = {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - ours - STUBS
  return {canonical(PACKAGE_OF.get(top, top)) for top in tops}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_file_imports_is_declared_where_it_is_needed(path):
  place = str(path.relative_to(ROOT))
  extras = set().union(*(extras for start, extras in MAY_USE.items() if place.startswith(start)))
  allowed = declared().union(*(declared(extra) for extra in extras))
  assert imported(path) <= allowed, f"declare in pyproject.toml what {place} imports"


def test_what_is_declared_is_used():
  used = set().union(*(imported(path) for path in sources())) | set(RUN_NOT_IMPORTED)
  for extra in (None, "dicom", "nrrd", "train", "ray", "cloud", "rle", "completion", "docs", "parity", "dev"):
    assert declared(extra) <= used, f"{extra or 'dependencies'} of pyproject.toml has what nothing uses"
