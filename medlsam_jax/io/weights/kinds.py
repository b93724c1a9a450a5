"""Which network a published checkpoint belongs to, told from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from medlsam_jax.errors import WeightsError

MEDLAM = "medlam"
KINDS = (MEDLAM, "litemedsam", "mobilesam", "sam-vit-b", "sam-vit-l", "sam-vit-h", "medsam")
"""Kinds by which checkpoints are known, whether or not a network for them is here."""

MEDLAM_ANCHOR = "conv0_1.model.conv1_1.Conv.weight"
"""The published name of MedLAM's first weight, which no other kind has."""
_DECODER = "mask_decoder.iou_token.weight"
ANCHORS = (MEDLAM_ANCHOR, _DECODER)
"""A published name for each family that no network of another family has, by which a network is found in a file."""

_VIT_SIZES = {(768, 12): "sam-vit-b", (1024, 24): "sam-vit-l", (1280, 32): "sam-vit-h"}
"""Encoder width and depth of the published ViT members."""
_TINY_VIT_PATCH_EDGES = {1: "litemedsam", 3: "mobilesam"}
"""Both encoders have the same names; LiteMedSAM's patch embedding is 1x1 at 256 pixels, MobileSAM's 3x3 at 1024."""


def is_medlam(shapes: Mapping[str, tuple[int, ...]]) -> bool:
  """Whether published names (without prefixes) are MedLAM's."""
  return MEDLAM_ANCHOR in shapes and "fc1.weight" in shapes


def detect_kind(shapes: Mapping[str, tuple[int, ...]], source: str) -> str:
  """Kind of a checkpoint from its published names (without prefixes, `unwrapping`) and shapes.

  MedSAM is SAM ViT-B trained on, with the same names and shapes: both are told as `sam-vit-b` here.

  Raises:
    WeightsError: no known kind.
  """
  if is_medlam(shapes):
    return MEDLAM
  if _DECODER not in shapes:
    shown = ", ".join(list(shapes)[:3])
    raise WeightsError(f"{source}: no known kind of network (its tensors: {shown}, ...); known: {', '.join(KINDS)}")
  tiny = shapes.get("image_encoder.patch_embed.seq.0.c.weight", ())
  if len(tiny) == 4 and tiny[-1] in _TINY_VIT_PATCH_EDGES:
    return _TINY_VIT_PATCH_EDGES[tiny[-1]]
  vit = shapes.get("image_encoder.patch_embed.proj.weight", ())
  depth = sum(name.startswith("image_encoder.blocks.") and name.endswith(".norm1.weight") for name in shapes)
  if len(vit) == 4 and (vit[0], depth) in _VIT_SIZES:
    return _VIT_SIZES[vit[0], depth]
  encoder = f"a ViT encoder of width {vit[0]} and depth {depth}" if vit else "an encoder that is not known here"
  raise WeightsError(f"{source}: of the SAM family, but with {encoder}; known: {', '.join(KINDS)}")


def settle_kind(detected: str, wanted: str | None, known: str | None, source: str) -> str:
  """The kind to read a checkpoint as.

  Args:
    detected: of `detect_kind`.
    wanted: what the user asked for, if anything.
    known: kind of the published file with these very bytes, if it is one.
    source: the file, for messages.

  Raises:
    WeightsError: the wanted kind differs from what the file is, or the file may be SAM ViT-B or MedSAM, which are fed
      differently, and nothing says which.
  """
  if wanted is not None and wanted not in KINDS:
    raise WeightsError(f"{wanted!r} is no kind of network; known: {', '.join(KINDS)}")
  possible: tuple[str, ...] = ("sam-vit-b", "medsam") if detected == "sam-vit-b" else (detected,)
  if known is not None and known in possible:
    possible = (known,)
  if wanted is None and len(possible) > 1:
    raise WeightsError(
      f"{source}: SAM ViT-B and MedSAM have the same names and shapes but want different input; say which it is: "
      "--kind sam-vit-b or --kind medsam (commands without --kind take the file that `medlsam convert` makes of it)"
    )
  if wanted is not None and wanted not in possible:
    raise WeightsError(f"{source}: wanted kind {wanted}, but the file is {' or '.join(possible)}")
  return wanted or possible[0]
