"""The notebooks for users run from top to bottom, in their own process."""

from pathlib import Path

import pytest

NOTEBOOKS = [
  Path(__file__).parents[2] / "notebooks" / f"{name}.ipynb" for name in ("quickstart", "templates_from_six_clicks")
]

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
  import nbformat
  from nbclient import NotebookClient

  notebook = nbformat.read(path, as_version=4)
  NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
  outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
  assert any("image/png" in output.get("data", {}) for output in outputs)  # the picture at the end
  text = "".join(output.get("text", "") for output in outputs)
  assert "Dice" in text or "kidney_left" in text
  skipped = [line for line in text.splitlines() if line.startswith("skipped: ")]
  assert all("medlsam weights get litemedsam" in line for line in skipped)
