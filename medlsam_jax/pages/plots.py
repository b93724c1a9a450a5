"""Plots as SVG in the page, whose colours are the page's own: box plots along one axis, strips and scatters."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Sequence

import numpy as np

_WIDTH, _ROW, _TOP, _BOTTOM = 760, 24, 8, 44
_LETTER = 6.6
"""Width of a letter, about, px."""
_MOST_DOTS = 40
"""Values of a box that are all drawn; of more, the outliers alone."""
STRIP_ENDS = 6.0
"""Standard deviations at the ends of a strip."""


@dataclasses.dataclass(frozen=True)
class Group:
  """Values of one box, such as those of an organ."""

  label: str
  values: Sequence[float]
  names: Sequence[str]
  """Of each value, shown where a pointer rests on it."""


@dataclasses.dataclass(frozen=True)
class Spread:
  """What a box shows of values: quartiles, and the outermost values within 1.5 of their distance (Tukey's rule)."""

  low: float
  first: float
  middle: float
  third: float
  high: float

  @classmethod
  def of(cls, values: Sequence[float]) -> Spread:
    """Of at least one value."""
    first, middle, third = (float(each) for each in np.quantile(np.asarray(values, float), (0.25, 0.5, 0.75)))
    reach = 1.5 * (third - first)
    inside = [value for value in values if first - reach <= value <= third + reach]
    return cls(min(inside), first, middle, third, max(inside))

  def has(self, value: float) -> bool:
    """Whether a value is none of the outliers."""
    return self.low <= value <= self.high


def box_plots(title: str, unit: str, groups: Sequence[Group], *, ends: tuple[float, float] | None = None,
              logarithmic: bool = False) -> str:  # fmt: skip
  """A box for each group, one below the other; empty where no group has a finite value.

  Args:
    title: what is shown, for who cannot see it.
    unit: stands under the axis.
    groups: values that are not finite are left out, and on a logarithmic axis those that are not above 0.
    ends: of the axis; by the values where None.
    logarithmic: an axis on which equal ratios have equal distances.
  """
  shown = [_finite(each, logarithmic) for each in groups]
  shown = [each for each in shown if each.values]
  if not shown:
    return ""
  every = [value for each in shown for value in each.values]
  axis = _Axis.of(ends or (min(every), max(every)), min(16 + _LETTER * max(len(g.label) for g in shown), 300),
                  logarithmic)  # fmt: skip
  height = _TOP + _ROW * len(shown) + _BOTTOM
  parts = [axis.drawn(_TOP, height - _BOTTOM, unit)]
  parts += [_box(each, axis, _TOP + _ROW * (row + 0.5)) for row, each in enumerate(shown)]
  middles = "; ".join(f"{g.label} {Spread.of(g.values).middle:.3g}" for g in shown)
  return _svg(_WIDTH, height, title, f"Medians: {middles}", "\n".join(parts))


def near_ends(groups: Sequence[Group]) -> tuple[float, float]:
  """Ends of an axis that shows all boxes and whiskers and half as much again; what lies beyond is drawn at its edge."""
  whiskers = [Spread.of(each.values).high for each in groups if each.values]
  return 0.0, 1.5 * max(whiskers, default=1.0) or 1.0


def scatter(title: str, across: str, up: str, points: Sequence[tuple[str, float, float]]) -> str:
  """Two volumes of each case against each other, both axes logarithmic, with the line on which they are equal.

  Args:
    title: what is shown.
    across: what the first number of a point is.
    up: what the second is.
    points: name and both numbers; those that are not above 0 are left out.
  """
  good = [each for each in points if each[1] > 0 and each[2] > 0 and math.isfinite(each[1] + each[2])]
  if not good:
    return ""
  every = [value for _, *pair in good for value in pair]
  axis = _Axis.of((min(every), max(every)), 70, True, 440)
  bottom = _TOP + axis.right - axis.left

  def down(value: float) -> float:
    return bottom - (axis.at(value) - axis.left)

  parts = [axis.drawn(_TOP, bottom, across)]
  for tick in axis.ticks:
    y = down(tick)
    parts.append(f'<line class="grid" x1="{axis.left}" x2="{axis.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
                 f'<text x="{axis.left - 6}" y="{y + 4:.1f}" text-anchor="end">{_said(tick)}</text>')  # fmt: skip
  middle = (_TOP + bottom) / 2
  parts.append(
    f'<text transform="translate(14 {middle:.1f}) rotate(-90)" text-anchor="middle">{html.escape(up)}</text>'
  )
  parts.append(f'<line class="whisker" x1="{axis.left}" y1="{bottom}" x2="{axis.right}" y2="{_TOP}"/>')
  parts += [_dot(axis.at(x), down(y), f"{name}: {x:.3g} and {y:.3g}", False) for name, x, y in good]
  return _svg(460, round(bottom + _BOTTOM), title, f"{len(good)} cases", "\n".join(parts))


def strip(off: Sequence[float], names: Sequence[str], far: float) -> str:
  """A dot for each value, from `STRIP_ENDS` standard deviations below the middle to so many above.

  Args:
    off: in standard deviations; those that are not finite are left out.
    names: of each value, told of those that are `far` off.
    far: standard deviations from which a dot is marked.
  """
  dots = []
  for value, name in zip(off, names, strict=True):
    if math.isfinite(value):
      x = 100 + 95 * max(min(value / STRIP_ENDS, 1), -1)
      dots.append(_dot(x, 8, name if abs(value) > far else "", abs(value) > far))
  odd = [name for value, name in zip(off, names, strict=True) if math.isfinite(value) and abs(value) > far]
  said = f"{len(dots)} sizes; far off: {', '.join(odd[:5]) or 'none'}"
  return f'<svg width="200" height="16" role="img" aria-label="{html.escape(said)}">{"".join(dots)}</svg>'


@dataclasses.dataclass(frozen=True)
class _Axis:
  """From left to right."""

  ticks: tuple[float, ...]
  low: float
  high: float
  left: float
  right: float
  scale: Callable[[float], float]

  @classmethod
  def of(cls, ends: tuple[float, float], left: float, logarithmic: bool, width: float = _WIDTH) -> _Axis:
    ticks = _log_ticks(*ends) if logarithmic else _ticks(*ends)
    low, high = min(ends[0], ticks[0]), max(ends[1], ticks[-1])
    return cls(ticks, low, high, round(left), width - 24, math.log if logarithmic else float)

  def at(self, value: float) -> float:
    low, high = self.scale(self.low), self.scale(self.high)
    share = (self.scale(min(max(value, self.low), self.high)) - low) / (high - low)
    return self.left + share * (self.right - self.left)

  def drawn(self, top: float, bottom: float, unit: str) -> str:
    lines = []
    for tick in self.ticks:
      x = self.at(tick)
      lines.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom:.1f}"/>'
                   f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{_said(tick)}</text>')  # fmt: skip
    middle = (self.left + self.right) / 2
    lines.append(f'<text x="{middle:.1f}" y="{bottom + 34:.1f}" text-anchor="middle">{html.escape(unit)}</text>')
    return "\n".join(lines)


