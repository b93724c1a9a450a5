"""One viewer at work on one image: what was marked, the mask that follows from it, and the way back."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Num

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.io import hounsfield, scan_checks
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam.segmentation_settings import SegmentationSettings
from medlsam_jax.serve import marks as marking
from medlsam_jax.serve.guard import place
from medlsam_jax.serve.kept_slices import KeptSlices, Turns
from medlsam_jax.serve.marks import Marks
from medlsam_jax.serve.mask_changes import Change, Packed
from medlsam_jax.serve.sweep import Sweep

SOURCE = "the viewer's image"
"""What an image is called in messages: a viewer sends no name, and none is wanted."""
STEPS_BACK = 30
UNSTATED_AXES = "LPS"
"""How most viewers hold a CT: slices from the feet up, rows from the front, columns from the patient's right."""
_AXES = ("RL", "AP", "SI")
_PAUSE_S = 0.05
PATIENCE_S = 25.0
"""How long an answer waits for slices to be encoded; viewers give up after 60 s."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
  """A state to come back to."""

  marks: Marks
  mask: Packed


class Session:
  """Answers marks on an image with masks.

  Args:
    predictor: encodes and decodes.
    settings: how slices and boxes are prepared for it.
    turns: shared by all that compute.
    axis_codes: directions of rising x, y, z voxels where a viewer does not say them; None where nobody does, which is
      enough to cut an image into slices, not to tell left from right.
    ahead: whether slices are encoded before they are asked for, while nobody waits.
    report: told, in a line, what the person who started the server should know.
  """

  def __init__(
    self,
    predictor: Predictor,
    settings: SegmentationSettings,
    turns: Turns,
    axis_codes: str | None,
    ahead: bool,
    report: Callable[[str], None],
  ) -> None:
    self._predictor, self._settings, self._turns, self._report = predictor, settings, turns, report
    self._axis_codes, self._ahead = axis_codes, ahead
    self.lock = threading.Lock()
    self.spreads = True
    self.axes_are_stated = False
    """Whether somebody said how the image's axes run."""
    self.found: dict[str, Change] = {}
    """Masks of organs that were looked up in the image."""
    self._kept: KeptSlices | None = None
    self._sweep: Sweep | None = None
    self._marks, self._steps = Marks(), list[_Step]()
    self._mask: Bool[np.ndarray, "z y x"] = np.zeros((0, 0, 0), bool)
    self._asked_last: tuple[str, int] | None = None
    self._closed = threading.Event()

  @property
  def volume(self) -> Volume:
    """The image.

    Raises:
      InputError: there is none yet.
    """
    if self._kept is None:
      raise InputError("no image yet: send one first")
    return self._kept.volume

  @property
  def has_image(self) -> bool:
    """Whether one was sent."""
    return self._kept is not None

  @property
  def encoded(self) -> int:
    """Slices that went through the encoder so far."""
    return 0 if self._kept is None else self._kept.encoded

  def set_image(self, image: Num[np.ndarray, "..."], properties: object) -> tuple[int, ...]:
    """Begins with an image, `(1, z, y, x)` HU; gives its shape.

    Args:
      properties: of nnInteractive's clients: `spacing` in mm along the array's axes; and `axis_codes`, which ours may
        add, such as `LPS`.

    Raises:
      InputError: it cannot be a CT.
    """
    known = properties if isinstance(properties, dict) else {}
    if image.ndim != 4 or image.shape[0] != 1 or image.dtype == bool:
      raise InputError(f"an image of shape {image.shape}: send (1, z, y, x), one channel")
    array = image[0]
    scan_checks.refuse_size(array.shape, SOURCE)
    codes = known.get("axis_codes") or self._axis_codes
    grid = grid_of(array.shape, known.get("spacing"), codes or UNSTATED_AXES)
    scan_checks.refuse_spacing(grid, SOURCE)
    array, notes = scan_checks.fill_nonfinite(array, SOURCE)
    volume = Volume(array, grid, SOURCE, notes=notes)
    with self._turns:
      self.close()
      self._closed = threading.Event()
      self._kept = KeptSlices(volume, self._predictor, self._window(volume))
      self._sweep = Sweep(self._kept, _default_axis(grid), self.spreads, PATIENCE_S)
      self._forget()
      self.axes_are_stated, self.found = codes is not None, {}
    if self._ahead:
      threading.Thread(target=self._encode_ahead, args=(self._kept, self._closed), daemon=True).start()
    return image.shape

  def _window(self, volume: Volume) -> SegmentationSettings:
    """The settings, through whose window a CT is seen; of values that are no HU, nearly their whole range."""
    if hounsfield.doubt_of_values(volume.array) is None:
      return self._settings
    low, high = np.percentile(volume.array[::2, ::2, ::2], (0.5, 99.5)).tolist()
    self._report("the values of a viewer's image are no HU: it is shown to the network by their range")
    return dataclasses.replace(self._settings, window_hu=(low, high) if low < high else (low, low + 1))

  def set_spreads(self, spreads: bool) -> None:
    """Whether masks go on beyond the slices that are marked."""
    self.spreads = spreads
    if self._sweep is not None:
      self._sweep.set_spreads(spreads)

  def reset(self) -> None:
    """Forgets marks and mask: the next organ."""
    self._forget()

  def add_box(self, intervals: object, inside: bool) -> None:
    """A box around the organ; or (not `inside`) of nothing that is of it.

    Raises:
      InputError: as `marks.box_of`.
    """
    box = marking.box_of(intervals, self.volume.array.shape)
    if inside:
      self._note(self._marks.with_box(box))
    else:
      low, high = box.array().astype(int)
      self._note(self._marks.with_erased(low.tolist(), np.ones(high - low + 1, bool)))

  def add_point(self, coordinates: object, inside: bool) -> None:
    """A point in the organ, or in something else.

    Raises:
      InputError: as `marks.place_of`.
    """
    self._note(self._marks.with_points([marking.place_of(coordinates, self.volume.array.shape)], inside))

  def add_lasso(self, mask: np.ndarray, bounds: object, inside: bool) -> None:
    """A line around the organ, which counts as the box of what it encloses; what is not of the organ is taken as it is.

    Raises:
      InputError: as `marks.region_of`.
    """
    low, region = marking.region_of(mask, bounds, self.volume.array.shape)
    if not inside:
      self._note(self._marks.with_erased(low, region))
      return
    marks = self._marks
    for box in marking.boxes_around(low, region):
      marks = marks.with_box(box)
    self._note(marks)

  def add_scribble(self, mask: np.ndarray, bounds: object, inside: bool) -> None:
    """A scribble in the organ, or in something else, which counts as a few points along it.

    Raises:
      InputError: as `marks.region_of`.
    """
    low, region = marking.region_of(mask, bounds, self.volume.array.shape)
    self._note(self._marks.with_points(marking.points_along(low, region), inside))

  def begin_with(self, mask: np.ndarray, refine: bool) -> None:
    """A mask to go on from.

    Raises:
      InputError: it is of another shape than the image.
    """
    if mask.shape != self.volume.array.shape:
      raise InputError(f"a mask of shape {mask.shape} for an image of {self.volume.array.shape}")
    self._remember()
    self._marks = Marks(start=mask > 0, refine=refine)
    self._mask = np.array(mask > 0)  # which the viewer has already

  def answer(self) -> Change:
    """The mask that follows from the marks, as a change of what the viewer has.

    Raises:
      InputError: there is no image, or NaN in a slice.
    """
    if self._sweep is None:
      raise InputError("no image yet: send one first")
    with self._turns:
      mask = self._sweep.paint(self._marks)
    if self._sweep.left_out:
      self._report("a mask ends where slices were not encoded in time; it goes on at the next mark")
    return self._show(mask)

  def show(self, mask: Bool[np.ndarray, "z y x"]) -> None:
    """Takes a mask from elsewhere as the one to go on from; the viewer gets it with the next answer."""
    self._remember()
    self._marks = Marks(start=np.array(mask, bool))

  def undo(self) -> Change | None:
    """What takes the last mark back; None where there is none."""
    if not self._steps:
      return None
    step = self._steps.pop()
    self._marks = step.marks
    return self._show(step.mask.unpacked())

  def close(self) -> None:
    """Lets go of the image."""
    self._closed.set()
    if self._kept is not None:
      self._kept.close()
      self._kept = self._sweep = None

  def _note(self, marks: Marks) -> None:
    self._remember()
    self._marks = marks
    if marks.first is not None and self._sweep is not None and self._kept is not None:
      plane = self._sweep.plane_of(marks)
      self._asked_last = plane, self._sweep.slice_of(plane, marks.first)

  def _remember(self) -> None:
    self._steps.append(_Step(self._marks, Packed.of(self._mask)))
    del self._steps[:-STEPS_BACK]

  def _show(self, mask: Bool[np.ndarray, "z y x"]) -> Change:
    change = Change.of(mask, self._mask)
    self._mask = mask
    return change

  def _forget(self) -> None:
    self._marks, self._steps = Marks(), []
    self._mask = np.zeros(self.volume.array.shape, bool)
    if self._sweep is not None:
      self._sweep.forget()

  def _encode_ahead(self, kept: KeptSlices, closed: threading.Event) -> None:
    """Slices from the last mark outward (at first from the middle), one batch after another, while nobody waits."""
    axis = _default_axis(kept.volume.grid)
    plane = Sweep(kept, axis, False).plane_of(Marks())
    count = kept.volume.array.shape[axis]
    while not closed.is_set() and not kept.is_full:
      asked = self._asked_last
      plane, near = asked if asked is not None else (plane, count // 2)
      count = len(kept.plane(plane).hu)
      missing = [i for i in sorted(range(count), key=lambda i: abs(i - near)) if not kept.has(plane, i)]
      if not missing:
        return
      try:
        done = self._turns.spare(functools.partial(_encode, kept, plane, missing, closed))
      except Exception as error:  # whoever marks a slice meets it again
        if not closed.is_set():
          self._report(place(error))
        return
      if not done:
        closed.wait(_PAUSE_S)


def _encode(kept: KeptSlices, plane: str, missing: Sequence[int], closed: threading.Event) -> None:
  if not closed.is_set():
    kept.get(plane, missing[0], missing)


def grid_of(shape: tuple[int, ...], spacing: object, codes: object) -> Grid:
  """Where the voxels of a viewer's array lie: their edges, and the directions in which its axes run.

  Raises:
    InputError: they are none.
  """
  try:
    edges = [float(each) for each in spacing] if isinstance(spacing, list | tuple) else [1.0, 1.0, 1.0]
  except (TypeError, ValueError) as error:
    raise InputError("spacing is three numbers, mm along z, y and x of the array") from error
  edges = [1.0] * (3 - len(edges)) + edges
  axes = [next((i for i, pair in enumerate(_AXES) if c in pair), -1) for c in codes] if isinstance(codes, str) else []
  if sorted(axes) != [0, 1, 2] or len(edges) != 3 or not (np.isfinite(edges).all() and min(edges) > 0):
    raise InputError(
      "axis_codes are three letters such as LPS, one of L R, of P A and of S I; spacing is three lengths"
    )
  affine = np.eye(4)
  affine[:3, :3] = 0
  for column, (world, code, edge) in enumerate(zip(axes, str(codes), edges[::-1], strict=True)):
    affine[world, column] = edge if code in "RAS" else -edge
  z, y, x = shape
  return Grid((z, y, x), affine)


def _default_axis(grid: Grid) -> int:
  """Array axis (of z, y, x) across which a CT is cut: that which runs along the body."""
  return 2 - next(i for i, code in enumerate(grid.axis_codes) if code in "SI")
