"""The organs of the made-up body, each related to its neighbours: what touches the diaphragm moves with it."""

from __future__ import annotations

import numpy as np

from medlsam_jax.phantom.canvas import Field, Tissue, Window, curve, shifted, smooth_union
from medlsam_jax.phantom.subject import LABEL_VALUES, SIDES, Subject
from medlsam_jax.phantom.trunk import dome, spine_y

_FIRM = [v for n, v in LABEL_VALUES.items() if n.startswith(("vertebrae", "rib", "hip", "sacrum", "liver", "spleen"))]
"""Labels that the fat around a kidney does not cover."""


def paint_gullet(subject: Subject, scan: Window) -> None:
  """Oesophagus beside the aorta down to the stomach, and the lower windpipe with both main bronchi."""
  sway = subject.rng("gullet").normal(0, 3, 2)
  path = curve([(4, -22, 345), (0, -16, 285), (-8 + sway[0], -12 + sway[1], 235), (-34, -8, 200)])
  window = scan.along(path, 12)
  wall = window.tube(path, 8.5, (1.2, 0.9, 1))
  window.paint(wall, subject.tissue("bowel wall"), 0)
  window.paint(wall + 5, subject.tissue("gas"))
  for end in ((0, -8, 350), (40, -10, 280), (-42, -12, 276)):
    path = curve([(0, -8, 298), end])
    window = scan.along(path, 11)
    wall = window.tube(path, 10.0 if end[0] == 0 else 7.5)
    window.paint(wall, subject.tissue("bowel wall"), 0)
    window.paint(wall + 2, subject.tissue("gas"))


def paint_heart(subject: Subject, scan: Window) -> None:
  """Heart with its chambers and the fat around it."""
  centre = subject.place("heart", (-24, 28, 252), 6, hangs=0.7)
  radii, turn = subject.size("heart", (58, 44, 46)), subject.turn("heart", (0, 35, 25))
  window = scan.around(centre, 85)
  sac = np.maximum(window.ellipsoid(centre, radii + 5, turn), window.fields["cavity"] + 1)
  window.paint(sac, subject.tissue("visceral fat"))
  heart = np.maximum(window.ellipsoid(centre, radii, turn), window.fields["cavity"] + 4)
  window.paint(heart, subject.tissue("myocardium"), LABEL_VALUES["heart"])
  for offset, size, kind in (
    ((-22, 6, -8), (25, 17, 18), "artery"),
    ((12, 18, -2), (24, 14, 24), "vein"),
    ((24, -6, 16), (18, 18, 20), "vein"),
    ((-4, -22, 18), (24, 13, 16), "artery"),
  ):
    chamber = window.ellipsoid(centre + offset, np.array(size) * radii / (58, 44, 46), turn)
    window.paint(np.maximum(chamber, heart + 4), subject.tissue(kind))


def liver_distance(subject: Subject, window: Window) -> Field:
  """The liver fills the room under the right diaphragm and thins out to the left; its lower face is hollow."""
  right = subject.place("liver", (78, -2, 152), 6, hangs=0.8)
  lobe = window.ellipsoid(right, subject.size("liver", (82, 100, 78), 0.07), subject.turn("liver", (0, 12, 0)), 2.3)
  left = subject.place("left lobe", (-8, 56, 172), 5, hangs=0.8)
  liver = smooth_union(lobe, window.ellipsoid(left, subject.size("left lobe", (72, 40, 33), 0.14), (0, 14, 0)), 14)
  hollow = window.ellipsoid(shifted(right, -58, 10, -76), (78, 70, 62), (0, -20, 0))
  under = np.maximum(window.z + 5, 0) - np.maximum(dome(subject, window, 1), dome(subject, window, -1) - 6)
  spine = np.hypot(window.x, (window.y - spine_y(window.z)) * 1.1) - 36
  kept = np.maximum(np.maximum(liver, -hollow), np.maximum(under, window.fields["cavity"] + 1))
  return np.maximum(kept, -spine)


