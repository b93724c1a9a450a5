"""The frame of the made-up body: skin, fat, muscles, lungs and the skeleton, painted before the organs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from medlsam_jax.phantom.canvas import FAR_MM, Field, Points, Tissue, Window, curve, shifted, smooth_union
from medlsam_jax.phantom.subject import LABEL_VALUES, SIDES, VERTEBRAE_Z, Subject

_PROFILE_Z = (-260, -160, -90, -20, 60, 140, 210, 270, 340)
_HALF_WIDTH = (150, 152, 157, 148, 133, 140, 148, 150, 144)
_FRONT = (92, 92, 88, 86, 88, 95, 98, 97, 88)
_BACK = (90, 94, 98, 94, 92, 93, 96, 98, 95)
_LEG_TOP_Z = -112.0


def spine_y(z: float | np.ndarray) -> float | np.ndarray:
  """Where the middle of the vertebral bodies lies (lordosis below, kyphosis above)."""
  return np.interp(z, (-10, 20, 70, 130, 210, 330), (-44, -36, -30, -36, -47, -56))


def trunk_distance(subject: Subject, window: Window) -> tuple[Field, Field]:
  """Signed distances to the muscles' outer surface and to the skin."""
  x, y, z = window.x, window.y, window.z
  belly = np.exp(-(((z - 50) / 90) ** 2))
  half_width = np.interp(z, _PROFILE_Z, _HALF_WIDTH) + 0.7 * subject.visceral_mm * belly
  front = np.interp(z, _PROFILE_Z, _FRONT) + 1.6 * subject.visceral_mm * belly
  depth = np.where(y > 0, front, np.interp(z, _PROFILE_Z, _BACK))
  across, along = np.abs(x) / half_width, np.abs(y) / depth
  trunk = ((across**2.4 + along**2.4) ** (1 / 2.4) - 1) * np.minimum(half_width, depth)
  leg = (np.hypot((np.abs(x) - 82) / 72, (y + 3) / 84) - 1) * 72
  muscle = smooth_union(np.maximum(trunk, _LEG_TOP_Z - z), np.maximum(leg, z + 50), 10.0).astype(np.float32)
  # Fat is thick on belly, flanks and buttocks, thin along the spine and over the ribs.
  sides = 0.55 + 0.35 * np.clip(across, 0, 1) + 0.45 * belly * (y > 0) * np.clip(y / 60, 0, 1)
  buttock = 0.8 * np.exp(-(((z + 90) / 60) ** 2)) * np.clip(-y / 60, 0, 1)
  skin = muscle - (subject.fat_mm * (sides + buttock) + 3).astype(np.float32)
  return muscle, skin


def wall_mm(subject: Subject, window: Window) -> Field:
  """Thickness of the muscular wall: thick in the flanks, thin between the ribs and in front."""
  chest = np.clip((window.z - 120) / 60, 0, 1)
  front = np.clip((window.y - 20) / 60, 0, 1)
  return (subject.wall_mm * (1.08 - 0.18 * chest - 0.2 * front)).astype(np.float32)


def paint_trunk(subject: Subject, scan: Window) -> None:
  """Skin, subcutaneous fat, the muscular wall and what lies loose inside it."""
  skin, muscle = scan.fields["skin"], scan.fields["muscle"]
  scan.paint(skin, subject.tissue("skin"))
  scan.paint(skin + 2.0, subject.tissue("fat"))
  # Veins and septa of the subcutaneous fat: thin sheets where a smooth field crosses zero.
  septa = np.abs(scan.fields["medium"]) * 9 + 0.5
  scan.paint(np.maximum(np.maximum(septa - 0.9, skin + 4), -muscle), Tissue(-55))
  scan.paint(muscle, subject.tissue("muscle"))
  # Fat between the muscles of the flank and over the ribs, and between those of the limbs.
  plane = np.abs(muscle + 0.34 * subject.wall_mm) - 0.7 - 0.8 * scan.fields["coarse"]
  scan.paint(np.maximum(plane, 20 - scan.z), subject.tissue("fat"))
  limb = np.maximum(muscle + 3, scan.z + 30)
  scan.paint(np.maximum(limb, np.abs(scan.fields["coarse"]) * 12 - 1.2), subject.tissue("fat"))
  linea_alba = np.maximum(np.abs(scan.x) - 2.5, 60 - scan.y)
  scan.paint(np.maximum(np.maximum(linea_alba, muscle), -muscle - subject.wall_mm), Tissue(-30))
  pelvis = np.maximum(scan.ellipsoid((0, -2, -92), (92, 74, 56)), muscle + 18)
  cavity = smooth_union(np.maximum(scan.fields["cavity"], -58 - scan.z), pelvis, 25.0)
  cavity = np.maximum(cavity, muscle + 8)
  scan.paint(cavity, subject.tissue("visceral fat"))
  # Mesenteric vessels: short strands in the fat.
  strands = np.hypot(scan.fields["medium"], scan.fields["coarse"]) * 10 - 1.6
  scan.paint(np.maximum(strands, cavity + 3), subject.tissue("vein"))


