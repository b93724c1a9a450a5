"""Where the voxels of a NIfTI file lie: two forms, a spacing, codes and units, settled where they do not agree.

A NIfTI header says it up to three times: the sform (a matrix), the qform (a rotation, an offset and the spacing in
`pixdim`), and `pixdim` alone; a code says of each form whether it is meant. What is taken:

1. a form whose code is not 0 and whose numbers are whole; of two that lie apart the one that agrees with `pixdim`, then
   the one that is no sheared stand-in, then the scanner's own (code 1), then the sform;
2. where such a form is empty or singular, the other one's numbers although its code is 0, if they say something;
3. with both codes 0 and numbers that say something and agree with `pixdim`, these, with a doubt about left and right;
4. else nothing is stated: LAS, centred, as nibabel has it, with the same doubt.

Units are the stated ones, and millimetres where none are, if that gives a spacing that a CT can have
(`SPACING_LIMITS_MM`); else millimetres are tried for stated metres and micrometres, metres where none are stated.
Everything but rule 1 on two forms that agree is said.
"""

from __future__ import annotations

import dataclasses

import nibabel
import numpy as np
from jaxtyping import Float

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, HeaderForms
from medlsam_jax.io.scan_checks import LONGEST_MM, SPACING_LIMITS_MM

Header = nibabel.Nifti1Header
Affine = Float[np.ndarray, "4 4"]

_UNITS = {0: ("unknown units", 1.0), 1: ("metres", 1000.0), 2: ("millimetres", 1.0), 3: ("micrometres", 0.001)}
_SCANNER = 1
_SPACING_DISAGREES = 0.01
_SHEARED_COSINE = 0.01
_SINGULAR = 1e-3
_LABEL_INTENTS = (1002, 1005)


@dataclasses.dataclass
class Settled:
  """The grid of a file in mm, with its header's forms, and what had to be said."""

  grid: Grid
  notes: list[str]
  doubts: list[str]


@dataclasses.dataclass(frozen=True, eq=False)
class _Stated:
  """A header's numbers in its own units; a form is None where its numbers are no affine."""

  sform: Affine | None
  sform_code: int
  qform: Affine | None
  qform_code: int
  pixdim: Float[np.ndarray, "3"]
  """As it stands (x, y, z)."""
  edges: Float[np.ndarray, "3"]
  """Its amounts, NaN where they are no length."""
  rows: Float[np.ndarray, "3 4"]
  """Of the sform, as they stand."""


def settle(header: Header, shape: tuple[int, int, int], source: str) -> Settled:
  """The grid of a file of `shape` (x, y, z).

  Raises:
    InputError: no form is whole, or the spacing is no CT's in any unit.
  """
  said = Settled(Grid((1, 1, 1), np.eye(4)), [], [])
  stated = _stated(header, source, said.notes)
  affine, taken = _choose(stated, shape, source, said)
  factor = _factor(header, affine, shape, source, said.notes)
  forms = _forms(header, stated, affine, taken)
  in_mm = affine.copy()
  in_mm[:3] *= factor
  said.grid = Grid((shape[2], shape[1], shape[0]), in_mm, forms)
  return said


def state(header: Header, grid: Grid) -> None:
  """Makes a new file's header say where the voxels of `grid` lie, in the forms of the file that the grid is of."""
  forms = grid.forms
  if forms is None:
    header.set_xyzt_units("mm")
    header.set_sform(grid.affine, _SCANNER)
    header.set_qform(grid.affine, _SCANNER)
    # a rotation and a spacing hold no shear
    if not grid.is_same(dataclasses.replace(grid, affine=header.get_qform())):
      header["qform_code"] = 0
    return
  header["sform_code"], header["qform_code"], header["xyzt_units"] = forms.sform_code, forms.qform_code, forms.units
  for name, row in zip("xyz", forms.sform, strict=True):
    header[f"srow_{name}"] = row
  for name, value in zip("bcd", forms.quaternion, strict=True):
    header[f"quatern_{name}"] = value
  for name, value in zip("xyz", forms.offset, strict=True):
    header[f"qoffset_{name}"] = value
  header["pixdim"][:4] = forms.pixdim


def says_labels(header: Header) -> bool:
  """Whether the header's intent calls the file a label map."""
  return int(header["intent_code"]) in _LABEL_INTENTS


