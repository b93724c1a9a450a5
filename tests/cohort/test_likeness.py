"""Scans beside each other by their pictures: a mirrored one shows, and one of something else."""

import numpy as np
import pytest
from pictures import People, mirrored

from medlsam_jax.cohort import likeness
from medlsam_jax.cohort.likeness import likeness_of
from medlsam_jax.cohort.oddities import MIRRORED_ODDS


def compared(sketches):
  return likeness_of(len(sketches), sketches.__getitem__)


def test_a_mirrored_scan_shows_and_no_other_does():
  people = [People().one(seed) for seed in range(20)]
  plain = compared(people)
  assert (plain.handed > 0).all() and (plain.mirrored_odds < 0).all()
  for number in (0, 7):
    changed = compared([mirrored(each) if at == number else each for at, each in enumerate(people)])
    assert changed.handed[number] == pytest.approx(-plain.handed[number], abs=1e-4)
    assert list(np.flatnonzero(changed.mirrored_odds > MIRRORED_ODDS)) == [number]


def test_three_mirrored_ones_show_beside_each_other():
  people = [mirrored(People().one(seed)) if seed < 3 else People().one(seed) for seed in range(24)]
  assert list(np.flatnonzero(compared(people).mirrored_odds > MIRRORED_ODDS)) == [0, 1, 2]


def test_of_symmetric_bodies_nothing_is_said():
  people = [People(lopsided=0.0).one(seed) for seed in range(20)]
  people[4] = mirrored(people[4])
  assert (compared(people).mirrored_odds < MIRRORED_ODDS).all()


def test_another_body_is_further_from_all():
  people = [People().one(seed) for seed in range(20)] + [People(seed=9).one(0)]
  apart = compared(people).apart
  assert apart.argmax() == 20 and apart[20] > 1.5 * np.median(apart)


def test_few_scans_none_and_missing_pictures():
  assert compared([]).mirrored_odds.shape == (0,)
  few = compared([mirrored(People().one(0)), *(People().one(seed) for seed in range(1, 5))])
  assert (few.mirrored_odds == 0).all()
  lacking = compared([None, *(People().one(seed) for seed in range(10))])
  assert np.isnan(lacking.handed[0]) and np.isnan(lacking.cut[0]).all() and lacking.mirrored_odds[0] == 0
  assert np.isnan(compared([People().one(0)]).handed).all()


def test_a_long_list_is_held_against_a_part_of_it(monkeypatch):
  people = [mirrored(People().one(seed)) if seed == 5 else People().one(seed) for seed in range(30)]
  monkeypatch.setattr(likeness, "REFERENCES", 10)
  assert list(np.flatnonzero(compared(people).mirrored_odds > MIRRORED_ODDS)) == [5]