def paint_liver(subject: Subject, scan: Window) -> None:
  """Liver with portal and hepatic veins, and the gallbladder in its bed."""
  window = scan.crop((-110, -110, 40), (160, 130, 250))
  liver = liver_distance(subject, window)
  window.paint(liver, subject.tissue("liver"), LABEL_VALUES["liver"])
  rng = subject.rng("liver vessels")
  hilum = subject.place("liver", (26, 10, 138), 6, hangs=0.8)
  outlet = np.array([24, -12, 205 + subject.breath_mm])
  bright = 26 if subject.contrast else -14
  for start, ends in ((hilum, 9), (outlet, 5)):
    for _ in range(ends):
      end = np.array([rng.uniform(45, 130), rng.uniform(-75, 75), rng.uniform(100, 205)])
      path = curve([tuple(start), tuple((start + end) / 2 + rng.normal(0, 12, 3)), tuple(end)])
      vessel = np.maximum(window.tube(path, np.linspace(5.5, 1.5, len(path))), liver + 4)
      window.paint(vessel, Tissue(subject.tissue("liver").hu + bright, 3, 3, 4))
  bed = subject.place("gallbladder", (50, 46, 98), 6, hangs=0.7)
  window = scan.around(bed, 50)
  radii, turn = subject.size("gallbladder", (14, 16, 30), 0.14), subject.turn("gallbladder", (30, 20, 0))
  sack = np.maximum(window.ellipsoid(bed, radii, turn), window.fields["cavity"] + 3)
  window.paint(sack - 2, subject.tissue("bowel wall"), 0)
  window.paint(sack, subject.tissue("bile"), LABEL_VALUES["gallbladder"])


def paint_spleen(subject: Subject, scan: Window) -> None:
  """Spleen: a shell segment against the ribs under the left diaphragm."""
  centre = subject.place("spleen", (-108, -42, 157), 6, hangs=0.8)
  window = scan.around(centre, 85)
  bulk = window.ellipsoid(centre, subject.size("spleen", (44, 58, 58), 0.12), subject.turn("spleen", (30, -8, 12)), 2.2)
  hollow = window.ellipsoid(shifted(centre, 68, 24, -8), (44, 54, 66))
  under = window.z - dome(subject, window, -1) + 4
  spleen = np.maximum(np.maximum(bulk, -hollow), np.maximum(under, window.fields["cavity"] + 2))
  window.paint(spleen, subject.tissue("spleen"), LABEL_VALUES["spleen"])


def paint_kidneys(subject: Subject, scan: Window) -> None:
  """Kidneys in their fat, with medulla, sinus and the vessels to aorta and vena cava."""
  for name, side in SIDES:
    organ = f"kidney_{name}"
    centre = subject.place(organ, (side * 64, -40, 98 if side > 0 else 110), 6, hangs=0.5)
    radii, turn = subject.size(organ, (28, 26, 53), 0.08), subject.turn(organ, (-12, side * 14, side * -25), 5)
    window = scan.around(centre, 82)
    whole = window.ellipsoid(centre, radii, turn)
    capsule = np.maximum(window.ellipsoid(centre, radii + 11, turn), window.fields["cavity"] + 1)
    window.paint(np.where(np.isin(window.label, _FIRM), 40, capsule), subject.tissue("visceral fat"), 0)
    kidney = np.maximum(
      np.maximum(whole, -window.ellipsoid(shifted(centre, -side * 25, 8, 0), (19, 14, 19))), capsule + 5
    )
    window.paint(kidney, subject.tissue("kidney cortex"), LABEL_VALUES[organ])
    pyramids = np.maximum(kidney + 7, np.cos(window.z * 0.42) * 3 - 1)
    window.paint(pyramids, subject.tissue("kidney medulla"))
    sinus = window.ellipsoid(shifted(centre, -side * 10, 3, 0), (9, 8, 24), turn)
    window.paint(np.maximum(sinus, kidney), Tissue(-60, 4, 20, 20))
    hilum = shifted(centre, -side * 18, 8, 0)
    for kind, end, radius in (("vein", (22, -6, 118), 4.5), ("artery", (-10, -10, 124), 2.8)):
      path = curve([tuple(hilum), tuple((hilum + end) / 2 + (0, 6, 3)), end])
      near = window.along(path, radius)
      near.paint(near.tube(path, radius), subject.tissue(kind))
    gland = shifted(centre, -side * 20, 6, 58)
    for leg in (-1.0, 1.0):
      path = np.array([shifted(gland, 0, 8, 0), shifted(gland, leg * 9, -10, -8)])
      near = scan.along(path, 3)
      near.paint(near.tube(path, 2.6, (1, 1, 2.5)), subject.tissue("bowel wall"))


