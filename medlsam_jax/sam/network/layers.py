"""Layers that the SAM family shares. Images `(n, y, x, channel)`, tokens `(n, token, channel)`.

Matrix products take operands in `dtype` and accumulate and return float32; everything between them is float32.
Depthwise convolutions are shifted multiply-adds (`depthwise`) and 1x1 convolutions matrix products, because XLA's own
lowering of both is several times slower on CPU and no faster elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medlsam_jax import platform
from medlsam_jax.network import Variables
from medlsam_jax.sam.network.depthwise import depthwise3

DENSE_INIT = nn.initializers.truncated_normal(0.02)


def gelu(x: Array) -> Array:
  """The exact form, x * Phi(x); Flax's default is the tanh approximation, which no model of this family uses."""
  return x * (0.5 + 0.5 * jax.lax.erf(x * 0.7071067811865476))


def product(x: Float[Array, "*n i"], kernel: Float[Array, "i o"], dtype: DTypeLike) -> Float[Array, "*n o"]:
  """`x @ kernel` with operands in `dtype`, accumulated and returned in float32."""
  axes = (((x.ndim - 1,), (0,)), ((), ()))
  return jax.lax.dot_general(x.astype(dtype), kernel.astype(dtype), axes, preferred_element_type=jnp.float32)


def contract(function: Callable[..., Array], *arrays: Array, dtype: DTypeLike) -> Array:
  """A product of `arrays`, rounded to `dtype`, accumulated and returned in float32.

  XLA has no batched product of bfloat16 operands with a float32 result on some processors. On a CPU operands are
  therefore widened after they are rounded, which changes no product of two of them.

  Args:
    function: of arrays that have one type; what it multiplies is returned in float32 (`preferred_element_type`).
  """
  kind = jnp.finfo(dtype)
  rounded = [array.astype(dtype) for array in arrays]
  if kind.bits == 32:
    return function(*rounded)

  def widened(*rounded: Array) -> Array:
    # said once more: XLA may leave out a rounding that is undone at once
    wide = [jax.lax.reduce_precision(each.astype(jnp.float32), kind.nexp, kind.nmant) for each in rounded]
    return function(*wide)

  return platform.by_backend(*rounded, cpu=widened, accelerator=function)


matmul = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)


def einsum(formula: str, *arrays: Array, dtype: DTypeLike) -> Array:
  """`jnp.einsum` as a `contract`."""
  return contract(functools.partial(jnp.einsum, formula, preferred_element_type=jnp.float32), *arrays, dtype=dtype)


def mix(logits: Float[Array, "*n q k"], values: Float[Array, "*#n k c"], dtype: DTypeLike) -> Float[Array, "*n q c"]:
  """`softmax(logits) @ values`, divided after the product, where there is usually far less to divide; in float32."""
  weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
  return contract(matmul, weights, values, dtype=dtype) / weights.sum(-1, keepdims=True)


def layer_norm(epsilon: float, name: str | None = None) -> nn.LayerNorm:
  """Layer norm over channels. The two-pass variance: the one-pass form loses digits where the mean is large."""
  return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


class Linear(nn.Module):
  """Affine map of the last axis."""

  features: int
  dtype: DTypeLike = jnp.float32
  kernel_init: nn.initializers.Initializer = DENSE_INIT

  @nn.compact
  def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
    kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return product(x, kernel, self.dtype) + bias


class Affine(nn.Module):
  """Declares kernel and bias of a `Linear` and hands them out, where they are not simply applied."""

  features: int

  @nn.compact
  def __call__(self, inputs: int) -> tuple[Float[Array, "i o"], Float[Array, " o"]]:
    kernel = self.param("kernel", DENSE_INIT, (inputs, self.features))
    return kernel, self.param("bias", nn.initializers.zeros, (self.features,))


class Mlp(nn.Module):
  """`len(widths)` affine maps with an activation between them."""

  widths: tuple[int, ...]
  activation: Callable[[Array], Array] = jax.nn.relu
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
    for index, width in enumerate(self.widths):
      x = Linear(width, self.dtype, name=f"linear{index}")(x)
      if index + 1 < len(self.widths):
        x = self.activation(x)
    return x


class Conv(nn.Module):
  """Square convolution with padding `edge // 2` (or none when its stride equals its edge); bias by choice."""

  features: int
  edge: int = 1
  stride: int = 1
  use_bias: bool = True
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "n y x i"]) -> Float[Array, "n y2 x2 o"]:
    init = nn.initializers.lecun_normal()
    kernel = self.param("kernel", init, (self.edge, self.edge, x.shape[-1], self.features))
    x = convolve(x, kernel, self.stride, self.dtype)
    return x + self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else x


def convolve(x: Float[Array, "n y x i"], kernel: Float[Array, "e e i o"], stride: int, dtype: DTypeLike) -> Array:
  """Convolution with padding `edge // 2`, or none where windows tile the image (stride = edge: sides are multiples)."""
  edge = kernel.shape[0]
  if edge == stride:
    # Windows that tile the image: a matrix product, several times faster than XLA's convolution on CPU.
    batch, height, width, inputs = x.shape
    x = x.reshape(batch, height // edge, edge, width // edge, edge, inputs).swapaxes(2, 3)
    return product(x.reshape(*x.shape[:3], -1), kernel.reshape(-1, kernel.shape[-1]), dtype)
  pad = edge // 2
  return jax.lax.conv_general_dilated(
    x.astype(dtype),
    kernel.astype(dtype),
    (stride, stride),
    ((pad, pad), (pad, pad)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    preferred_element_type=jnp.float32,
  )


class ConvNorm(nn.Module):
  """Convolution without bias and batch norm, or (`folded`) the one convolution with bias that equals both.

  `fold_batch_norm` turns the variables of the first form into those of the second.
  """

  features: int
  edge: int = 1
  stride: int = 1
  depthwise: bool = False
  folded: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "n y x i"], train: bool = False) -> Float[Array, "n y2 x2 o"]:
    inputs = 1 if self.depthwise else x.shape[-1]
    kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.edge, self.edge, inputs, self.features))
    if self.depthwise:
      x = depthwise3(x, kernel, self.stride)
    else:
      x = convolve(x, kernel, self.stride, self.dtype)
    if self.folded:
      return x + self.param("bias", nn.initializers.zeros, (self.features,))
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=BATCH_NORM_EPSILON, name="norm")(x)


BATCH_NORM_EPSILON = 1e-5


def fold_batch_norm(variables: Variables) -> Variables:
  """Variables of a network with batch norm -> variables of the same network built with `folded=True`.

  Each convolution's kernel is scaled by `scale / sqrt(var + eps)` per output channel and the rest becomes its bias.
  The result has no `batch_stats`; variables that have none already are returned as they are.
  """
  if "batch_stats" not in variables:
    return variables

  def fold(params: Variables, stats: Variables) -> Variables:
    result: Variables = {}
    for name, value in params.items():
      if name == "norm" and name in stats:
        continue
      result[name] = fold(value, stats.get(name, {})) if isinstance(value, dict) else value
    if "norm" in stats:
      norm, seen = params["norm"], stats["norm"]
      scale = norm["scale"] / jnp.sqrt(seen["var"] + BATCH_NORM_EPSILON)
      result["kernel"] = params["kernel"] * scale
      result["bias"] = norm["bias"] - seen["mean"] * scale
    return result

  others = {name: value for name, value in variables.items() if name not in ("params", "batch_stats")}
  return {**others, "params": fold(variables["params"], variables["batch_stats"])}
