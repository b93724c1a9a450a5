"""nninteractive-client completes a session with a server on a port of its own, and gets what our library gives."""

import contextlib
import threading

import httpx
import numpy as np
import pytest
from nnInteractive.inference.remote import (
  ServerAtCapacityError,
  SessionExpiredError,
  nnInteractiveRemoteInferenceSession,
  remote_session,
)
from sam_weights import tiny_network

import medlsam_jax as ml
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box
from medlsam_jax.sam.segmentation_settings import LITEMEDSAM
from medlsam_jax.serve import wire
from medlsam_jax.serve.listening import address, listen, server
from medlsam_jax.serve.viewers import viewer_app

SPACING = [2.5, 1.0, 1.5]


@pytest.fixture(scope="module")
def predictor():
  return ml.Predictor(tiny_network())


@pytest.fixture(scope="module")
def array():
  """A ball of tissue in air, 9 slices of 40 x 36."""
  z, y, x = np.mgrid[:9, :40, :36]
  ball = (2.5 * (z - 4)) ** 2 + (y - 18) ** 2 + (1.5 * (x - 16)) ** 2 < 100
  noise = np.random.default_rng(0).normal(0, 20, ball.shape)
  return (np.where(ball, 60, -900) + noise).astype(np.int16)


@pytest.fixture(scope="module")
def volume(array):
  affine = np.diag([-1.5, -1.0, 2.5, 1])
  return ml.Volume(array, ml.Grid(array.shape, affine))


@contextlib.contextmanager
def running(app):
  """The application behind a port."""
  taken = listen(0)
  at_work = server(app)
  thread = threading.Thread(target=at_work.run, kwargs={"sockets": [taken]}, daemon=True)
  thread.start()
  try:
    yield address(taken)
  finally:
    at_work.should_exit = True
    thread.join(30)
    taken.close()


@pytest.fixture(scope="module")
def reports():
  return []


@pytest.fixture(scope="module")
def where(predictor, reports):
  app = viewer_app(predictor, LITEMEDSAM, "secret", reports.append, ahead=False)
  with running(app) as place:
    yield place


@pytest.fixture
def client(where):
  with nnInteractiveRemoteInferenceSession(where, api_key="secret") as session:
    yield session


@pytest.fixture
def viewer(client, array):
  """A client with the image sent, whose masks stay on the slices that are marked."""
  client.set_image(array[None], {"spacing": np.array(SPACING)})
  client.set_target_buffer(np.zeros(array.shape, np.uint8))
  client.set_do_autozoom(False)
  return client


def boxed(volume, predictor, *boxes, **options):
  found = {"ball": Finding.of_boxes("ball", 1, boxes)}
  return ml.segment(volume, found, predictor, **options)["ball"]


def test_a_box_on_one_slice_is_what_segment_paints(viewer, volume, predictor):
  box = [[4, 5], [8, 29], [9, 24]]
  assert viewer.add_bbox_interaction(box, include_interaction=True) is not None
  wanted = boxed(volume, predictor, Box((4, 8, 9), (4, 28, 23)))
  assert wanted[4].any() and np.array_equal(viewer.target_buffer, wanted)


def test_boxes_on_two_slices_are_interpolated_as_segment_does(viewer, volume, predictor):
  viewer.add_bbox_interaction([[2, 3], [12, 25], [12, 21]], True, run_prediction=False)
  assert not viewer.target_buffer.any()
  viewer.add_bbox_interaction([[6, 7], [10, 27], [11, 22]], True)
  wanted = boxed(volume, predictor, Box((2, 12, 12), (2, 24, 20)), Box((6, 10, 11), (6, 26, 21)))
  assert wanted[4].any() and np.array_equal(viewer.target_buffer, wanted)


def test_a_box_through_many_slices_is_what_propagation_paints(viewer, volume, predictor):
  viewer.add_bbox_interaction([[1, 8], [8, 29], [9, 24]], True)
  way = ml.PropagationSettings(mode="middle-out")
  wanted = boxed(volume, predictor, Box((1, 8, 9), (7, 28, 23)), propagation=way)
  assert np.count_nonzero(wanted.any((1, 2))) > 1 and np.array_equal(viewer.target_buffer, wanted)


