"""Boxes -> 3D Slicer markups (`.mrk.json`): one ROI per organ, world millimetres (x, y, z).

In LPS, as Slicer itself writes, for schema 1.0.3 (Slicer 5.0 and later). They are read by `io.slicer_files`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Grid
from medlsam_jax.io import colours
from medlsam_jax.io.boxes_file import box_to_world

SCHEMA = (
  "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
  "markups-schema-v1.0.3.json#"
)
_FLIP = np.array([-1.0, -1.0, 1.0])
_UPRIGHT_RAS_IN_LPS = [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0]


def rois(findings: Mapping[str, Finding], grid: Grid) -> dict[str, object]:
  """The content of a markups file with a box ROI for each organ; the description of its point is verdict and doubts."""
  items = []
  for number, (organ, each) in enumerate(findings.items()):
    low, high = box_to_world(each.box, grid)
    centre = _plain((low + high) / 2 * _FLIP)
    colour = list(colours.of(number))
    items.append(
      {
        "type": "ROI",
        "name": organ,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N",
        "lastUsedControlPointNumber": 1,
        "roiType": "Box",
        "center": centre,
        "orientation": _UPRIGHT_RAS_IN_LPS,
        "size": _plain(high - low),
        "insideOut": False,
        "controlPoints": [
          {
            "id": "1",
            "label": organ,
            "description": ": ".join([each.verdict, *(["; ".join(each.doubts)] if each.doubts else [])]),
            "associatedNodeID": "",
            "position": centre,
            "orientation": _UPRIGHT_RAS_IN_LPS,
            "selected": True,
            "locked": False,
            "visibility": True,
            "positionStatus": "defined",
          }
        ],
        "measurements": [],
        "display": {"visibility": True, "opacity": 1.0, "color": colour, "selectedColor": colour, "fillOpacity": 0.1},
      }
    )
  return {"@schema": SCHEMA, "markups": items}


def _plain(values: Float[np.ndarray, "3"]) -> list[float]:
  return (np.round(values, 3) + 0.0).tolist()