def _box(group: Group, axis: _Axis, y: float) -> str:
  spread = Spread.of(group.values)
  low, first, middle, third, high = (axis.at(value) for value in dataclasses.astuple(spread))
  most = round((axis.left - 16) / _LETTER)
  label = group.label if len(group.label) <= most else group.label[: most - 1] + "…"
  parts = [
    f'<text x="{axis.left - 8}" y="{y + 4:.1f}" text-anchor="end">{html.escape(label)}</text>',
    f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>',
    f'<rect class="box" x="{first:.1f}" y="{y - 7:.1f}" width="{max(third - first, 1):.1f}" height="14"/>',
  ]
  for value, name in zip(group.values, group.names, strict=True):
    outlier = not spread.has(value)
    if outlier or len(group.values) <= _MOST_DOTS:
      parts.append(_dot(axis.at(value), y, f"{name}: {value:.3g}", outlier, 3 if outlier else 2.2))
  parts.append(f'<line class="mid" x1="{middle:.1f}" x2="{middle:.1f}" y1="{y - 7:.1f}" y2="{y + 7:.1f}"/>')
  return "".join(parts)


def _dot(x: float, y: float, name: str, odd: bool, radius: float = 3) -> str:
  kind, said = ' class="odd"' if odd else "", f"><title>{html.escape(name)}</title></circle>" if name else "/>"
  return f'<circle{kind} cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"{said}'


def _svg(width: int, height: int, title: str, description: str, body: str) -> str:
  said = f"<title>{html.escape(title)}</title><desc>{html.escape(description)}</desc>"
  size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
  return f'<svg {size} role="img" aria-label="{html.escape(title, quote=True)}">{said}\n{body}</svg>'


def _finite(group: Group, above_zero: bool) -> Group:
  kept = [
    (value, name)
    for value, name in zip(group.values, group.names, strict=True)
    if math.isfinite(value) and (value > 0 or not above_zero)
  ]
  return Group(group.label, [value for value, _ in kept], [name for _, name in kept])


def _ticks(low: float, high: float) -> tuple[float, ...]:
  """Five or so round numbers around both ends."""
  span = high - low
  if span <= 1e-6 * max(abs(low), abs(high)):  # one value: with room on both sides
    half = abs(low) / 2 or 0.5
    low, span = low - half, 2 * half
    high = low + span
  step = 10 ** math.floor(math.log10(span / 4))
  step *= next(times for times in (1, 2, 5, 10) if span / (step * times) <= 6)
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return tuple(number * step for number in range(first, max(last, first + 1) + 1))


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
  """1, 2, 5, 10, ... around both ends; powers of ten alone where these are far apart."""
  times = (1,) if high / low > 300 else (1, 2, 5)
  decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
  every = [factor * 10.0**decade for decade in decades for factor in times]
  below = max(tick for tick in every if tick <= low * (1 + 1e-9))
  above = min(tick for tick in every if tick >= high * (1 - 1e-9) and tick > below)
  return tuple(tick for tick in every if below <= tick <= above)


def _said(tick: float) -> str:
  return f"{round(tick, 10):,.10g}"