def test_a_box_in_another_plane(viewer, volume, predictor):
  viewer.add_bbox_interaction([[1, 8], [18, 19], [9, 24]], True)
  way = ml.PropagationSettings(axes="coronal")
  wanted = boxed(volume, predictor, Box((1, 18, 9), (7, 18, 23)), propagation=way)
  assert wanted[:, 18].any() and np.array_equal(viewer.target_buffer, wanted)


def seen(array, index):
  return ml.window_to_bytes(array[index], LITEMEDSAM.window_hu)


def test_points_are_what_predict_gives(viewer, array, predictor):
  viewer.add_point_interaction([4, 18, 16], True)
  viewer.add_point_interaction([4, 2, 2], False)
  predictor.set_image(seen(array, 4))
  points, labels = np.array([[16, 18], [2, 2]]), np.array([1, 0])
  masks, _, _ = predictor.predict(points, labels, multimask_output=False)
  assert masks[0].any() and np.array_equal(viewer.target_buffer[4], masks[0])
  assert not np.delete(viewer.target_buffer, 4, 0).any()


def test_a_point_beside_a_box_changes_the_answer_and_undo_takes_it_back(viewer):
  viewer.add_bbox_interaction([[4, 5], [8, 29], [9, 24]], True)
  before = viewer.target_buffer.copy()
  viewer.add_point_interaction([4, 10, 10], False)
  after = viewer.target_buffer.copy()
  assert not np.array_equal(before, after)
  assert viewer.undo() and np.array_equal(viewer.target_buffer, before)
  assert viewer.undo() and not viewer.target_buffer.any()
  assert not viewer.undo()
  viewer.add_bbox_interaction([[4, 5], [8, 29], [9, 24]], True)
  assert np.array_equal(viewer.target_buffer, before)


def test_reset_forgets_the_marks(viewer):
  box = [[4, 5], [8, 29], [9, 24]]
  viewer.add_bbox_interaction(box, True)
  alone = viewer.target_buffer.copy()
  viewer.reset_interactions()
  assert not viewer.target_buffer.any() and not viewer.undo()
  viewer.add_bbox_interaction(box, True)
  assert np.array_equal(viewer.target_buffer, alone)


def test_a_lasso_counts_as_its_box_and_takes_away_as_it_is(viewer):
  drawn = np.zeros((1, 21, 15), np.uint8)
  drawn[0, 3:-3, :] = drawn[0, :, 3:-3] = 1
  bounds = [[4, 5], [8, 29], [9, 24]]
  viewer.add_lasso_interaction(drawn, True, interaction_bbox=bounds)
  lasso = viewer.target_buffer.copy()
  viewer.reset_interactions()
  viewer.add_bbox_interaction(bounds, True)
  assert lasso.any() and np.array_equal(viewer.target_buffer, lasso)
  viewer.add_lasso_interaction(drawn, False, interaction_bbox=bounds)
  assert not viewer.target_buffer[4, 8:29, 9:24][drawn[0] > 0].any()


def test_a_scribble_counts_as_points_on_it(viewer, array, predictor):
  drawn = np.zeros(array.shape, np.uint8)
  drawn[4, 18, 12:21] = 1
  viewer.add_scribble_interaction(drawn, True)
  predictor.set_image(seen(array, 4))
  points = np.array([[16, 18], [12, 18], [20, 18]])
  masks, _, _ = predictor.predict(points, np.ones(3, int), multimask_output=False)
  assert masks[0].any() and np.array_equal(viewer.target_buffer[4], masks[0])


def test_a_mask_that_was_there_is_kept_on_other_slices(viewer, array):
  start = np.zeros(array.shape, np.uint8)
  start[2:7, 12:24, 12:20] = 1
  viewer.add_initial_seg_interaction(start)
  assert np.array_equal(viewer.target_buffer, start)
  viewer.add_point_interaction([4, 18, 16], True)
  changed = viewer.target_buffer != start
  assert changed[4].any() and not np.delete(changed, 4, 0).any()
  assert viewer.undo() and np.array_equal(viewer.target_buffer, start)


def test_a_mask_goes_on_where_autozoom_is_on(viewer, array, volume, predictor):
  viewer.set_do_autozoom(True)
  viewer.add_bbox_interaction([[4, 5], [8, 29], [9, 24]], True)
  wanted = boxed(volume, predictor, Box((4, 8, 9), (4, 28, 23)))
  assert np.array_equal(viewer.target_buffer[4], wanted[4])
  assert viewer.target_buffer[3].any() or viewer.target_buffer[5].any()


