"""How large the work of `bench.accelerator` is: as it is measured, and for a dry run."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Of the work; `TINY` is for a dry run."""

  width: int = 24
  patches: int = 6
  many_patches: int = 48
  product_edge: int = 8192
  copied_numbers: int = 2**28
  organs: tuple[int, int] = (2, 16)
  images: int = 16
  paint_organs: int = 13
  step_width: int = 16
  step_scans: int = 6
  published_scans: int = 4
  vit: bool = True
  paint_slices: int = 1000
  """Of an organ, at most."""
  points: int = 6
  """That a correlation, and an organ of the peer, have."""
  cubes: tuple[str, ...] = ("sam3d-litemedsam", "sam3d-vit-b")
  """Volumetric networks."""


FULL = Sizes()
TINY = Sizes(2, 2, 3, 256, 2**20, (1, 2), 2, 1, 2, 1, 1, False, 2, 1, ("sam3d-tiny",))
