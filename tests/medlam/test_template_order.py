import dataclasses

import numpy as np
import pytest

from medlsam_jax.medlam.bank import template_points
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.bank.template_order import Place, contradictions

SHAPE = (80, 60, 100)
BODY = {
  "parotid_right": ((60, 20, 10), (70, 30, 20)),
  "parotid_left": ((60, 20, 80), (70, 30, 90)),
  "brainstem": ((62, 30, 45), (75, 40, 55)),
  "mandible": ((40, 5, 20), (60, 25, 80)),
  "spinal_cord": ((0, 30, 47), (65, 38, 53)),
}


def places(seed=0, swapped=(), only=None):
  """The organs of one person, each a little off; two of them under each other's names."""
  rng = np.random.default_rng(seed)
  found = {}
  for organ, (low, high) in BODY.items():
    shift = rng.integers(-3, 4, 3)
    shift[0] = max(shift[0], 0)
    found[organ] = Place.of(np.array(low) + shift * (np.array(low) > 0), np.array(high) + shift, SHAPE)
  if swapped:
    first, second = swapped
    found[first], found[second] = found[second], found[first]
  return {organ: place for organ, place in found.items() if only is None or organ in only}


def test_templates_that_agree_are_not_spoken_of():
  assert contradictions({str(seed): places(seed) for seed in range(8)}) == []
  assert contradictions({"one": places()}) == [] and contradictions({}) == []


def test_the_odd_one_of_three_is_named_with_its_organs():
  given = {str(seed): places(seed) for seed in range(3)} | {"odd": places(9, ("parotid_left", "parotid_right"))}
  (said,) = contradictions(given)
  assert said.startswith("odd: parotid_left, parotid_right: elsewhere among the organs than in the other templates")


def test_two_that_disagree_are_both_named_since_nothing_says_which_is_right():
  (said,) = contradictions({"a": places(0), "b": places(1, ("parotid_left", "parotid_right"))})
  assert said.startswith("a, b: parotid_left, parotid_right: the other way round in one template than in another")
  even = {str(seed): places(seed, ("parotid_left", "parotid_right") if seed > 1 else ()) for seed in range(4)}
  assert contradictions(even)[0].startswith("0, 1, 2, 3: ")


def test_mirrored_scan_shows_in_all_its_sides():
  mirrored = {
    organ: dataclasses.replace(
      place,
      low=np.array([*place.low[:2], SHAPE[2] - place.high[2]]),
      high=np.array([*place.high[:2], SHAPE[2] - place.low[2]]),
    )
    for organ, place in places(5).items()
  }
  (said,) = contradictions({"a": places(0), "b": places(1), "turned": mirrored})
  assert said.startswith("turned: ") and "is a scan mirrored?" in said


def test_organs_above_each_other_are_looked_at_too():
  (said,) = contradictions({"a": places(0), "b": places(1), "c": places(2, ("brainstem", "mandible"))})
  assert said.startswith("c: ") and "brainstem" in said and "mandible" in said


def test_pieces_that_the_border_cut_are_not_held_against_anybody():
  # in a scan of the head the rest of a long organ lies before another one, in a scan of the chest behind it
  near = {"long": Place.of(np.array([0, 40, 40]), np.array([4, 45, 45]), SHAPE), "low": places()["brainstem"]}
  far = {"long": Place.of(np.array([75, 5, 40]), np.array([79, 10, 45]), SHAPE), "low": places()["brainstem"]}
  assert contradictions({"a": near, "b": far}) == []


def test_small_neighbours_that_change_places_by_less_than_their_size_are_not_held_against_anybody():
  def pair(first):
    return {
      "pancreas": Place.of(np.array([30, 30, 30]), np.array([39, 39, 39]), SHAPE),
      "gallbladder": Place.of(np.array([30, 30, first]), np.array([35, 35, first + 5]), SHAPE),
    }

  assert contradictions({"a": pair(27), "b": pair(37)}) == []
  assert contradictions({"a": pair(24), "b": pair(40)})


@pytest.fixture
def three(make_template):
  """Three templates with two organs, the last of them with their values swapped."""
  organs = {"liver": ((3, 4, 2), (9, 10, 7)), "kidney": ((3, 4, 18), (9, 10, 23))}
  templates = [make_template(name, seed, **organs) for seed, name in enumerate("abc")]
  templates[2] = dataclasses.replace(
    templates[2], values={"liver": 2, "kidney": 1}, result_values={"liver": 1, "kidney": 2}
  )
  return templates


def test_a_bank_keeps_what_was_said_of_its_templates(three, network, tmp_path):
  with pytest.warns(UserWarning, match="c: kidney, liver: elsewhere"):
    bank = Bank.build(network, three, "WPL")
  assert len(bank.notes) == 1 and bank.notes[0].startswith("c: kidney, liver: elsewhere")
  bank.save(tmp_path / "bank.safetensors")
  assert Bank.load(tmp_path / "bank.safetensors").notes == bank.notes


def test_organs_that_were_not_asked_for_tell_whether_the_one_that_was_is_named_rightly(three):
  alone = [
    dataclasses.replace(each, values={"liver": each.values["liver"]}, unused={"kidney": each.values["kidney"]})
    for each in three
  ]
  with pytest.warns(UserWarning, match="c: kidney, liver: elsewhere"):
    plans = template_points.plan(alone, None, "consistent", None)
  assert [plan.organ for plan in plans] == ["liver"]
  assert contradictions({"a": places(0), "b": places(1, ("parotid_left", "parotid_right"))}, ["larynx"]) == []


def test_points_and_masks_are_held_against_each_other(three, make_template):
  six = [[6, 7, 19], [6, 7, 22], [3, 7, 20], [9, 7, 20], [6, 4, 20], [6, 10, 20]]
  mirror = [[z, y, 25 - x] for z, y, x in six]
  with pytest.warns(UserWarning, match="kidney, liver: the other way round"):
    template_points.plan(
      [three[0], make_template("d", points={"liver": six, "kidney": mirror})], None, "consistent", None
    )
