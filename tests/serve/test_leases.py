"""Sessions end when nobody uses them, and there are never more than a few."""

import pytest

from medlsam_jax.serve.leases import FullError, GoneError, Leases


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def closed():
  return []


@pytest.fixture
def leases(clock, closed):
  numbers = iter(range(100))
  return Leases(lambda: next(numbers), closed.append, limit=2, idle_s=100, silent_s=10, clock=clock)


def test_a_few_at_once(leases, closed):
  first, second = leases.claim(), leases.claim()
  assert first != second and (leases.get(first), leases.get(second)) == (0, 1)
  with pytest.raises(FullError, match="all 2 sessions"):
    leases.claim()
  leases.release(first)
  assert closed == [0] and leases.get(leases.claim()) == 2


def test_a_client_that_fell_silent_loses_its_session(leases, clock, closed):
  token = leases.claim()
  for clock.now in (9, 18, 27):
    leases.get(token, used=False)
  clock.now = 38
  with pytest.raises(GoneError, match="connect again"):
    leases.get(token)
  assert closed == [0] and len(leases) == 0


def test_signs_of_life_do_not_keep_a_session_that_nobody_uses(leases, clock, closed):
  token = leases.claim()
  for clock.now in range(0, 100, 9):
    leases.get(token, used=False)
  assert leases.remaining_s(token) == 1
  for clock.now in (100, 101):
    leases.sweep()
  assert closed == [0]


def test_marks_keep_it(leases, clock, closed):
  token = leases.claim()
  for clock.now in range(0, 500, 9):
    leases.get(token)
  assert leases.remaining_s(token) == 100 and closed == []


def test_without_a_token_it_is_the_only_one(leases):
  with pytest.raises(GoneError):
    leases.get(None)
  leases.claim()
  assert leases.get(None) == 0
  leases.claim()
  with pytest.raises(GoneError, match="no session was named"):
    leases.get(None)


def test_close_ends_all(leases, closed):
  leases.claim(), leases.claim()
  leases.close()
  assert closed == [0, 1]