def dome(subject: Subject, window: Window, side: float) -> Field:
  """Height of one half of the diaphragm (mm) at each voxel's x and y."""
  top = (228 if side > 0 else 216) + subject.breath_mm
  lateral = np.where(window.x * side > 72, 0.0105, 0.0045) * (window.x * side - 72) ** 2
  return top - lateral - np.where(window.y < 20, 0.0085, 0.0045) * (window.y - 20) ** 2


def paint_lungs(subject: Subject, scan: Window) -> None:
  """Both lungs above the diaphragm, with bronchi and vessels that branch from the hilum."""
  top = float(scan.axes[0][-1]) + 40 if len(scan.axes[0]) else 400.0
  for name, side in SIDES:
    rng = subject.rng("lung", name)
    low, high = ((8, -130, 100), (170, 130, top)) if side > 0 else ((-170, -130, 100), (-8, 130, top))
    window = scan.crop(low, high)
    middle = 22 + 12 * rng.random()
    spine = np.hypot(window.x, (window.y - spine_y(window.z)) * 1.1) - 33
    lung = np.maximum(window.fields["cavity"] + 2, dome(subject, window, side) - window.z)
    lung = np.maximum(np.maximum(lung, middle - window.x * side), -spine)
    window.paint(lung - 2, subject.tissue("muscle"))
    window.paint(lung, subject.tissue("lung"), LABEL_VALUES[f"lung_{name}"])
    hilum = np.array([side * 34, -8, 275])
    for _ in range(44):
      end = np.array([side * rng.uniform(45, 130), rng.uniform(-80, 75), rng.uniform(150, 335)])
      bend = (hilum + end) / 2 + rng.normal(0, 14, 3)
      path = curve([tuple(hilum), tuple(bend), tuple(end)], 9)
      radius = np.linspace(rng.uniform(3.6, 6.0), 1.2, len(path))
      branch = window.along(path, radius)
      distance = np.maximum(branch.tube(path, radius), _part(lung, window, branch) + 4)
      branch.paint(distance, subject.tissue("vein"))


def _part(field: Field, window: Window, part: Window) -> Float[np.ndarray, "part_z part_y part_x"]:
  """The piece of a window's field that covers a crop of it."""
  cut = []
  for axis, inner in zip(window.axes, part.axes, strict=True):
    start = int(np.searchsorted(axis, inner[0])) if len(inner) else 0
    cut.append(slice(start, start + len(inner)))
  return field[tuple(cut)]


def _bone(subject: Subject, window: Window, distance: Field, label: int | None, cortex_mm: float, kind: str) -> None:
  """A bone: a dense shell around marrow."""
  window.paint(distance, subject.tissue("cortex"), label)
  window.paint(distance + cortex_mm, subject.tissue(kind))


