"""What is odd about the scans of a cohort, in words and in points: grave from `LOOK_FROM` points on, or slight.

Every measure is taken against the cohort itself by medians, so that a few odd scans show and do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from medlsam_jax import display
from medlsam_jax.cohort.layout import ENOUGH_SCANS, spread_of
from medlsam_jax.cohort.looked import Quality
from medlsam_jax.cohort.sketch import SIDES
from medlsam_jax.finding import FOUND, OUTSIDE, PARTLY_OUTSIDE, UNCERTAIN

FAR = 4.0
"""Standard deviations from which a place or a size is named."""
MIRRORED_ODDS = float(np.log(100))
"""A scan is called mirrored that is a hundred times likelier to be so than not."""
CUT = 0.75
"""Share of the body's extent from which a side that the scan's edge goes through is called cropped."""
_SIDES_CUT = 0.4
"""Likewise, as fields of view cut arms and flanks: noted."""
_UNLIKE = 3.0
"""Standard deviations from which a scan's picture is that of something else."""
_OFTEN = 0.8
"""Share of the scans in which an organ must be found, for its absence in another to be told."""
_SIDE_MM = 15.0
_INSIDE_MM = 20.0
"""How far inside the scan an organ's place must be for its absence to be odd: people differ."""
_GRAVE, _MIRRORED = 12.0, 20.0
Said = Iterator[tuple[str, float]]


def judge(quality: Quality) -> None:
  """Fills in the reasons of each scan."""
  often = _found_often(quality)
  features, picture = _unlike_in_features(quality), _unlike_in_picture(quality)
  sides, stored, copies = _sides(quality), _stored_otherwise(quality), _copies(quality)
  for row, looked in enumerate(quality.scans):
    for said in (
      _mirrored(quality, row, stored[row]),
      _cropped(quality, row),
      _other_region(quality, row, float(features[row]), float(picture[row])),
      _wrong_sides(quality, row, sides[row]),
      _absences(quality, row, often),
      _places_and_sizes(quality, row),
    ):
      looked.reasons.update(said)
    for doubt in looked.record.doubts:
      looked.reasons[doubt.removeprefix(f"{looked.source}: ")] = _GRAVE
    for doubt in looked.of_search:
      looked.reasons[doubt] = _GRAVE
    if copies.get(row):
      looked.reasons[f"the same files as {display.some(copies[row], 3)}"] = _GRAVE


def _mirrored(quality: Quality, row: int, stored: str) -> Said:
  """By the layout of its organs, by what differs between left and right in its picture, and by its header."""
  if np.nanmax([*quality.likeness.cut[row], 0]) >= CUT:
    return  # of half a body nobody can say
  hint = f"; its axes run {stored}" if stored else ""
  if quality.handed[row] < 0:
    yield f"mirrored: its organs lie right for left{hint}", _MIRRORED
  if quality.likeness.mirrored_odds[row] > MIRRORED_ODDS:
    yield f"mirrored: left and right differ the other way round than in the others{hint}", _MIRRORED
  elif stored:
    yield f"its axes run {stored}: mirrored, if its header alone was changed", 2.0


def _stored_otherwise(quality: Quality) -> list[str]:
  """How axes run where that is a mirror image of how they run in nine of ten scans; else empty."""
  codes, hands = quality.axis_codes, [_is_right_handed(each) for each in quality.axis_codes]
  usual = 2 * sum(hands) > len(hands)
  others = [code for code, hand in zip(codes, hands, strict=True) if hand == usual]
  if len(codes) < ENOUGH_SCANS or len(others) < 0.9 * len(codes):
    return [""] * len(codes)
  most = max(sorted(set(others)), key=others.count)
  return ["" if hand == usual else f"{code}, those of most others {most}"
          for code, hand in zip(codes, hands, strict=True)]  # fmt: skip


