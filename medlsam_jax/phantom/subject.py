"""One made-up person: the numbers in which subjects differ, drawn from a seed, and the tissues they are made of."""

from __future__ import annotations

import dataclasses

import numpy as np

from medlsam_jax.phantom.canvas import Tissue, generator

SIDES = (("right", 1.0), ("left", -1.0))
VERTEBRAE_Z = {
  "L5": 15, "L4": 45, "L3": 75, "L2": 104, "L1": 132, "T12": 158, "T11": 183, "T10": 207, "T9": 230, "T8": 252,
  "T7": 273, "T6": 293, "T5": 312, "T4": 330,
}  # fmt: skip
"""Height in mm of the middle of each vertebral body above the disc between L5 and S1."""

ORGANS = (
  "spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas", "lung_right", "lung_left",
  "small_bowel", "duodenum", "colon", "urinary_bladder", "sacrum", "vertebrae_L5", "vertebrae_L4", "vertebrae_L3",
  "vertebrae_L2", "vertebrae_L1", "vertebrae_T12", "vertebrae_T11", "vertebrae_T10", "heart", "aorta",
  "inferior_vena_cava", "portal_vein_and_splenic_vein", "femur_left", "femur_right", "hip_left", "hip_right",
  "gluteus_maximus_left", "gluteus_maximus_right", "autochthon_left", "autochthon_right", "iliopsoas_left",
  "iliopsoas_right", "ribs", "spinal_cord",
)  # fmt: skip
LABEL_VALUES = {name: value for value, name in enumerate(ORGANS, start=1)}
"""Organ name (those of TotalSegmentator where it has one) to label value, the same in every phantom."""

_TISSUES = {
  "skin": Tissue(10, 6, 8, 10),
  "fat": Tissue(-102, 4, 6, 8),
  "visceral fat": Tissue(-98, 5, 12, 14),
  "muscle": Tissue(52, 5, 9, 11),
  "loose muscle": Tissue(40, 8, 20, 18),
  "cortex": Tissue(560, 60, 70, 60),
  "marrow": Tissue(175, 20, 30, 40),
  "soft marrow": Tissue(95, 30, 40, 45),
  "fatty marrow": Tissue(-20, 15, 25, 30),
  "disc": Tissue(85, 6, 8, 8),
  "cartilage": Tissue(105, 8, 12, 12),
  "cord": Tissue(30, 2, 4, 5),
  "lung": Tissue(-820, 22, 22, 30),
  "gas": Tissue(-960, 6, 6, 6),
  "bile": Tissue(8, 2, 2, 3),
  "urine": Tissue(5, 3, 2, 3),
  "bowel content": Tissue(18, 8, 12, 12),
  "faeces": Tissue(-40, 40, 110, 130),
  "bowel wall": Tissue(45, 5, 8, 8),
  "liver": Tissue(58, 5, 4, 5),
  "spleen": Tissue(48, 3, 4, 5),
  "kidney cortex": Tissue(34, 4, 6, 7),
  "kidney medulla": Tissue(28, 4, 6, 7),
  "pancreas": Tissue(38, 6, 16, 18),
  "myocardium": Tissue(42, 4, 5, 6),
  "artery": Tissue(42, 3, 3, 4),
  "vein": Tissue(40, 3, 3, 4),
  "portal vein": Tissue(40, 3, 3, 4),
  "calcification": Tissue(420, 20, 20, 20),
}
_ENHANCEMENT = {
  "liver": 50, "spleen": 72, "kidney cortex": 135, "kidney medulla": 95, "pancreas": 55, "myocardium": 60,
  "artery": 120, "vein": 95, "portal vein": 120, "bowel wall": 35, "muscle": 8,
}  # fmt: skip
"""HU that a full dose of contrast medium adds about a minute after injection."""


@dataclasses.dataclass(frozen=True)
class Subject:
  """What differs between people; lengths in mm of an average body, then stretched by `stretch`."""

  seed: int
  stretch: tuple[float, float, float]
  """Size of the body relative to the average, (x, y, z)."""
  fat_mm: float
  visceral_mm: float
  """How much abdominal fat spreads the organs and bulges the belly."""
  contrast: float
  """Dose of contrast medium, 0 without."""
  noise_hu: float
  breath_mm: float
  """How far breathing has moved the diaphragm and what hangs on it, upwards positive."""
  bone_density: float
  wall_mm: float

  @classmethod
  def draw(cls, seed: int) -> Subject:
    """The subject of a seed."""
    rng = generator(seed, "subject")
    size, girth = rng.normal(1.0, 0.055), rng.normal(1.0, 0.055)
    fat = float(np.clip(rng.lognormal(np.log(15), 0.42), 5, 38))
    return cls(
      seed=seed,
      stretch=(
        float(np.clip(size * girth, 0.86, 1.15)),
        float(np.clip(size * girth * rng.normal(1, 0.03), 0.86, 1.15)),
        float(np.clip(size * rng.normal(1, 0.02), 0.9, 1.1)),
      ),
      fat_mm=fat,
      visceral_mm=float(np.clip(0.6 * (fat - 15) + rng.normal(0, 5), -10, 18)),
      contrast=float(0.0 if rng.random() < 0.3 else rng.uniform(0.6, 1.3)),
      noise_hu=float(rng.uniform(8, 22)),
      breath_mm=float(np.clip(rng.normal(0, 9), -17, 17)),
      bone_density=float(np.clip(rng.normal(1, 0.17), 0.6, 1.4)),
      wall_mm=float(rng.uniform(10, 16)),
    )

  def rng(self, *names: str) -> np.random.Generator:
    """Random numbers of one part."""
    return generator(self.seed, *names)

  def place(self, name: str, point: tuple[float, float, float], sd_mm: float = 6.0, hangs: float = 0.0) -> np.ndarray:
    """Where this subject has a point of the average body; `hangs` is its share of the diaphragm's movement."""
    shift = np.clip(self.rng(name, "place").normal(0, sd_mm, 3), -2 * sd_mm, 2 * sd_mm)
    return np.asarray(point, float) + shift + (0, 0, hangs * self.breath_mm)

  def size(self, name: str, radii: tuple[float, float, float], std: float = 0.11) -> np.ndarray:
    """Radii of this subject's organ: larger or smaller as a whole, and a little in each direction."""
    rng = self.rng(name, "size")
    factor = rng.normal(1, std) * rng.normal(1, std / 2, 3)
    return np.asarray(radii, float) * np.clip(factor, 1 - 2.2 * std, 1 + 2.2 * std)

  def turn(self, name: str, degrees: tuple[float, float, float] = (0, 0, 0), std: float = 6.0) -> tuple:
    """Tilt of this subject's organ in degrees about x, y, z."""
    return tuple(np.asarray(degrees, float) + np.clip(self.rng(name, "turn").normal(0, std, 3), -2 * std, 2 * std))

  def tissue(self, kind: str) -> Tissue:
    """The tissue with this subject's contrast, bone density and individual mean."""
    tissue = _TISSUES[kind]
    hu = tissue.hu + self.contrast * _ENHANCEMENT.get(kind, 0)
    if kind in ("cortex", "marrow", "soft marrow"):
      hu *= self.bone_density
    if hu > -150:
      hu += float(self.rng(kind, "tissue").normal(0, 3))
    return dataclasses.replace(tissue, hu=float(hu))
