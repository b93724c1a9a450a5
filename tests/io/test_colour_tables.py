"""Tables of names and colours go with the label map: the same values, the same colours as the picture."""

import numpy as np

from medlsam_jax.geometry import Grid
from medlsam_jax.io import colours
from medlsam_jax.io.labels import LabelMap


def test_tables_name_every_value(tmp_path):
  grid = Grid((2, 3, 4), np.eye(4))
  labels = LabelMap(np.ones(grid.shape, np.uint8), grid, {"left kidney": 3, "liver": 12})
  labels.save(tmp_path / "a.ctbl")
  labels.save(tmp_path / "a.txt", "itksnap")
  red, green, blue = (round(255 * part) for part in colours.of(0))
  lines = (tmp_path / "a.ctbl").read_text().splitlines()
  assert lines[2] == f"3 left_kidney {red} {green} {blue} 255" and lines[3].startswith("12 liver ")
  rows = [line.split(None, 7) for line in (tmp_path / "a.txt").read_text().splitlines() if not line.startswith("#")]
  assert rows[1] == ["3", str(red), str(green), str(blue), "1", "1", "1", '"left kidney"'] and rows[2][0] == "12"


def test_colours_of_many_organs_differ():
  every = [colours.of(place) for place in range(60)]
  assert len({tuple(round(part, 2) for part in colour) for colour in every}) == 60