def paint_spine(subject: Subject, scan: Window) -> None:
  """Vertebrae with arches and processes, discs, canal and cord."""
  rng = subject.rng("spine")
  z = np.linspace(-12, 340, 40)
  canal = np.stack([np.zeros_like(z), spine_y(z) - 26, z], axis=1)
  for name, height in VERTEBRAE_Z.items():
    lumbar = name.startswith("L")
    aside, ahead = rng.normal(0, 0.8, 2)
    centre = shifted((0.0, spine_y(height), height), aside, ahead, 0)
    pitch = 30 if lumbar else 24
    wide, deep, half = (25, 18, 12.2) if lumbar else (18, 16, 9.6)
    wide, deep = np.array([wide, deep]) * rng.normal(1, 0.03)
    window = scan.around(centre - (0, 26, 0), (60, 62, 34))
    waist = 1 - 0.1 * np.cos(np.clip((window.z - centre[2]) / half, -1, 1) * np.pi / 2)
    across = np.hypot((window.x - centre[0]) / wide, (window.y - centre[1]) / deep)
    disc = np.maximum((across - 0.96) * deep, np.abs(window.z - centre[2] + pitch / 2) - 4.5)
    window.paint(disc, subject.tissue("disc"), 0)
    body = np.maximum((across - waist) * deep, np.abs(window.z - centre[2]) - half)
    back, down = shifted(centre, 0, -deep - 8, 0), -4 if lumbar else -14
    ring = np.hypot((window.x - back[0]) / 1.1, window.y - back[1])
    arch = np.maximum(np.abs(ring - 12.5) - 4.5, np.abs(window.z - back[2] + 3) - (10 if lumbar else 9))
    spine_end = shifted(back, 0, -25, down)
    spinous = window.tube(np.array([shifted(back, 0, -12, -2), spine_end]), np.array([3.2, 4.2]), (1, 1, 2.4))
    bone = smooth_union(smooth_union(body, arch, 3), spinous, 3)
    for _, side in SIDES:
      reach = rng.uniform(36, 43) if name != "L5" else 46
      tip = shifted(back, side * reach, -2 if lumbar else -10, 3)
      bone = smooth_union(bone, window.tube(np.array([shifted(back, side * 11, 1, 2), tip]), np.array([4.6, 3.6])), 3)
      facet = window.ellipsoid(shifted(back, side * 17, -7, -12), (6, 7, 11))
      bone = smooth_union(bone, facet, 2)
    hollow = np.hypot((window.x - back[0]) / 1.15, window.y - back[1]) - 8.5
    bone = np.maximum(bone, -hollow)
    label = LABEL_VALUES.get(f"vertebrae_{name}", 0)
    _bone(subject, window, bone, label, 2.2, "marrow")
  window = scan.along(canal, 12)
  window.paint(window.tube(canal, 8.0, (1.15, 1, 1)), subject.tissue("fat"), 0)
  window.paint(window.tube(canal, 6.2, (1.2, 1, 1)), subject.tissue("bile"))
  cord = canal[canal[:, 2] > 118]
  window.paint(window.tube(cord, 4.6), subject.tissue("cord"), LABEL_VALUES["spinal_cord"])


def paint_ribs(subject: Subject, scan: Window) -> None:
  """Ribs with their cartilage, and the sternum."""
  rng = subject.rng("ribs")
  heights = {name: z for name, z in VERTEBRAE_Z.items() if name.startswith("T")}
  inset = subject.wall_mm * 0.55
  for index, start in enumerate(heights.values()):
    number = 12 - index
    end = {12: 1.15, 11: 1.55}.get(number, 2.35)
    fall = (62 if number > 7 else 52) + rng.normal(0, 3)
    for _, side in SIDES:
      t = np.linspace(0.27, end, 40)
      z = start + 2 - fall * (1 - np.cos(np.minimum(t, 2.2))) / 1.59
      wide = np.interp(z, _PROFILE_Z, _HALF_WIDTH) - inset
      deep = np.where(np.cos(t) > 0, np.interp(z, _PROFILE_Z, _BACK), np.interp(z, _PROFILE_Z, _FRONT)) - inset
      squash = (np.abs(np.sin(t)) ** 2.4 + np.abs(np.cos(t)) ** 2.4) ** (-1 / 2.4)
      path = np.stack([side * wide * np.sin(t) * squash, -deep * np.cos(t) * squash, z], axis=1)
      path = np.concatenate([[[side * 26, spine_y(start) - 18, start + 3]], path])
      window = scan.along(path, 6)
      rib = window.tube(path, 4.3, (1, 1, 1.5))
      _bone(subject, window, rib, LABEL_VALUES["ribs"], 2.0, "soft marrow")
      if number <= 10:
        tip = path[-1]
        front = np.array([side * (16 if number < 8 else 45), 92 - inset, max(tip[2] + 45, 225.0)])
        bend = (tip + front) / 2 + (side * 8, 6, -14)
        cartilage = curve([tuple(tip), tuple(bend), tuple(front)])
        window = scan.along(cartilage, 6)
        window.paint(np.maximum(window.tube(cartilage, 5.0), window.fields["muscle"] + 3), subject.tissue("cartilage"))
  path = np.array([[0, 93 - inset, 228], [0, 94 - inset, 345.0]])
  window = scan.along(path, 24)
  _bone(subject, window, window.tube(path, 6.0, (2.9, 1, 1)), 0, 2.0, "marrow")


