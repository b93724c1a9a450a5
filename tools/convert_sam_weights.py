"""Convert a published checkpoint (SAM family or MedLAM) to a weights file of medlsam_jax, as `medlsam convert` does.

python tools/convert_sam_weights.py lite_medsam.pth litemedsam.safetensors [--kind litemedsam]
"""

from __future__ import annotations

import argparse
import sys

from medlsam_jax.errors import MedlsamError
from medlsam_jax.io.weights.kinds import KINDS
from medlsam_jax.loading import convert


def main() -> int:
  """Runs the conversion; 1 where the file cannot be used."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("input", help=".pth, .pt, .tar or .safetensors with published names")
  parser.add_argument("output", help="the .safetensors file to write")
  parser.add_argument("--kind", choices=KINDS, help="refuse any other kind (default: told from names and shapes)")
  arguments = parser.parse_args()
  try:
    header = convert(arguments.input, arguments.output, arguments.kind)
  except MedlsamError as error:
    print(error, file=sys.stderr)
    return 1
  print(f"{arguments.output}: {header['kind']}, from {header['source_name']} (sha256 {header['source_sha256']})")
  return 0


if __name__ == "__main__":
  sys.exit(main())
