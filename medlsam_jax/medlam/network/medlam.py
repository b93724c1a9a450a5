"""MedLAM: one CT patch to a point in the learned anatomical coordinate system and features of every voxel.

Source: MedLSAM (Lei et al.), section 3, and the released program. Patches are `(n, z, y, x, 1)` intensities in [0, 1]
at 3 mm; channels are last throughout. Widths are multiples of `base_channels` (24 in the released weights).
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from medlsam_jax.volume_layers import convolution, ops

FEATURE_STRIDES = (4, 2, 1)
"""Decoder outputs by voxel stride: 4 is the published `feature0`, 2 `feature1`, 1 `feature2`."""


class MedLAMOutput(NamedTuple):
  """What a forward pass returns; `features` holds just the strides that were asked for."""

  position: Float[Array, "n 3"]
  features: dict[int, Float[Array, "featured _z _y _x _c"]]
  probability: Float[Array, "n z y x 3"] | None


class Block(nn.Module):
  """3x3x3 convolution with bias, instance norm of the patch itself, ReLU; result in `dtype`."""

  channels: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Float[Array, "n z y x c"]) -> Float[Array, "n z y x o"]:
    kernel = self.param("kernel", nn.initializers.he_normal(), (3, 3, 3, x.shape[-1], self.channels))
    # The norm takes every constant off again, so that the published bias is kept in the weights but never added.
    self.param("bias", nn.initializers.zeros, (self.channels,))
    y = convolution.conv3(x.astype(self.dtype), kernel.astype(self.dtype))
    return ops.instance_norm_relu(y)


class Stage(nn.Module):
  """Two blocks."""

  first_channels: int
  second_channels: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Float[Array, "n z y x c"]) -> Float[Array, "n z y x o"]:
    x = Block(self.first_channels, self.dtype, name="first")(x)
    return Block(self.second_channels, self.dtype, name="second")(x)


class MedLAM(nn.Module):
  """The 3D localization network.

  Attributes:
    base_channels: width `b`; stage widths are 2b to 16b.
    patch_edge: edge of the input cube, a multiple of 16.
    dropout: rate after the deepest stage while training.
    feature_scales: strides that the network has decoder stages for; the classification needs stride 1.
    dtype: of the operands and of what lies between layers; sums are float32, as are parameters and the position.
    remat: keep a stage's input alone for the backward pass and work the stage out again, for one of every k patches
      (`featured`) at a time, so that the values within a stage exist for that one only.
  """

  base_channels: int = 24
  patch_edge: int = 64
  dropout: float = 0.2
  feature_scales: tuple[int, ...] = FEATURE_STRIDES
  dtype: jnp.dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self,
    patches: Float[Array, "n z y x 1"],
    *,
    feature_scales: tuple[int, ...] | None = None,
    featured: tuple[int, int] = (1, 1),
    classify: bool = False,
    train: bool = False,
  ) -> MedLAMOutput:
    """Run the encoder, the head, and only those decoder stages that the outputs asked for need.

    Args:
      patches: intensities; every edge equals `patch_edge`.
      feature_scales: strides wanted, among the network's own (all of them by default); empty stops after the head.
      featured: (m, k) gives features to the first m of every k consecutive patches only.
      classify: also return the three-class map of the published network (unused by localization).
      train: apply dropout (needs a `dropout` key).

    Raises:
      ValueError: patches of another edge, an edge that is no multiple of 16, or features the network does not have.
    """
    if self.patch_edge % 16 or patches.shape[1:] != (self.patch_edge,) * 3 + (1,):
      raise ValueError(
        f"patches are {patches.shape[1:]}; expected edge {self.patch_edge}, a multiple of 16, one channel"
      )
    b = self.base_channels
    widths = ((2 * b, 2 * b), (2 * b, 2 * b), (2 * b, 4 * b), (4 * b, 8 * b))
    skips, x = [], patches
    for level, (first, second) in enumerate(widths):
      x = self._stage(x, first, second, level, featured[1])
      skips.append(x)
      x = ops.max_pool2(x)
    x = self._stage(x, 8 * b, 16 * b, 4, featured[1])
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    position = self._head(x)
    scales = self.feature_scales if feature_scales is None else feature_scales
    if featured[0] < featured[1]:
      x, *skips = (_first_of_each(a, *featured) for a in (x, *skips))
    features, probability = self._decode(x, skips, scales, classify, featured[0])
    return MedLAMOutput(position, features, probability)

  def _stage(self, x: Float[Array, "n z y x c"], first: int, second: int, level: int, of: int) -> Array:
    """One stage; with `remat` over one of every `of` patches at a time. Those of a scan, as scans lie on devices."""
    name = f"conv{level}"
    if not self.remat:
      return Stage(first, second, self.dtype, name=name)(x)
    stage = nn.remat(Stage)(first, second, self.dtype, name=name)

    def one(module: Stage, _: None, part: Array) -> tuple[None, Array]:
      return None, module(part)

    over = nn.scan(one, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
    y = over(stage, None, x.reshape(-1, of, *x.shape[1:]))[1]
    return y.reshape(-1, *y.shape[2:])

  def _head(self, x: Float[Array, "n z y x c"]) -> Float[Array, "n 3"]:
    """Three linear layers without activations between; flattened channels first, as the released weights expect."""
    flat = jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1).astype(jnp.float32)
    for name, width in (("fc1", 8 * self.base_channels), ("fc2", 4 * self.base_channels)):
      flat = nn.Dense(width, name=name)(flat)
    # Small at first: the offset is a tanh over metres, and a saturated start learns slowly.
    return nn.Dense(3, name="fc3", kernel_init=nn.initializers.normal(0.01))(flat)

  def _decode(
    self, x: Array, skips: list[Array], feature_scales: tuple[int, ...], classify: bool, of: int
  ) -> tuple[dict[int, Array], Array | None]:
    unknown = set(feature_scales) - set(self.feature_scales) | ({1} if classify else set()) - set(self.feature_scales)
    if unknown:
      raise ValueError(f"the network has features of strides {self.feature_scales}, not of {sorted(unknown)}")
    finest = 1 if classify else min(feature_scales, default=None)
    if finest is None:
      return {}, None
    b, features = self.base_channels, {}
    for level, stride, width in ((5, 8, 8 * b), (6, 4, 4 * b), (7, 2, 4 * b), (8, 1, 4 * b)):
      if stride < finest:
        break
      x = ops.join_channels(ops.upsample2(x), skips[8 - level])
      x = self._stage(x, width, width, level, of)
      if stride in feature_scales:
        features[stride] = x
    if not classify:
      return features, None
    return features, nn.sigmoid(nn.Conv(3, (1, 1, 1), name="classification")(x.astype(jnp.float32)))


def _first_of_each(x: Float[Array, "n z y x c"], first: int, of: int) -> Float[Array, "m z y x c"]:
  return x.reshape(-1, of, *x.shape[1:])[:, :first].reshape(-1, *x.shape[1:])


def init_variables(module: MedLAM, key: Array) -> dict:
  """Random parameters of the whole network: every decoder stage it has and, with stride 1, the classification."""
  patches = jnp.zeros((1, *(module.patch_edge,) * 3, 1))
  return dict(module.init(key, patches, classify=1 in module.feature_scales))