def paint_pelvis(subject: Subject, scan: Window) -> None:
  """Sacrum, hip bones and femurs."""
  path = curve([(0, -46, -8), (0, -60, -32), (0, -76, -62), (0, -78, -88), (0, -68, -108)], 6)
  radius = np.linspace(19, 5, len(path))
  window = scan.crop((-75, -115, -130), (75, -15, 15))
  sacrum = window.tube(path, radius, (2.35, 1, 1), blend_mm=2)
  for _, side in SIDES:
    for step, (y, z) in enumerate(((-60, -22), (-70, -44), (-77, -64))):
      hole = window.tube(
        np.array([[side * (24 - 3 * step), y - 20, z - 6], [side * (22 - 3 * step), y + 20, z + 4]]), 4
      )
      sacrum = np.maximum(sacrum, -hole)
  _bone(subject, window, sacrum, LABEL_VALUES["sacrum"], 2.2, "soft marrow")
  for name, side in SIDES:
    _paint_femur(subject, scan, name, side)
    _paint_hip(subject, scan, name, side)


def _mirrored(points: Points, side: float) -> Points:
  return [(side * x, y, z) for x, y, z in points]


def _paint_hip(subject: Subject, scan: Window, name: str, side: float) -> None:
  size = 1 + 0.4 * (subject.size("hip", (1, 1, 1), 0.05)[0] - 1)
  socket = (84.0, -2.0, -84.0)
  crest = curve([(44, -72, -4), (74, -76, 26), (104, -46, 46), (126, 2, 38), (128, 44, 10), (120, 52, -10)], 11)
  low, high = (2, -95, -165), (150, 90, 62)
  window = scan.crop(*((low, high) if side > 0 else ((-150, *low[1:]), (-2, *high[1:]))))
  mirror = np.array([side * size, 1, 1])
  bone = window.tube(crest * mirror, 6.0)
  for tip in crest:
    # Fans of the wing run from the roof of the socket to the crest; the middle of the wing is thin and hollowed.
    middle = (tip + np.array([74, -22, -50])) / 2 + (-7, 0, 0)
    path = curve([(76, -18, -62), tuple(middle), tuple(tip)], 12) * mirror
    bone = smooth_union(bone, window.tube(path, np.interp(np.linspace(0, 1, len(path)), (0, 0.5, 1), (8, 4.2, 6))), 5)
  bone = smooth_union(bone, window.ellipsoid(np.array(socket) * mirror, (31, 31, 32)), 5)
  for points, radius in (
    ([(84, -22, -100), (74, -42, -122), (64, -46, -142)], 12.5),
    ([(66, 22, -88), (40, 50, -98), (12, 58, -106)], 8.5),
    ([(62, -38, -146), (40, 8, -140), (13, 50, -120)], 7.0),
    ([(9, 58, -100), (9, 52, -126)], 9.0),
  ):
    bone = smooth_union(bone, window.tube(curve(_mirrored(points, side)) * (size, 1, 1), radius), 4)
  cup = window.ellipsoid(np.array((88.0, 0.0, -86.0)) * mirror, (26.0, 26.0, 26.0))
  opening = window.tube(np.array([socket, (130.0, 6.0, -102.0)]) * mirror, 25.5)
  keep = window.label == LABEL_VALUES[f"femur_{name}"]
  bone = np.where(keep, FAR_MM, np.maximum(np.maximum(bone, -cup), -opening))
  _bone(subject, window, bone, LABEL_VALUES[f"hip_{name}"], 2.4, "soft marrow")