def _is_right_handed(codes: str) -> bool:
  """Whether three axes such as RAS are turned, and not mirrored, from right, front and up."""
  axes = ["RL", "AP", "SI"]
  along = [next(number for number, pair in enumerate(axes) if each in pair) for each in codes]
  even = along in ([0, 1, 2], [1, 2, 0], [2, 0, 1])
  return (sum(each in "LPI" for each in codes) % 2 == 0) == even


def _cropped(quality: Quality, row: int) -> Said:
  """Sides on which the scan ends within the body."""
  for side, share in zip(SIDES, quality.likeness.cut[row], strict=True):
    if share >= CUT:
      yield f"cropped: its {side} edge goes through the body ({share:.0%} of the body's extent there)", _GRAVE
    elif share >= _SIDES_CUT:
      yield f"its {side} edge cuts the body ({share:.0%} of the body's extent there)", 1.0


def _other_region(quality: Quality, row: int, features: float, picture: float) -> Said:
  if picture > _UNLIKE:
    yield f"its picture is unlike those of the others: another body region ({picture:.0f} standard deviations)", _GRAVE
  if features > FAR:
    yield "unlike the templates all over: another body region, or no CT of this kind", 8.0 + features
  if len(quality.organs) >= 3 and not {FOUND, PARTLY_OUTSIDE} & set(quality.verdicts[row]):
    yield "none of its organs is found: another body region, or no CT of this kind", 15.0


def _unlike_in_features(quality: Quality) -> Float[np.ndarray, " scans"]:
  """Standard deviations below the median of the cohort's similarities to the templates; 0 with few scans."""
  values = np.array([_nanmedian(row) for row in quality.similarity])
  known = values[np.isfinite(values)]
  if len(known) < ENOUGH_SCANS:
    return np.zeros(len(values))
  return np.nan_to_num((np.median(known) - values) / max(float(spread_of(known - np.median(known))), 0.02))


def _unlike_in_picture(quality: Quality) -> Float[np.ndarray, " scans"]:
  """Standard deviations by which a picture is further from its like than others' are; 0 with few scans."""
  apart = np.log(np.maximum(quality.likeness.apart, 1e-3))
  known = apart[np.isfinite(apart)]
  if len(known) < ENOUGH_SCANS:
    return np.zeros(len(apart))
  return np.nan_to_num((apart - np.median(known)) / max(float(spread_of(known - np.median(known))), 0.1))


def _wrong_sides(quality: Quality, row: int, sides: Float[np.ndarray, " organs"]) -> Said:
  """Pairs whose left one lies to the right, and organs across the middle of the body from where the cohort has them."""
  x, sure = quality.middles_mm[row, :, 0], [each == FOUND for each in quality.verdicts[row]]
  for column, organ in enumerate(quality.organs):
    partner = organ.replace("left", "right")
    if partner != organ and partner in quality.organs:
      other = quality.organs.index(partner)
      # RAS: x rises to the right
      if sure[column] and sure[other] and x[column] > x[other] + _SIDE_MM:
        yield f"{organ} lies to the right of {partner}", _GRAVE
    if sure[column] and sides[column] < -_SIDE_MM:
      yield f"{organ} lies on the other side of the body than in the cohort", 10.0


def _sides(quality: Quality) -> Float[np.ndarray, "scans organs"]:
  """How far each organ lies from the middle of the body on the side that the cohort has it on, mm; NaN where the cohort
  has it in the middle, is small, or where the scan cuts the body, whose middle nobody knows then."""
  middle = np.full(len(quality.scans), np.nan)
  for row, looked in enumerate(quality.scans):
    body = looked.record.body_mm
    if body is not None and not np.nanmax([*quality.likeness.cut[row], 0]) >= _SIDES_CUT:
      middle[row] = (body[0][0] + body[1][0]) / 2
  off = quality.middles_mm[..., 0] - middle[:, None]
  usual = [_nanmedian(off[found, column]) for column, found in enumerate(_found(quality).T)]
  if len(quality.scans) < ENOUGH_SCANS:
    return np.full(off.shape, np.nan)
  return off * np.where(np.abs(usual) > 2 * _SIDE_MM, np.sign(usual), np.nan)