def refused(call, *arguments, **named):
  with pytest.raises(httpx.HTTPStatusError) as error:
    call(*arguments, **named)
  assert "\n" not in error.value.response.json()["detail"]
  return error.value.response.status_code, error.value.response.json()["detail"]


def test_marks_that_cannot_be_meant_are_one_line(viewer):
  assert refused(viewer.add_point_interaction, [4, 99, 0], True)[1].startswith("a point outside the image of 9x40x36")
  assert refused(viewer.add_point_interaction, [4, 9], True)[1].startswith("a point is [z, y, x]")
  assert "outside" in refused(viewer.add_bbox_interaction, [[4, 5], [80, 99], [1, 2]], True)[1]
  assert "without a voxel" in refused(viewer.add_lasso_interaction, np.zeros((9, 40, 36), np.uint8), True)[1]
  assert "does not fit" in refused(viewer.add_scribble_interaction, np.ones((2, 2, 2), np.uint8), True)[1]
  viewer.add_point_interaction([4, 18, 16], True)


def test_marks_before_an_image(client):
  assert "no image yet" in refused(client.add_point_interaction, [4, 18, 16], True)[1]
  assert "no image yet" in refused(client.set_target_buffer, np.zeros((3, 3, 3), np.uint8))[1]


def test_images_that_are_none(client, array):
  assert "one channel" in refused(client.set_image, np.zeros((2, *array.shape), np.int16))[1]
  assert "mm" in refused(client.set_image, array[None], {"spacing": [1000.0, 1, 1]})[1]
  assert "three letters" in refused(client.set_image, array[None], {"axis_codes": "LLS"})[1]


def test_a_taken_server_and_an_ended_session(where, client):
  with nnInteractiveRemoteInferenceSession(where, api_key="secret") as second:
    third = second._http.post("/claim")  # a client that fails while it is made leaves its connection open
    with pytest.raises(ServerAtCapacityError, match="all 2 sessions"):
      remote_session._raise_for_lease_errors(third)
    assert second.ping() and second.lease_status()["remaining_seconds"] > 0 and second.heartbeat() > 0
    second._http.headers["X-Lease-Token"] = "another"
    with pytest.raises(SessionExpiredError, match="connect again"):
      second.undo()
    second._http.headers["X-Lease-Token"] = second._lease_token


def test_a_session_given_back_in_the_middle_of_an_answer_has_ended(viewer, monkeypatch):
  def gone(session, *given):
    viewer._http.post("/release")
    raise AttributeError("'NoneType' object has no attribute 'plane_of'")  # of an image that was let go of

  monkeypatch.setattr("medlsam_jax.serve.session.Session.add_point", gone)
  with pytest.raises(SessionExpiredError):
    viewer.add_point_interaction((4, 18, 16), True)


def test_the_token_is_asked_for(where):
  answer = httpx.post(f"{where}/claim", headers={"Authorization": "Bearer wrong"})
  assert answer.status_code == 401 and "API key" in answer.json()["detail"]


def test_a_client_of_another_version_is_told_in_one_line(client, array, reports):
  body = bytearray(wire.packed(array[None]))
  body[4] = 2
  answer = client._http.post("/set_image", content=bytes(body))
  assert answer.status_code == 400 and "version 2" in answer.json()["detail"] and "2.6.0" in answer.json()["detail"]
  assert client._http.post("/upload_image", content=b"x").json()["detail"].startswith("a viewer speaks an older")
  assert "another protocol" in client._http.post("/add_magic", json={}).json()["detail"]
  assert len([line for line in reports if "2.6.0" in line]) == 3


def test_damaged_arrays(client, array):
  whole = wire.packed(array[None])
  huge = whole[:13] + (10**12).to_bytes(8, "little") + whole[21:]
  for body in (b"", whole[:20], whole[:-9], b"NNIA" + whole[:-4], huge, whole[:40] + bytes(len(whole) - 40)):
    answer = client._http.post("/set_image", content=body)
    assert answer.status_code == 400 and answer.json()["detail"], body[:30]
