"""Rules for MedLAM: the released file's names and layouts -> `medlam.network.medlam.MedLAM`.

A published block is `convS_B.model.conv1_1.Conv` (stage S of 0 to 8, block B of 1 or 2); its instance norm has no
tensors. The released file puts `module.` before every name, which the file reader removes.
"""

from __future__ import annotations

from collections.abc import Mapping

from medlsam_jax.errors import WeightsError
from medlsam_jax.io.weights.kinds import MEDLAM, MEDLAM_ANCHOR
from medlsam_jax.io.weights.rules import CONV3D, LINEAR, Rule, RuleTable

# The head's first layer sees channels first, here as there, so that its kernel is a plain transpose.
TABLE = RuleTable(
  kind=MEDLAM,
  rules=(
    *(
      rule
      for number, block in (("1", "first"), ("2", "second"))
      for rule in (
        Rule(f"conv{{stage}}_{number}.model.conv1_1.Conv.weight", f"params.conv{{stage}}.{block}.kernel", CONV3D),
        Rule(f"conv{{stage}}_{number}.model.conv1_1.Conv.bias", f"params.conv{{stage}}.{block}.bias"),
      )
    ),
    Rule("classification.0.weight", "params.classification.kernel", CONV3D),
    Rule("classification.0.bias", "params.classification.bias"),
    Rule("fc{layer}.weight", "params.fc{layer}.kernel", LINEAR),
    Rule("fc{layer}.bias", "params.fc{layer}.bias"),
  ),
)


def settings(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, str]:
  """Header entries of a published MedLAM file: base width and patch edge read off the shapes of its tensors.

  `working_grid` is `published`: the weights were trained on, and are compared on, that program's grid.

  Raises:
    WeightsError: the widths are those of no MedLAM with one input channel and cubic patches.
  """
  first, deepest, head = (
    shapes.get(name, ()) for name in (MEDLAM_ANCHOR, "conv4_2.model.conv1_1.Conv.weight", "fc1.weight")
  )
  if len(first) != 5 or len(deepest) != 5 or len(head) != 2 or first[0] % 2:
    raise WeightsError(f"{source}: named like MedLAM, but its first, deepest or head layer is missing or misshapen")
  base = first[0] // 2
  cells = head[1] // (16 * base) if base else 0
  edge = round(cells ** (1 / 3)) * 16
  if first[1] != 1 or deepest[0] != 16 * base or (edge // 16) ** 3 * 16 * base != head[1]:
    raise WeightsError(
      f"{source}: named like MedLAM, but of widths {first[0]} (first layer), {deepest[0]} (deepest) and {head[1]} "
      "(head input), which no base width with cubic patches and one input channel gives"
    )
  return {"kind": MEDLAM, "base_channels": str(base), "patch_edge": str(edge), "working_grid": "published"}
