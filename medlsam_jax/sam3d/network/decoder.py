"""Decoder of several scales: tokens of four depths and the image -> a logit for each voxel of the cube.

Everything that does not depend on the prompts is computed once for all organs of a cube: a convolution of joined
channels is the sum of the convolutions of its parts.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medlsam_jax.sam3d.network.layers import Conv3
from medlsam_jax.volume_layers.convolution import conv3
from medlsam_jax.volume_layers.ops import instance_norm, instance_norm_relu, resize_linear, upsample2


class Scale(nn.Module):
  """Two 3x3x3 convolutions with instance norm and ReLU, upsampled by two; the result in `dtype`."""

  features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "n g g g i"]) -> Float[Array, "n 2*g 2*g 2*g o"]:
    for name in ("first", "second"):
      x = instance_norm_relu(Conv3(self.features, self.dtype, name=name)(x))
    return upsample2(x)


class Decoder(nn.Module):
  """See the module's first lines; `features` of each scale, `scales` of them, the last of which has seen prompts.

  `edge`: voxels an edge of the cube.
  """

  features: int
  scales: int
  edge: int
  dtype: DTypeLike = jnp.float32

  def setup(self) -> None:
    width = self.scales * self.features + 1
    init = nn.initializers.he_normal()
    self.by_scale = [Scale(self.features, self.dtype, name=f"scale{index}") for index in range(self.scales)]
    self.join = self.param("join", init, (3, 3, 3, width, self.features))
    self.box = self.param("box", init, (3, 3, 3, 1, self.features))
    self.classes = self.param("classes", init, (3, 3, 3, self.features, 2))

  def _part(self, x: Float[Array, "n d d d i"], start: int) -> Float[Array, "n d d d o"]:
    """What channels from `start` on give to the convolution of all, for a sum in float32."""
    return self._convolved(x, self.join[..., start : start + x.shape[-1], :])

  def _convolved(self, x: Float[Array, "n d d d i"], kernel: Float[Array, "3 3 3 i o"]) -> Float[Array, "n d d d o"]:
    return conv3(x.astype(self.dtype), kernel.astype(self.dtype)).astype(jnp.float32)

  def shared(
    self, tokens: list[Float[Array, "n g g g c"]], image: Float[Array, "n 2*g 2*g 2*g 1"]
  ) -> Float[Array, "n 2*g 2*g 2*g o"]:
    """What all organs of a cube have in common: the scales but the last, and the image at twice the tokens' grid."""
    joined = self._part(image, self.scales * self.features)
    for index, x in enumerate(tokens):
      joined = joined + self._part(self.by_scale[index](x), index * self.features)
    return joined

  def __call__(
    self,
    shared: Float[Array, "n d d d o"],
    prompted: Float[Array, "nk g g g c"],
    boxes: Float[Array, "nk d d d 1"],
  ) -> Float[Array, "n k {self.edge} {self.edge} {self.edge}"]:
    """Logits of each organ, above zero inside it: that of the organ less that of the background.

    The published network gives both, of which only the difference matters to softmax; upsampling keeps differences.
    `boxes` are joined as one channel more (ours).
    """
    last = self.scales - 1
    own = self._part(self.by_scale[last](prompted), last * self.features) + self._convolved(boxes, self.box)
    both = shared[:, None] + own.reshape(len(shared), -1, *own.shape[1:])
    both = jax.nn.relu(instance_norm(both.reshape(own.shape)))
    kernel = self.classes[..., 1:] - self.classes[..., :1]
    logits = resize_linear(self._convolved(both, kernel), (self.edge,) * 3)
    return logits.reshape(len(shared), -1, *logits.shape[1:4])
