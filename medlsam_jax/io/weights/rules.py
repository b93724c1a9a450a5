"""Tables that say how each tensor of a published checkpoint becomes a parameter here, strict in both directions.

A name in a table may hold placeholders such as `blocks.{i}.norm1.weight`: each stands for one run of digits and has the
same value in source and target. Targets are dot-joined paths whose first part is the collection
(`params.conv0.first.kernel`, `batch_stats.stem.mean`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from medlsam_jax import display, notices
from medlsam_jax.errors import WeightsError
from medlsam_jax.network import Variables

"""Names listed in an error message before it says how many more there are."""


@dataclasses.dataclass(frozen=True)
class Transform:
  """How the numbers of one published tensor are laid out here (`forward`), and back (`backward`)."""

  forward: Callable[[np.ndarray], np.ndarray]
  backward: Callable[[np.ndarray], np.ndarray]


def permutation(*axes: int) -> Transform:
  """Transform that permutes axes; `forward` takes axis `axes[k]` of the published tensor as axis k."""
  inverse = tuple(int(axis) for axis in np.argsort(axes))
  return Transform(lambda a: a.transpose(axes), lambda a: a.transpose(inverse))


IDENTITY = Transform(lambda a: a, lambda a: a)
LINEAR = permutation(1, 0)
CONV2D = permutation(2, 3, 1, 0)
CONV3D = permutation(2, 3, 4, 1, 0)
CONV_TRANSPOSE2D = permutation(2, 3, 1, 0)
"""(in, out, y, x) to (y, x, out, in): for `nn.ConvTranspose(transpose_kernel=True)`, which stores features first."""


@dataclasses.dataclass(frozen=True)
class Rule:
  """One published name (or family of names) and the variable it fills."""

  source: str
  target: str
  transform: Transform = IDENTITY


@dataclasses.dataclass(frozen=True)
class Skip:
  """Published names that have no place here, and why. They may be absent."""

  source: str
  reason: str


def shapes_of(variables: Variables) -> dict[str, tuple[int, ...]]:
  """Flat name -> shape of a variable tree, such as `jax.eval_shape(module.init, ...)` gives: a table's `template`."""
  return {name: tuple(leaf.shape) for name, leaf in flatten_dict(variables, sep=".").items()}


@dataclasses.dataclass(frozen=True)
class RuleTable:
  """All rules of one kind of network."""

  kind: str
  rules: tuple[Rule, ...]
  skips: tuple[Skip, ...] = ()

  def forward(
    self, tensors: Mapping[str, np.ndarray], template: Mapping[str, tuple[int, ...]], source: str
  ) -> Variables:
    """Published tensors to nested float32 variables.

    Args:
      tensors: published name -> array, any floating dtype.
      template: target name -> shape, all that must be filled (`shapes_of`).
      source: the file, for messages.

    Raises:
      WeightsError: a name that no rule or skip knows, a target left empty, a shape that does not fit, or numbers that
        are no weights (`as_weights`). Nothing is copied before all names and shapes have been checked.
    """
    placed: dict[str, np.ndarray] = {}
    published: dict[str, str] = {}
    problems = _Problems()
    for name, tensor in tensors.items():
      if any(_match(skip.source, name) is not None for skip in self.skips):
        continue
      matches = [(rule, match) for rule in self.rules if (match := _match(rule.source, name)) is not None]
      if not matches:
        problems.unknown.append(name)
        continue
      self._refuse_ambiguity(name, [rule for rule, _ in matches])
      rule, match = matches[0]
      target = rule.target.format(**match)
      published[target] = name
      _place(placed, problems, template, target, name, tensor, rule.transform.forward)
    problems.missing = [name for name in template if name not in placed]
    problems.raise_if_any(f"{source}: does not fill a network of kind {self.kind}", "weights that it lacks")
    ready = as_weights({published[target]: array for target, array in placed.items()}, source)
    return unflatten_dict({target: ready[published[target]] for target in placed}, sep=".")

  def backward(
    self, variables: Variables, template: Mapping[str, tuple[int, ...]] | None = None, source: str = "<variables>"
  ) -> dict[str, np.ndarray]:
    """Our variables to published names and layouts, as `forward` would read them; skipped names are not made up.

    Args:
      variables: nested variables.
      template: published name -> shape that must come out exactly, where known.
      source: where the variables come from, for messages.

    Raises:
      WeightsError: a variable that no rule makes, or names or shapes other than the template's.
    """
    placed: dict[str, np.ndarray] = {}
    problems = _Problems()
    for name, leaf in flatten_dict(variables, sep=".").items():
      matches = [(rule, match) for rule in self.rules if (match := _match(rule.target, name)) is not None]
      if not matches:
        problems.unknown.append(name)
        continue
      self._refuse_ambiguity(name, [rule for rule, _ in matches])
      rule, match = matches[0]
      published = rule.source.format(**match)
      _place(placed, problems, template, published, name, np.asarray(leaf), rule.transform.backward)
    problems.missing = [name for name in template or () if name not in placed]
    problems.raise_if_any(f"{source}: cannot be written as a published {self.kind} checkpoint", "names not made")
    return {name: np.ascontiguousarray(array) for name, array in placed.items()}

  def _refuse_ambiguity(self, name: str, rules: list[Rule]) -> None:
    if len(rules) > 1:
      sources = ", ".join(rule.source for rule in rules)
      raise ValueError(f"rules of {self.kind}: {name} is matched by more than one rule ({sources})")