def _stated(header: Header, source: str, notes: list[str]) -> _Stated:
  pixdim = np.asarray(header["pixdim"][1:4], float)
  edges = np.where(np.isfinite(pixdim) & (pixdim != 0), np.abs(pixdim), np.nan)
  rows = np.array([header["srow_x"], header["srow_y"], header["srow_z"]], float)
  sform = np.vstack([rows, [0.0, 0.0, 0.0, 1.0]])
  whole = sform if _is_whole(sform) else None
  qform = _qform(header, edges, whole, source, notes)
  codes = int(header["sform_code"]), int(header["qform_code"])
  for name, code in zip(("sform_code", "qform_code"), codes, strict=True):
    if not 0 <= code <= 5:
      notes.append(f"{source}: {name} {code} of the header is unknown; the form is taken to be meant")
  return _Stated(whole, codes[0], qform, codes[1], pixdim, edges, rows)


def _is_whole(affine: Affine) -> bool:
  if not np.isfinite(affine).all():
    return False
  norms = np.linalg.norm(affine[:3, :3], axis=0)
  return bool(norms.min() > 0 and abs(np.linalg.det(affine[:3, :3] / norms)) >= _SINGULAR)


def _qform(
  header: Header, edges: Float[np.ndarray, "3"], sform: Affine | None, source: str, notes: list[str]
) -> Affine | None:
  """The qform as a matrix, of NIfTI's formula; None where its numbers give none."""
  vector = np.array([header[f"quatern_{k}"] for k in "bcd"], float)
  offset = np.array([header[f"qoffset_{k}"] for k in "xyz"], float)
  if not (np.isfinite(vector).all() and np.isfinite(offset).all() and np.isfinite(edges).all()):
    return None
  length = float(vector @ vector)
  if length > 1:
    vector = vector / np.sqrt(length)
    if length > 1 + 1e-3 and int(header["qform_code"]):
      notes.append(f"{source}: the quaternion of the header is {np.sqrt(length):.3f} long; brought to length 1")
  turn = nibabel.quaternions.quat2mat([np.sqrt(max(1 - float(vector @ vector), 0.0)), *vector])
  affine = np.eye(4)
  affine[:3, :3], affine[:3, 3] = turn * edges, offset
  handed = float(header["pixdim"][0])
  mirrored = affine.copy()
  mirrored[:3, 2] *= -1
  if handed in (-1, 1) or sform is None:
    return mirrored if handed < 0 else affine
  # pixdim[0] should be 1 or -1: the sform tells
  return min(affine, mirrored, key=lambda each: float(np.abs(each - sform).max()))


def _choose(stated: _Stated, shape: tuple[int, int, int], source: str, said: Settled) -> tuple[Affine, bool]:
  """The affine in the file's units, and whether the header gave it."""
  s_meant, q_meant = stated.sform_code != 0, stated.qform_code != 0
  good_pixdim = bool((stated.pixdim > 0).all() and np.isfinite(stated.pixdim).all())
  if s_meant and q_meant and stated.sform is not None and stated.qform is not None:
    return _between(stated, stated.sform, stated.qform, shape, source, said), True
  if s_meant and stated.sform is not None:
    _hold_spacing(stated, stated.sform, good_pixdim, source, said.notes)
    if q_meant:
      said.notes.append(f"{source}: its qform (code {stated.qform_code}) has no whole numbers; the sform is taken")
    return stated.sform, True
  if q_meant and stated.qform is not None:
    if not good_pixdim:
      said.notes.append(f"{source}: {_bad_spacing(stated)}; its amounts are taken")
    if s_meant:
      said.notes.append(f"{source}: its sform (code {stated.sform_code}) is empty or singular; the qform is taken")
    return stated.qform, True
  if s_meant or q_meant:
    return _though_not_meant(stated, good_pixdim, source, said.notes), True
  return _nothing_meant(stated, good_pixdim, shape, source, said)


def _bad_spacing(stated: _Stated) -> str:
  return f"spacing {stated.pixdim.tolist()} (x y z) in pixdim of the header; all three must be above zero"


def _hold_spacing(stated: _Stated, affine: Affine, good_pixdim: bool, source: str, notes: list[str]) -> None:
  """Says where an sform and pixdim do not agree."""
  norms = np.linalg.norm(affine[:3, :3], axis=0)
  if not good_pixdim:
    notes.append(f"{source}: {_bad_spacing(stated)}; the sform is used, {norms.round(4).tolist()}")
  elif not _fits(affine, stated.edges):
    notes.append(
      f"{source}: the header says a spacing of {stated.pixdim.tolist()} mm, its affine {norms.round(4).tolist()} mm (x "
      "y z); the affine is used"
    )


