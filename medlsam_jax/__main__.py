"""`python -m medlsam_jax COMMAND ...` is `medlsam COMMAND ...`, where the script is not on the path."""

import sys

from medlsam_jax.cli.main import main

if __name__ == "__main__":
  sys.exit(main())