def _found(quality: Quality, besides: str = FOUND) -> Bool[np.ndarray, "scans organs"]:
  """Which organs are found, or have the verdict `besides`."""
  shape = len(quality.scans), len(quality.organs)
  return np.array([[each in (FOUND, besides) for each in row] for row in quality.verdicts], bool).reshape(shape)


def _found_often(quality: Quality) -> list[bool]:
  """Organs that most scans show."""
  if len(quality.scans) < ENOUGH_SCANS:
    return [False] * len(quality.organs)
  return (_found(quality, PARTLY_OUTSIDE).mean(0) >= _OFTEN).tolist()


def _absences(quality: Quality, row: int, often: Sequence[bool]) -> Said:
  """Organs that are not there although most scans show them: cut off, missing where they should lie, or doubtful."""
  missing, beyond, cut, doubtful = list[str](), list[str](), list[str](), list[str]()
  for column, verdict in enumerate(quality.verdicts[row]):
    if not often[column]:
      continue
    organ = quality.organs[column]
    if verdict == PARTLY_OUTSIDE:
      cut.append(organ)
    elif verdict == UNCERTAIN:
      doubtful.append(organ)
    elif verdict == OUTSIDE:
      (missing if _should_be_inside(quality, row, column) else beyond).append(organ)
  if missing:
    yield f"not found where most scans show it: {display.some(missing)}", 8.0 * len(missing)
  if doubtful:
    yield f"not found for certain, as most scans show it: {display.some(doubtful)}", min(1.0 * len(doubtful), 4.0)
  if beyond or cut:
    yield f"cut off by the edge of the scan: {display.some([*beyond, *cut])}", 2.0 * len(beyond) + min(len(cut), 3)


def _should_be_inside(quality: Quality, row: int, column: int) -> bool:
  """Whether an organ's place by the others of its scan is well within the scan; no where fewer than two say so."""
  found = [other for other in np.flatnonzero(_found(quality)[row]).tolist() if other != column]
  shared, field = quality.layout.middles_mm, quality.field_mm[row]
  if len(found) < 2 or not np.isfinite(shared[column]).all():
    return False
  place = shared[column] + np.array([_nanmedian(axis) for axis in (quality.middles_mm[row, found] - shared[found]).T])
  return bool(((place > field[0] + _INSIDE_MM) & (place < field[1] - _INSIDE_MM)).all())


def _places_and_sizes(quality: Quality, row: int) -> Said:
  """Organs that are found far from their place, or of an odd size."""
  off = quality.log_ml[row] - quality.layout.log_ml
  for column, organ in enumerate(quality.organs):
    if quality.verdicts[row][column] != FOUND:
      continue
    far, size = float(quality.deviation[row, column]), abs(float(quality.size_off[row, column]))
    if far > FAR:
      yield f"{organ} lies {far:.0f} standard deviations from its place among the others", min(far, 10.0) / 2
    if size > FAR:
      than = "larger" if off[column] > 0 else "smaller"
      yield f"{organ} is {float(np.exp(abs(off[column]))):.1f} times {than} than usual", min(size, 10.0) / 2


def _copies(quality: Quality) -> dict[int, list[str]]:
  """Scans whose files hold the same as another's."""
  by_hash: dict[str, list[int]] = {}
  for row, looked in enumerate(quality.scans):
    if looked.record.input is not None and looked.record.input.sha256:
      by_hash.setdefault(looked.record.input.sha256, []).append(row)
  return {
    row: [quality.scans[other].record.scan for other in rows if other != row]
    for rows in by_hash.values()
    if len(rows) > 1
    for row in rows
  }


def _nanmedian(values: np.ndarray) -> float:
  known = values[np.isfinite(values)]
  return float(np.median(known)) if len(known) else float("nan")