def _fits(affine: Affine, edges: Float[np.ndarray, "3"]) -> bool:
  """Whether the columns of an affine are as long as `edges`; never where one of these is NaN."""
  return bool(np.abs(np.linalg.norm(affine[:3, :3], axis=0) / edges - 1).max() <= _SPACING_DISAGREES)


def _shear(affine: Affine) -> float:
  """Greatest cosine between two of its axes."""
  unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
  return float(np.abs(unit.T @ unit - np.eye(3)).max())


def _between(
  stated: _Stated, sform: Affine, qform: Affine, shape: tuple[int, int, int], source: str, said: Settled
) -> Affine:
  """One of two forms that are both meant and whole."""
  by_s, by_q = (Grid((shape[2], shape[1], shape[0]), each) for each in (sform, qform))
  good_pixdim = bool((stated.pixdim > 0).all())
  if by_s.is_same(by_q):
    _hold_spacing(stated, sform, good_pixdim, source, said.notes)
    return sform
  default = bool((stated.pixdim == 1).all())
  if not good_pixdim or (default and not _fits(sform, stated.edges)):
    _hold_spacing(stated, sform, good_pixdim, source, said.notes)
    taken, why = "sform", "the qform rests on that spacing"
  elif not _fits(sform, stated.edges):
    taken, why = "qform", f"the sform does not agree with the spacing {stated.pixdim.tolist()} of the header"
  elif _shear(sform) > _SHEARED_COSINE:
    taken, why = "qform", "the axes of the sform are not at right angles"
  elif stated.qform_code == _SCANNER and stated.sform_code != _SCANNER:
    taken, why = "qform", "it is the scanner's (code 1)"
  else:
    taken, why = "sform", "neither is more likely" if stated.sform_code == stated.qform_code else "it is the scanner's"
  corners = np.array(np.meshgrid(*[(0, n - 1) for n in by_s.shape])).reshape(3, -1).T
  apart = np.linalg.norm(by_s.world_from_voxel(corners) - by_q.world_from_voxel(corners), axis=1).max()
  text = (
    f"{source}: its sform (code {stated.sform_code}, {by_s.axis_codes}) and its qform (code {stated.qform_code}, "
    f"{by_q.axis_codes}) lie up to {apart:.4g} apart; the {taken} is taken, {why}; programs that go by the other show "
    "the scan elsewhere"
  )
  said.notes.append(text)
  if by_s.axis_codes != by_q.axis_codes:
    said.doubts.append(text)
  return sform if taken == "sform" else qform


def _says_something(affine: Affine | None) -> bool:
  """Whether a form has numbers that nobody leaves there by default."""
  if affine is None:
    return False
  # signs alone do not count: pixdim[0] is often -1 where the rest was never set
  direction = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
  return bool(np.abs(affine[:3, 3]).max() > 0 or np.abs(direction - np.eye(3)).max() > 1e-3)


def _though_not_meant(stated: _Stated, good_pixdim: bool, source: str, notes: list[str]) -> Affine:
  """The form of code 0 where what is meant is broken."""
  for name, affine, broken in (("sform", stated.sform, "qform"), ("qform", stated.qform, "sform")):
    if affine is None or not _says_something(affine) or (name == "qform" and not good_pixdim):
      continue
    notes.append(f"{source}: its {broken} has no whole numbers; the {name} is taken, although its code is 0")
    if name == "sform":
      _hold_spacing(stated, affine, good_pixdim, source, notes)
    return affine
  if stated.qform_code and not np.isfinite(stated.edges).all():
    raise InputError(f"{source}: {_bad_spacing(stated)}, and no sform to go by; convert the scan again")
  raise InputError(
    f"{source}: singular affine {stated.rows[:, :3].tolist()}; the axes of its sform do not span space, and its qform "
    "says nothing; convert the scan again"
  )


