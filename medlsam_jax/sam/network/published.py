"""Published names of the SAM family: a checkpoint's tensors <-> the variables of `sam.network.sam.Sam`.

The prompt encoder and mask decoder tables serve every variant; an encoder's table comes with its kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from medlsam_jax.io.weights.rules import CONV2D, IDENTITY, LINEAR, Rule, RuleTable, Skip, Transform, permutation

DOUBLE = permutation(2, 3, 0, 1)
"""Transposed 2x2 convolution, (in, out, y, x) to (y, x, in, out): what `mask_decoder.Double` multiplies by."""


def _pair(source: str, target: str, kernel: Transform) -> tuple[Rule, ...]:
  """Kernel and bias of a linear map or convolution."""
  return (
    Rule(f"{source}.weight", f"params.{target}.kernel", kernel),
    Rule(f"{source}.bias", f"params.{target}.bias"),
  )


def _norm(source: str, target: str) -> tuple[Rule, ...]:
  return (Rule(f"{source}.weight", f"params.{target}.scale"), Rule(f"{source}.bias", f"params.{target}.bias"))


def _conv_norm(source: str, target: str) -> tuple[Rule, ...]:
  """Convolution with batch norm; the count of batches that PyTorch keeps is a `Skip`."""
  return (
    Rule(f"{source}.c.weight", f"params.{target}.kernel", CONV2D),
    *_norm(f"{source}.bn", f"{target}.norm"),
    Rule(f"{source}.bn.running_mean", f"batch_stats.{target}.norm.mean"),
    Rule(f"{source}.bn.running_var", f"batch_stats.{target}.norm.var"),
  )


def _neck(source: str, target: str) -> tuple[Rule, ...]:
  return (
    Rule(f"{source}.0.weight", f"params.{target}.neck0.kernel", CONV2D),
    *_norm(f"{source}.1", f"{target}.neck_norm0"),
    Rule(f"{source}.2.weight", f"params.{target}.neck1.kernel", CONV2D),
    *_norm(f"{source}.3", f"{target}.neck_norm1"),
  )


def _tiny_vit_rules() -> tuple[Rule, ...]:
  here, there = "image_encoder", "image_encoder"
  stage, block = there + ".layers.{s}", there + ".layers.{s}.blocks.{b}"
  ours = here + ".stage{s}_block{b}"
  convolutions = {
    f"{there}.patch_embed.seq.0": f"{here}.embed0",
    f"{there}.patch_embed.seq.2": f"{here}.embed1",
    f"{block}.local_conv": f"{ours}.local",
    **{f"{block}.conv{i}": f"{ours}.{n}" for i, n in enumerate(("expand", "depthwise", "project"), 1)},
    **{
      f"{stage}.downsample.conv{i}": here + ".stage{s}_merge." + n
      for i, n in enumerate(("expand", "depthwise", "project"), 1)
    },
  }
  return (
    *(rule for source, target in convolutions.items() for rule in _conv_norm(source, target)),
    Rule(f"{block}.attn.attention_biases", f"params.{ours}.attention.offset_bias"),
    *_norm(f"{block}.attn.norm", f"{ours}.attention.norm"),
    Rule(f"{block}.attn.qkv.weight", f"params.{ours}.attention.qkv_kernel", LINEAR),
    Rule(f"{block}.attn.qkv.bias", f"params.{ours}.attention.qkv_bias"),
    *_pair(f"{block}.attn.proj", f"{ours}.attention.project", LINEAR),
    *_norm(f"{block}.mlp.norm", f"{ours}.mlp_norm"),
    *_pair(f"{block}.mlp.fc1", f"{ours}.mlp_in", LINEAR),
    *_pair(f"{block}.mlp.fc2", f"{ours}.mlp_out", LINEAR),
    *_neck(f"{there}.neck", here),
  )


def _vit_rules() -> tuple[Rule, ...]:
  here, there = "image_encoder", "image_encoder"
  block, ours = there + ".blocks.{b}", here + ".block{b}"
  maps = {"attn.qkv": "qkv", "attn.proj": "project", "mlp.lin1": "mlp_in", "mlp.lin2": "mlp_out"}
  return (
    *_pair(f"{there}.patch_embed.proj", f"{here}.patch", CONV2D),
    Rule(f"{there}.pos_embed", f"params.{here}.position"),
    *(rule for source, target in maps.items() for rule in _pair(f"{block}.{source}", f"{ours}.{target}", LINEAR)),
    *(rule for norm in ("norm1", "norm2") for rule in _norm(f"{block}.{norm}", f"{ours}.{norm}")),
    Rule(f"{block}.attn.rel_pos_h", f"params.{ours}.relative_y"),
    Rule(f"{block}.attn.rel_pos_w", f"params.{ours}.relative_x"),
    *_neck(f"{there}.neck", here),
  )


def _prompt_encoder_rules() -> tuple[Rule, ...]:
  module = "prompt_encoder"
  tokens = {
    "point_embeddings.0": "negative_point",
    "point_embeddings.1": "positive_point",
    "point_embeddings.2": "box_low",
    "point_embeddings.3": "box_high",
    "not_a_point_embed": "no_point",
    "no_mask_embed": "no_mask",
  }
  frequencies = f"{module}.pe_layer.positional_encoding_gaussian_matrix"
  return (
    Rule(frequencies, f"params.{module}.frequencies"),
    *(Rule(f"{module}.{source}.weight", f"params.{module}.{target}") for source, target in tokens.items()),
    *_pair(f"{module}.mask_downscaling.0", f"{module}.mask_conv0", CONV2D),
    *_norm(f"{module}.mask_downscaling.1", f"{module}.mask_norm0"),
    *_pair(f"{module}.mask_downscaling.3", f"{module}.mask_conv1", CONV2D),
    *_norm(f"{module}.mask_downscaling.4", f"{module}.mask_norm1"),
    *_pair(f"{module}.mask_downscaling.6", f"{module}.mask_conv2", CONV2D),
  )


def _attention(source: str, target: str) -> tuple[Rule, ...]:
  parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
  return tuple(
    rule for theirs, name in parts.items() for rule in _pair(f"{source}.{theirs}", f"{target}.{name}", LINEAR)
  )


def _mask_decoder_rules() -> tuple[Rule, ...]:
  module = "mask_decoder"
  layer, block = module + ".transformer.layers.{b}", module + ".transformer.block{b}"
  attentions = {
    f"{layer}.self_attn": f"{block}.self_attention",
    f"{layer}.cross_attn_token_to_image": f"{block}.token_to_image",
    f"{layer}.cross_attn_image_to_token": f"{block}.image_to_token",
    f"{module}.transformer.final_attn_token_to_image": f"{module}.transformer.final_attention",
  }
  norms = {
    **{f"{layer}.norm{i + 1}": f"{block}.norm{i}" for i in range(4)},
    f"{module}.transformer.norm_final_attn": f"{module}.transformer.final_norm",
    f"{module}.output_upscaling.1": f"{module}.double_norm",
  }
  return (
    *(rule for source, target in attentions.items() for rule in _attention(source, target)),
    *(rule for source, target in norms.items() for rule in _norm(source, target)),
    *_pair(f"{layer}.mlp.lin1", f"{block}.mlp.linear0", LINEAR),
    *_pair(f"{layer}.mlp.lin2", f"{block}.mlp.linear1", LINEAR),
    Rule(f"{module}.iou_token.weight", f"params.{module}.iou_token", IDENTITY),
    Rule(f"{module}.mask_tokens.weight", f"params.{module}.mask_tokens", IDENTITY),
    *_pair(f"{module}.output_upscaling.0", f"{module}.double0", DOUBLE),
    *_pair(f"{module}.output_upscaling.3", f"{module}.double1", DOUBLE),
    *_pair(module + ".output_hypernetworks_mlps.{f}.layers.{i}", module + ".filter{f}.linear{i}", LINEAR),
    *_pair(module + ".iou_prediction_head.layers.{i}", f"{module}.iou.linear{{i}}", LINEAR),
  )


PROMPT_ENCODER_RULES = _prompt_encoder_rules()
MASK_DECODER_RULES = _mask_decoder_rules()
TINY_VIT_RULES = _tiny_vit_rules()
VIT_RULES = _vit_rules()

_COUNTED = "PyTorch's count of training batches, used only when batch norm has no momentum"
_TINY_VIT_SKIPS = (
  Skip("image_encoder.patch_embed.seq.{i}.bn.num_batches_tracked", _COUNTED),
  Skip("image_encoder.layers.{s}.blocks.{b}.conv{i}.bn.num_batches_tracked", _COUNTED),
  Skip("image_encoder.layers.{s}.blocks.{b}.local_conv.bn.num_batches_tracked", _COUNTED),
  Skip("image_encoder.layers.{s}.downsample.conv{i}.bn.num_batches_tracked", _COUNTED),
)
_CLASSIFIER = "classification head left over from distillation; the encoder never runs it"

LITEMEDSAM_TABLE = RuleTable("litemedsam", TINY_VIT_RULES + PROMPT_ENCODER_RULES + MASK_DECODER_RULES, _TINY_VIT_SKIPS)
MOBILESAM_TABLE = dataclasses.replace(
  LITEMEDSAM_TABLE,
  kind="mobilesam",
  skips=(
    *_TINY_VIT_SKIPS,
    *(Skip(f"image_encoder.{m}.{p}", _CLASSIFIER) for m in ("norm_head", "head") for p in ("weight", "bias")),
  ),
)
VIT_KINDS = ("sam-vit-b", "sam-vit-l", "sam-vit-h", "medsam")
_VIT_TABLES = (RuleTable(kind, VIT_RULES + PROMPT_ENCODER_RULES + MASK_DECODER_RULES) for kind in VIT_KINDS)
TABLES: Mapping[str, RuleTable] = {table.kind: table for table in (LITEMEDSAM_TABLE, MOBILESAM_TABLE, *_VIT_TABLES)}
