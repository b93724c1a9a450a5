"""One viewer's session with a network that fills boxes: ahead of the marks, and what it is told about."""

import threading
import time

import numpy as np
import pytest
from box_painter import BoxPainter

from medlsam_jax.errors import InputError
from medlsam_jax.sam.segmentation_settings import LITEMEDSAM
from medlsam_jax.serve.kept_slices import Turns
from medlsam_jax.serve.session import Session

SHAPE = (9, 24, 20)


@pytest.fixture
def reports():
  return []


@pytest.fixture
def turns():
  return Turns()


@pytest.fixture
def painter():
  return BoxPainter()


@pytest.fixture
def image():
  array = np.random.default_rng(0).normal(-900, 20, SHAPE)
  array[:, 4:20, 4:16] += 950
  return array.astype(np.float32)[None]


@pytest.fixture
def begin(painter, turns, reports):
  sessions = []

  def session(ahead=False, axis_codes=None):
    sessions.append(Session(painter, LITEMEDSAM, turns, axis_codes, ahead, reports.append))
    return sessions[-1]

  yield session
  for each in sessions:
    each.close()


def until(holds, seconds=60):
  end = time.monotonic() + seconds
  while not holds():
    assert time.monotonic() < end
    time.sleep(0.005)


def test_slices_are_encoded_before_they_are_asked_for(begin, image, painter):
  session = begin(ahead=True)
  session.set_image(image, {})
  until(lambda: session.encoded == SHAPE[0])
  session.add_box([[4, 5], [4, 20], [4, 16]], True)
  assert session.answer().box is not None and painter.slices == SHAPE[0]


def test_nobody_is_kept_waiting_by_what_nobody_waits_for(turns):
  with turns:
    assert not turns.spare(lambda: pytest.fail("worked while somebody else did"))
    waiting = threading.Thread(target=lambda: turns.__enter__() or turns.__exit__())
    waiting.start()
    until(lambda: turns._waiting == 1)
  waiting.join()
  done = []
  assert turns.spare(lambda: done.append(1)) and done == [1]


def test_a_new_image_forgets_the_old_one(begin, image):
  session = begin()
  session.set_image(image, {"spacing": [2.0, 1.0, 1.0]})
  session.add_box([[4, 5], [4, 20], [4, 16]], True)
  session.answer()
  session.set_image(image[:, :5], {})
  assert session.volume.array.shape == (5, *SHAPE[1:]) and session.undo() is None
  assert session.volume.spacing_mm.tolist() == [1, 1, 1]


def test_how_the_axes_run_is_stated_or_not(begin, image):
  for session, properties, stated, codes in (
    (begin(), {}, False, "LPS"),
    (begin(), {"axis_codes": "RAS"}, True, "RAS"),
    (begin(axis_codes="SRA"), {}, True, "SRA"),
  ):
    session.set_image(image, properties)
    assert session.axes_are_stated is stated and session.volume.grid.axis_codes == codes


def test_values_that_are_no_hu_are_seen_by_their_range(begin, painter, reports):
  """A picture of 0 to 5000 would be all white through a CT's window, and nothing would be sent to the network."""
  rng = np.random.default_rng(0)
  grey = (1500 + 1000 * rng.random((12, 60, 60))).astype(np.float32)
  grey[:, 20:40, 20:40] += 2000
  session = begin()
  session.set_image(grey[None], {})
  session.add_box([[4, 5], [20, 40], [20, 40]], True)
  assert painter.slices == 0 and session.answer().box is not None and painter.slices > 0
  assert len(reports) == 1 and "no HU" in reports[0]


def test_what_is_not_finite(begin, image):
  image[0, 4, 10, 10] = np.inf
  with pytest.raises(InputError, match="the viewer's image"):
    begin().set_image(image, {})


def test_a_name_in_what_a_viewer_sends_is_told_to_nobody(begin, image, reports, capsys):
  session = begin(ahead=True)
  session.set_image(image, {"name": "DOE^JANE", "spacing": [1.0, 1.0, 1.0]})
  until(lambda: session.encoded == SHAPE[0])
  for wrong in ({"spacing": "DOE^JANE"}, {"axis_codes": "DOE^JANE"}, {"spacing": ["DOE^JANE"] * 3}):
    try:
      session.set_image(image, wrong)
    except InputError as error:
      assert "DOE" not in str(error)
  assert "DOE" not in "".join(reports) + "".join(capsys.readouterr())


def test_many_steps_back_and_no_more(begin, image):
  session = begin()
  session.set_image(image, {})
  session.set_spreads(False)
  for high in range(8, 20):
    for _ in range(3):
      session.add_box([[4, 5], [4, high], [4, 16]], True)
      session.answer()
  back = 0
  while session.undo() is not None:
    back += 1
  assert back == 30
