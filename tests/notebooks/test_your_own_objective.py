"""The notebook on objectives runs from top to bottom, with its smoke sizes."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "your_own_objective.ipynb"

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")


@pytest.mark.slow
def test_a_new_objective_of_under_thirty_lines_trains(tmp_path, monkeypatch):
  from nbclient import NotebookClient

  monkeypatch.setenv("MEDLSAM_SMOKE", "1")
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
  outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
  assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
  assert len((tmp_path / "distance_alone.py").read_text().splitlines()) < 30
