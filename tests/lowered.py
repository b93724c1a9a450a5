"""Programs as they are lowered for machines that are not at hand, and what can be read in their text."""

import re
from unittest import mock

import jax
import jax.numpy as jnp

PLATFORMS = ("cuda", "tpu")
VOLUMES_OF_DOUBLES = r"tensor<(\d+x){3,}f64>"
"""`jax.image.resize` makes small tables of weights in double precision where it is allowed."""
HOST = r"callback|infeed|outfeed|stablehlo\.(send|recv)|annotate_device_placement"
_PRODUCT = re.compile(r"stablehlo\.(convolution|dot_general)\b.*")
_OPERANDS = re.compile(r": \(tensor<[\dx]*x?(\w+)>, tensor<[\dx]*x?(\w+)>\)")


def products(text):
  """Kind, dtypes of both operands, and whether both are asked to be highest, of every product of a lowered program."""
  found = []
  for line in (match.group() for match in _PRODUCT.finditer(text)):
    kind, operands = re.match(r"stablehlo\.(\w+)", line).group(1), _OPERANDS.search(line).groups()
    found.append((kind, *operands, line.count("HIGHEST") == 2))
  return found


def text_of(jitted, arguments, target):
  """A program lowered for a machine that is not at hand. Asking for the backend that traces it fails."""
  asked = AssertionError("the backend was asked for while tracing")
  with mock.patch.object(jax, "default_backend", side_effect=asked):
    return jitted.trace(*arguments).lower(lowering_platforms=(target,)).as_text()


def lowered(jitted, arguments, target):
  return products(text_of(jitted, arguments, target))


def shaped(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def text_with_doubles(jitted, arguments, target):
  """The same where double precision is allowed, so that a stray double stays one."""
  with jax.enable_x64(True):
    return text_of(jitted, arguments, target)