def _nothing_meant(
  stated: _Stated, good_pixdim: bool, shape: tuple[int, int, int], source: str, said: Settled
) -> tuple[Affine, bool]:
  """Both codes are 0."""
  made_up = np.diag([*(stated.edges * [-1, 1, 1]), 1.0])
  made_up[:3, 3] = -made_up[:3, :3] @ ((np.array(shape) - 1) / 2)
  for name, affine, other in (("sform", stated.sform, stated.qform), ("qform", stated.qform, stated.sform)):
    if affine is None or not _says_something(affine) or not _fits(affine, stated.edges):
      continue
    grids = [Grid((shape[2], shape[1], shape[0]), each) for each in (affine, other) if each is not None]
    if _says_something(other) and not grids[0].is_same(grids[-1]):
      continue
    if grids[0].is_same(dataclasses.replace(grids[0], affine=made_up)):
      continue  # what programs write that have nothing better
    text = (
      f"{source}: the file states no orientation (sform and qform codes are 0); the numbers of its {name} are taken "
      f"all the same, {grids[0].axis_codes}: left and right are not certain"
    )
    said.notes.append(text)
    said.doubts.append(text)
    return affine, True
  if not np.isfinite(stated.edges).all():
    raise InputError(f"{source}: {_bad_spacing(stated)}; convert the scan again")
  if not good_pixdim:
    said.notes.append(f"{source}: {_bad_spacing(stated)}; its amounts are taken")
  text = (
    f"{source}: the file states no orientation; taken as LAS, centred, as nibabel does: left and right are not certain"
  )
  said.notes.append(text)
  said.doubts.append(text)
  return made_up, False


def _factor(header: Header, affine: Affine, shape: tuple[int, int, int], source: str, notes: list[str]) -> float:
  """Millimetres per unit of the file."""
  edges = np.linalg.norm(affine[:3, :3], axis=0)

  def possible(factor: float) -> bool:
    low, high = SPACING_LIMITS_MM
    mm = edges * factor
    return bool((mm >= low).all() and (mm <= high).all() and (mm * np.array(shape) <= LONGEST_MM).all())

  code = int(header["xyzt_units"]) & 7
  name, stated = _UNITS.get(code, _UNITS[0])
  size = "x".join(f"{edge:.4g}" for edge in edges)
  if possible(stated):
    if stated != 1:
      notes.append(f"{source}: the header gives lengths in {name} (xyzt_units {code}); {size} converted to mm")
    return stated
  # Stated millimetres, and large numbers without a unit, are not made smaller: a spacing of metres is a damaged header.
  for other, factor in {0: (_UNITS[1],), 1: (_UNITS[2],), 3: (_UNITS[2],)}.get(code if code in _UNITS else 0, ()):
    if possible(factor):
      notes.append(
        f"{source}: voxels of {size} in {name} (xyzt_units {code} of the header) are no CT's; taken as {other}"
      )
      return factor
  extent = "x".join(f"{n * edge:.4g}" for n, edge in zip(shape, edges, strict=True))
  raise InputError(
    f"{source}: spacing {size} in {name} (xyzt_units {code} of the header), {extent} in all (x y z): a CT has voxels "
    f"of {SPACING_LIMITS_MM[0]:g} to {SPACING_LIMITS_MM[1]:g} mm and is at most {LONGEST_MM / 1000:g} m long; correct "
    "the header, or convert the scan again"
  )


def _forms(header: Header, stated: _Stated, affine: Affine, taken: bool) -> HeaderForms:
  """The header's own numbers; where they are broken, those of the affine that was taken."""
  turn, edges = _turn(header, stated, affine), header["pixdim"]
  if not (np.isfinite(stated.pixdim).all() and (stated.pixdim > 0).all()):
    edges = [0, *np.linalg.norm(affine[:3, :3], axis=0)]
  rows = stated.rows
  if stated.sform is None and (stated.sform_code or not np.isfinite(rows).all()):
    rows = affine[:3]
  return HeaderForms(
    sform_code=stated.sform_code,
    sform=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in rows),
    qform_code=stated.qform_code,
    quaternion=(float(turn["quatern_b"]), float(turn["quatern_c"]), float(turn["quatern_d"])),
    offset=(float(turn["qoffset_x"]), float(turn["qoffset_y"]), float(turn["qoffset_z"])),
    pixdim=(float(turn["pixdim"][0]), float(edges[1]), float(edges[2]), float(edges[3])),
    units=int(header["xyzt_units"]),
    is_taken=taken,
  )


def _turn(header: Header, stated: _Stated, affine: Affine) -> Header:
  """A header whose quaternion, offset and pixdim[0] are whole: this one where they are, else one made from a matrix."""
  numbers = np.array([header[f"quatern_{k}"] for k in "bcd"] + [header[f"qoffset_{k}"] for k in "xyz"], float)
  whole = np.isfinite(numbers).all() and numbers[:3] @ numbers[:3] <= 1 + 1e-6
  if whole and float(header["pixdim"][0]) in (-1, 1) and (stated.qform is not None or not stated.qform_code):
    return header
  made = nibabel.Nifti1Header()
  made.set_qform(affine if stated.qform is None else stated.qform, 1)
  return made
