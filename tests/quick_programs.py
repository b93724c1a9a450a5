"""Programs left as XLA first makes them, for tests of runs that take far less time than compiling."""

import jax

QUICK = {"xla_backend_optimization_level": 0}


class _Quick:
  """JAX, but for what its `jit` makes."""

  def __getattr__(self, name):
    return getattr(jax, name)

  def jit(self, function, **given):
    nested = "out_shardings" in given  # the optimizer's start, which is traced within others for its shapes
    return jax.jit(function, **given, **({} if nested else {"compiler_options": QUICK}))


def compile_quickly(patch, *modules):
  """What these modules jit from here on."""
  for module in modules:
    patch.setattr(module, "jax", _Quick())