def as_weights(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
  """Tensors in float32, contiguous. Float16 and bfloat16 are exact in it; that float64 is rounded is said in a warning.

  Raises:
    WeightsError: a tensor of whole numbers (a quantised network), or with NaN or infinite values (a training that
      diverged), or with values beyond float32; the tensors are named.
  """
  whole = [f"{name} ({a.dtype.name})" for name, a in tensors.items() if a.dtype.kind in "iub"]
  if whole:
    raise WeightsError(
      f"{source}: weights that are whole numbers: {display.some(whole)}; a quantised network is not read, "
      "give its float weights"
    )
  with np.errstate(over="ignore"):
    result = {name: np.asarray(a, np.float32, order="C") for name, a in tensors.items()}
  bad = [name for name, a in result.items() if not np.isfinite(a).all()]
  if bad:
    raise WeightsError(
      f"{source}: NaN or infinite values in {display.some(bad)}; its training diverged or the file is damaged: "
      "take an earlier checkpoint"
    )
  rounded = [name for name, a in tensors.items() if a.dtype == np.float64 and not np.array_equal(a, result[name])]
  if rounded:
    notices.warn(f"{source}: stored in float64, rounded to float32: {display.some(rounded)}")
  return result


@dataclasses.dataclass
class _Problems:
  """What keeps a checkpoint from fitting; gathered so that one message names all of it."""

  unknown: list[str] = dataclasses.field(default_factory=list)
  missing: list[str] = dataclasses.field(default_factory=list)
  shapes: list[str] = dataclasses.field(default_factory=list)

  def raise_if_any(self, opening: str, missing_title: str) -> None:
    parts = [
      f"{title}: {display.some(names)}"
      for title, names in (
        ("names without a place", self.unknown),
        (missing_title, self.missing),
        ("shapes that do not fit", self.shapes),
      )
      if names
    ]
    if parts:
      raise WeightsError(f"{opening}; " + "; ".join(parts))


def _place(
  placed: dict[str, np.ndarray],
  problems: _Problems,
  template: Mapping[str, tuple[int, ...]] | None,
  target: str,
  name: str,
  tensor: np.ndarray,
  transform: Callable[[np.ndarray], np.ndarray],
) -> None:
  """Puts one transformed tensor under its target name, or notes why it cannot be there."""
  if template is not None and target not in template:
    problems.unknown.append(name)
    return
  if target in placed:
    raise ValueError(f"rules: {target} is filled twice, the second time from {name}")
  try:
    placed[target] = array = transform(tensor)
  except ValueError:  # a transform of another number of axes
    array = None
  wanted = None if template is None else tuple(template[target])
  if array is None or (wanted is not None and array.shape != wanted):
    got = "a layout that does not fit" if array is None else str(array.shape)
    problems.shapes.append(f"{name} {tensor.shape} gives {got} for {target} {wanted or ''}".rstrip())
    placed.setdefault(target, tensor)


def _match(pattern: str, name: str) -> dict[str, str] | None:
  """Values of the placeholders when `name` is of the form `pattern`, else None."""
  match = _compiled(pattern).fullmatch(name)
  return None if match is None else match.groupdict()


_PATTERNS: dict[str, re.Pattern[str]] = {}


def _compiled(pattern: str) -> re.Pattern[str]:
  if pattern not in _PATTERNS:
    pieces = re.split(r"\{(\w+)\}", pattern)
    expression = "".join(f"(?P<{p}>[0-9]+)" if k % 2 else re.escape(p) for k, p in enumerate(pieces))
    _PATTERNS[pattern] = re.compile(expression)
  return _PATTERNS[pattern]
