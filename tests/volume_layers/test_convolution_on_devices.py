"""The CPU lowering of the convolution on several devices: each works on its own patches, gradients are summed once."""

import os
import subprocess
import sys

PROGRAM = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from medlsam_jax.volume_layers.convolution import conv3
mesh = jax.make_mesh((8,), ("data",))
split, whole = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in (("data",), ()))
rng = np.random.default_rng(0)
x, w = rng.random((8, 8, 6, 7, 9), np.float32), rng.random((8, 8, 6, 7, 4), np.float32)
kernel = rng.random((3, 3, 3, 9, 4), np.float32)
gradient = jax.grad(lambda kernel, x, w: (conv3(x, kernel) * w).sum())
compiled = jax.jit(gradient, in_shardings=(whole, split, split), out_shardings=whole).lower(kernel, x, w).compile()
text = compiled.as_text()
assert text.count(" all-gather(") == 0, text.count(" all-gather(")
assert text.count(" all-reduce(") == 1, text.count(" all-reduce(")
found = compiled(*jax.device_put((kernel, x, w), (whole, split, split)))
padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
wanted = [[[np.einsum("nzyxc,nzyxo->co", padded[:, a : a + 8, b : b + 6, c : c + 7], w)
  for c in range(3)] for b in range(3)] for a in range(3)]
np.testing.assert_allclose(found, wanted, rtol=1e-4)
"""


def test_kernel_gradient_gathers_no_patches_and_is_summed_once():
  flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
  run = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | flags, capture_output=True, text=True)
  assert run.returncode == 0, run.stderr[-2000:]