def paint_vessels(subject: Subject, scan: Window) -> None:
  """Aorta to its fork, vena cava, iliac vessels, portal and splenic vein."""
  rng = subject.rng("vessels")
  fork = 36 + rng.normal(0, 5)
  sway = rng.normal(0, 4)
  front = spine_y(fork) + 30
  aorta = curve(
    [
      (-24, -24, 345),
      (-22, -22, 260),
      (-16, -16, 190),
      (-9 + sway, -7, 115),
      (-4 + sway, front, fork + 10),
      (0, front, fork),
    ]
  )
  radius = np.interp(aorta[:, 2], (fork, 120, 345), (8.5, 10, 12.5)) * rng.normal(1, 0.08)
  cava = curve([(20, front - 4, fork - 8), (22, -10, 90), (24, -4, 150), (24, -6, 198), (20, 4, 222)])
  for _, side in SIDES:
    for kind, deep, size in (("artery", 6, 5.2), ("vein", 0, 6.2)):
      start = (0 if kind == "artery" else 18, front + deep - 6, fork)
      path = curve(
        [
          start,
          (side * 26, front - 8 + deep, 2),
          (side * 52, 2 + deep, -42),
          (side * 72, 46, -92),
          (side * 82, 62, -150),
          (side * 84, 52, -300),
        ]
      )
      near = scan.along(path, 8)
      near.paint(near.tube(path, size), subject.tissue(kind), 0)
  window = scan.along(cava, 14)
  vein = window.tube(cava, 10.5 * rng.normal(1, 0.1), (1.2, 0.9, 1))
  window.paint(vein, subject.tissue("vein"), LABEL_VALUES["inferior_vena_cava"])
  window = scan.along(aorta, 16)
  wall = window.tube(aorta, radius)
  window.paint(wall, subject.tissue("artery"), LABEL_VALUES["aorta"])
  plaque = np.maximum(np.abs(wall) - 1.2, 1.5 - window.fields["medium"] + window.z / 160)
  window.paint(np.maximum(plaque, window.z - 120), subject.tissue("calcification"))
  portal = curve(
    [tuple(subject.place("liver", (26, 10, 138), 6, hangs=0.8)), (10, 14, 124), (-30, 2, 138), (-78, -20, 158)]
  )
  window = scan.along(portal, 8)
  vein = window.tube(portal, np.linspace(7, 4, len(portal)))
  window.paint(vein, subject.tissue("portal vein"), LABEL_VALUES["portal_vein_and_splenic_vein"])


def paint_stomach(subject: Subject, scan: Window) -> None:
  """Stomach of a person lying on the back: gas in front, content behind, folds in the wall; then the duodenum."""
  rng = subject.rng("stomach")
  shift = subject.place("stomach", (0, 0, 0), 5, hangs=0.6)
  fill = rng.uniform(0.68, 1.08)
  path = curve(
    [
      tuple(np.array(p) + shift)
      for p in ((-62, -14, 188), (-72, 22, 165), (-58, 52, 132), (-22, 60, 108), (20, 42, 118))
    ]
  )
  radius = np.interp(np.linspace(0, 1, len(path)), (0, 0.3, 0.6, 0.85, 1), (31, 31, 25, 18, 9)) * fill
  window = scan.along(path, 45)
  under = window.z - dome(subject, window, -1) + 6
  bag = np.maximum(window.tube(path, radius, blend_mm=10), np.maximum(under, window.fields["cavity"] + 2))
  bag = np.where(window.label == LABEL_VALUES["spleen"], 40, bag)
  window.paint(bag, subject.tissue("bowel wall"), LABEL_VALUES["stomach"])
  window.paint(bag + 4 + 1.2 * window.fields["fine"], Tissue(rng.uniform(5, 45), 6, 14, 14))
  level = rng.uniform(26, 48) + shift[1]
  window.paint(np.maximum(bag + 3.5, level - window.y), subject.tissue("gas"))
  path = curve(
    [tuple(np.array((20, 42, 118)) + shift), (44, 26, 112), (48, 8, 84), (30, 0, 58), (-8, 12, 62), (-24, 24, 84)]
  )
  window = scan.along(path, 16)
  gut = window.tube(path, 11 + 1.5 * np.sin(np.arange(len(path)) * 1.9))
  window.paint(gut, subject.tissue("bowel wall"), LABEL_VALUES["duodenum"])
  window.paint(gut + 3.5, subject.tissue("bowel content"))


def paint_pancreas(subject: Subject, scan: Window) -> None:
  """Pancreas: from the duodenum's loop across the spine to the spleen; lobulated."""
  shift = subject.place("pancreas", (0, 0, 0), 6, hangs=0.4)
  points = ((32, 14, 92), (24, 22, 114), (0, 32, 122), (-34, 18, 132), (-72, -8, 150))
  path = curve([tuple(np.array(p) + shift) for p in points], 5)
  radius = (
    np.interp(np.linspace(0, 1, len(path)), (0, 0.25, 0.5, 1), (15, 14, 9.5, 8.5))
    * subject.size("pancreas", (1, 1, 1))[0]
  )
  window = scan.along(path, 24)
  gland = window.tube(path, radius, blend_mm=4) + 1.6 * window.fields["fine"]
  window.paint(gland, subject.tissue("pancreas"), LABEL_VALUES["pancreas"])
  window.paint(window.tube(path, 1.4), subject.tissue("bile"))


