"""Networks that several tests of this room fine-tune."""

import jax
import pytest
from finetuning_runs import LITE

from medlsam_jax.network import Network
from medlsam_jax.sam.network.sam import Sam


@pytest.fixture(scope="module")
def lite():
  """A TinyViT member of the family, random."""
  import jax.numpy as jnp

  module = Sam(LITE)
  variables = jax.jit(lambda key: module.init(key, jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 4))))(jax.random.key(1))
  return Network(module, dict(variables), "litemedsam", "lite-tiny", {"kind": "litemedsam"})
