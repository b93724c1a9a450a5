"""Networks that several tests of this room fine-tune."""

import jax
import pytest
from finetuning_runs import LITE, compile_quickly
from quick_programs import QUICK

from medlsam_jax.network import Network
from medlsam_jax.sam.finetuning import step
from medlsam_jax.sam.network.sam import Sam


@pytest.fixture(scope="session")
def lite():
  """A TinyViT member of the family, random."""
  import jax.numpy as jnp

  module = Sam(LITE)
  draw = jax.jit(lambda key: module.init(key, jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 4))), compiler_options=QUICK)
  variables = draw(jax.random.key(1))
  return Network(module, dict(variables), "litemedsam", "lite-tiny", {"kind": "litemedsam"})


@pytest.fixture(scope="module")
def quick_steps():
  """Training steps are compiled quickly."""
  with pytest.MonkeyPatch.context() as patch:
    compile_quickly(patch)
    yield
  step._compiled_step.cache_clear()