def _bowel(
  window: Window, tube: Field, organ: str, subject: Subject, content: Tissue, gas_above: Field | float
) -> None:
  """A piece of bowel: wall, content, and gas where it rises above `gas_above` (mm forwards)."""
  taken = (window.label > 0) & (window.label != LABEL_VALUES[organ])
  tube = np.where(taken, 40, np.maximum(tube, window.fields["cavity"] + 2))
  window.paint(tube, subject.tissue("bowel wall"), LABEL_VALUES[organ])
  window.paint(tube + 3, content)
  window.paint(np.maximum(tube + 3, gas_above - window.y), subject.tissue("gas"))


def paint_small_bowel(subject: Subject, scan: Window) -> None:
  """Loops that fill the middle of the abdomen, row below row; each loop has its own content and some gas."""
  rng = subject.rng("small bowel")
  spread = 1 + subject.visceral_mm / 150
  for row, z in enumerate(np.linspace(70, -62, 6)):
    for layer, y in enumerate((52, 22)):
      half = (70 if layer == 0 else 62) * spread * np.interp(z, (-58, -20, 66), (0.62, 0.95, 0.9))
      x = np.linspace(-half, half, 7) * (1 if (row + layer) % 2 else -1)
      points = np.stack([x, y + rng.normal(0, 8, 7), z + rng.normal(0, 9, 7) + 9 * np.sin(np.arange(7) * 2.4)], axis=1)
      path = curve([tuple(p) for p in points], 8)
      bulge = 1 + 0.12 * np.sin(np.arange(len(path)) * rng.uniform(0.8, 1.6))
      window = scan.along(path, 20)
      tube = window.tube(path, rng.uniform(10.5, 14.5) * bulge, blend_mm=2)
      content = Tissue(rng.uniform(5, 40) + (60 if rng.random() < 0.12 else 0), 6, 14, 14)
      _bowel(window, tube, "small_bowel", subject, content, y + rng.uniform(3, 30))


def paint_colon(subject: Subject, scan: Window) -> None:
  """Colon from the caecum over both flexures to the rectum, with haustra, faeces and gas."""
  rng = subject.rng("colon")
  wide = 1 + subject.visceral_mm / 160
  sag = rng.normal(0, 14)
  sigmoid = rng.normal(0, 10, 2)
  parts = (
    ([(84, 22, -44), (98, 10, -12), (103 * wide, -6, 34), (98 * wide, 8, 72), (76, 40, 84)], 24, 22),
    (
      [(76, 40, 84), (52, 66, 66 + sag), (0, 74, 56 + sag), (-50, 68, 74 + sag / 2), (-92, 34, 122), (-106, -6, 128)],
      20,
      55,
    ),
    ([(-106, -6, 128), (-110 * wide, -16, 86), (-108 * wide, -14, 30), (-98, 10, -24)], 16, 8),
    ([(-98, 10, -24), (-66, 30, -52), (-24 + sigmoid[0], 22 + sigmoid[1], -40), (14, -8, -46), (4, -44, -66)], 15, 20),
    ([(4, -44, -66), (0, -58, -96), (0, -46, -122), (0, -52, -150)], 17, -40),
  )
  for points, radius, level in parts:
    path = curve(points, 6)
    haustra = 1 + 0.16 * np.abs(np.sin(np.arange(len(path)) * 0.62 + rng.uniform(0, 3))) - 0.08
    window = scan.along(path, 34)
    tube = window.tube(path, radius * rng.uniform(0.85, 1.18) * haustra)
    _bowel(window, tube, "colon", subject, subject.tissue("faeces"), level + rng.uniform(-4, 22))


def paint_bladder(subject: Subject, scan: Window) -> None:
  """Bladder, fuller in some, with prostate or womb behind and below it."""
  fill = subject.rng("bladder").uniform(0.75, 1.3)
  centre = subject.place("bladder", (0, 24, -106 + 16 * fill), 3)
  radii = subject.size("bladder", (38, 30, 28), 0.06) * fill
  window = scan.around(centre, 80)
  below = window.ellipsoid((0, 6, -132), (24, 20, 18))
  window.paint(below, subject.tissue("muscle"))
  behind = window.ellipsoid((0, -18, -98), (30, 12, 15))
  window.paint(behind, subject.tissue("bowel wall"), 0)
  bag = window.ellipsoid(centre, radii, subject.turn("bladder", std=5))
  window.paint(bag, subject.tissue("muscle"), LABEL_VALUES["urinary_bladder"])
  window.paint(bag + 3, subject.tissue("urine"))
