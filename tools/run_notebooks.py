"""Runs the notebooks and keeps what they print and draw, so that readers on GitHub and of the site see results.

  python tools/run_notebooks.py [quickstart ...]

A test asks that outputs are there, that none is an error, and that nothing of this machine is in them.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def main(names: list[str]) -> None:
  """Runs those named, or all; each file is written whole."""
  for path in [NOTEBOOKS / f"{name}.ipynb" for name in names] or sorted(NOTEBOOKS.glob("*.ipynb")):
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
      NotebookClient(notebook, timeout=None, resources={"metadata": {"path": folder}}).execute()
    notebook.metadata = nbformat.from_dict({key: notebook.metadata[key] for key in ("kernelspec", "language_info")})
    notebook.metadata.language_info = nbformat.from_dict({"name": "python"})
    for cell in notebook.cells:
      cell.metadata = nbformat.from_dict({})
    temporary = path.with_suffix(".part")
    nbformat.write(notebook, temporary)
    temporary.replace(path)
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
  main(sys.argv[1:])
