"""Random parameters of a MedLAM, by one program for each: drawn as it stands, a network compiles layer by layer."""

import jax
from quick_programs import QUICK

from medlsam_jax.medlam.network.medlam import init_variables

drawn = jax.jit(init_variables, static_argnums=0, compiler_options=QUICK)
