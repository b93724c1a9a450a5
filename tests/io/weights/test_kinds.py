import pytest

from medlsam_jax.errors import WeightsError
from medlsam_jax.io.weights.kinds import detect_kind, settle_kind

DECODER = {"mask_decoder.iou_token.weight": (1, 256)}


def vit(width, depth):
  blocks = {f"image_encoder.blocks.{i}.norm1.weight": (width,) for i in range(depth)}
  return DECODER | {"image_encoder.patch_embed.proj.weight": (width, 3, 16, 16)} | blocks


def tiny_vit(edge):
  return DECODER | {"image_encoder.patch_embed.seq.0.c.weight": (32, 3, edge, edge)}


@pytest.mark.parametrize(
  ("shapes", "kind"),
  [
    ({"conv0_1.model.conv1_1.Conv.weight": (4, 1, 3, 3, 3), "fc1.weight": (16, 2048)}, "medlam"),
    (tiny_vit(1), "litemedsam"),
    (tiny_vit(3), "mobilesam"),
    (vit(768, 12), "sam-vit-b"),
    (vit(1024, 24), "sam-vit-l"),
    (vit(1280, 32), "sam-vit-h"),
  ],
)
def test_kinds_are_told_from_names_and_shapes(shapes, kind):
  assert detect_kind(shapes, "f.pth") == kind


@pytest.mark.parametrize(
  ("shapes", "words"),
  [
    ({"layer1.0.weight": (3,)}, r"f\.pth: no known kind.*layer1\.0\.weight.*medlam"),
    (vit(32, 3), "width 32 and depth 3"),
    (vit(768, 11), "width 768 and depth 11"),
    (tiny_vit(5), "not known here"),
    (DECODER, "not known here"),
  ],
)
def test_unknown_kinds_say_what_was_seen(shapes, words):
  with pytest.raises(WeightsError, match=words):
    detect_kind(shapes, "f.pth")


def test_a_wanted_kind_must_be_that_of_the_file():
  assert settle_kind("medlam", "medlam", None, "f.pth") == "medlam"
  with pytest.raises(WeightsError, match=r"f\.pth: wanted kind litemedsam, but the file is medlam"):
    settle_kind("medlam", "litemedsam", None, "f.pth")
  with pytest.raises(WeightsError, match="no kind of network; known"):
    settle_kind("medlam", "resnet", None, "f.pth")


def test_medsam_and_sam_vit_b_are_told_apart_by_hash_or_by_the_user():
  with pytest.raises(WeightsError, match="--kind sam-vit-b or --kind medsam"):
    settle_kind("sam-vit-b", None, None, "f.pth")
  assert settle_kind("sam-vit-b", "medsam", None, "f.pth") == "medsam"
  assert settle_kind("sam-vit-b", None, "medsam", "f.pth") == "medsam"
  assert settle_kind("sam-vit-b", None, "sam-vit-b", "f.pth") == "sam-vit-b"
  with pytest.raises(WeightsError, match="wanted kind medsam, but the file is sam-vit-b"):
    settle_kind("sam-vit-b", "medsam", "sam-vit-b", "f.pth")