def _paint_femur(subject: Subject, scan: Window, name: str, side: float) -> None:
  rng = subject.rng("femur")
  size = 1 + 0.4 * (subject.size("hip", (1, 1, 1), 0.05)[0] - 1)
  head = np.array([88, 0, -86])
  knee = np.array([100 + rng.normal(0, 4), 2, -330])
  window = scan.crop(*(((30, -60, -340), (165, 60, -50)) if side > 0 else ((-165, -60, -340), (-30, 60, -50))))
  mirror = np.array([side * size, 1, 1])
  joint = window.ellipsoid(head * mirror, (28, 28, 28))
  window.paint(joint, subject.tissue("cartilage"))
  bone = window.ellipsoid(head * mirror, (23, 23, 23))
  neck = np.array([head, (124, -8, -116)]) * mirror
  bone = smooth_union(bone, window.tube(neck, np.array([15, 17.0])), 6)
  bone = smooth_union(bone, window.ellipsoid(np.array((131, -14, -108)) * mirror, (15, 19, 22)), 6)
  shaft = curve([(122, -8, -122), (113, -2, -160), (108, 2, -220), tuple(knee)], 14) * mirror
  bone = smooth_union(bone, window.tube(shaft, np.interp(shaft[:, 2], (-180, -125), (13.5, 19))), 5)
  bone = smooth_union(bone, window.ellipsoid(np.array((100, -22, -138)) * mirror, (8, 9, 12)), 5)
  _bone(subject, window, bone, LABEL_VALUES[f"femur_{name}"], 2.4, "soft marrow")
  shaft_core = np.maximum(bone + 5.5, window.z + 140)
  window.paint(shaft_core, subject.tissue("fatty marrow"))


def paint_muscles(subject: Subject, scan: Window) -> None:
  """Back muscles, psoas with iliacus, buttocks; fat planes lie between them."""
  for name, side in SIDES:
    z = np.linspace(-95, 345, 44)
    path = np.stack([side * np.interp(z, (-95, 0, 200), (20, 29, 26)), spine_y(z) - 45, z], axis=1)
    radius = np.interp(z, (-95, -60, 20, 150, 345), (4, 13, 22, 20, 15)) * (0.92 + 0.16 * subject.rng("back").random())
    window = scan.along(path, 32)
    back = np.maximum(window.tube(path, radius, (1.25, 1, 1), blend_mm=3), window.fields["muscle"] + 1)
    window.paint(back - 2.5, subject.tissue("fat"))
    window.paint(back, subject.tissue("loose muscle"), LABEL_VALUES[f"autochthon_{name}"])
    size = 0.85 + 0.3 * subject.rng("psoas").random()
    path = curve(
      _mirrored([(27, -32, 140), (38, -30, 75), (50, -22, 15), (70, 8, -40), (88, 34, -85), (101, -6, -140)], side)
    )
    radius = np.interp(np.linspace(0, 1, len(path)), (0, 0.3, 0.5, 0.8, 1), (5, 16, 20, 17, 10)) * size
    window = scan.along(path, 30)
    psoas = window.tube(path, radius, blend_mm=3)
    window.paint(psoas - 2, subject.tissue("visceral fat"))
    iliacus = window.tube(curve(_mirrored([(98, -28, 20), (92, 0, -30), (92, 30, -75)], side)), 14 * size, blend_mm=3)
    window.paint(smooth_union(psoas, iliacus, 6), subject.tissue("muscle"), LABEL_VALUES[f"iliopsoas_{name}"])
    window = scan.around((side * 78, -70, -85), (85, 60, 90))
    bulk = window.ellipsoid((side * 80, -72, -84), subject.size("gluteus", (66, 30, 70), 0.06), (18, 0, side * 22))
    gluteus = np.maximum(bulk, window.fields["skin"] + 8)
    window.paint(gluteus - 3, subject.tissue("fat"))
    window.paint(gluteus, subject.tissue("loose muscle"), LABEL_VALUES[f"gluteus_maximus_{name}"])
