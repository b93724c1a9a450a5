"""Jobs run one after the other, tell how far they are, and end in a line for people whatever happens."""

import threading

import pytest

from medlsam_jax.errors import InputError, TemplateError
from medlsam_jax.view.jobs import Jobs

PATIENCE_S = 30


def ended(job):
  assert job.ended.wait(PATIENCE_S)
  return job.state()


def test_a_job_gives_its_result_and_those_behind_it_wait():
  order, go = [], threading.Event()
  jobs = Jobs(order.append)

  def first(job):
    job.stage("reading")
    job(1, 4)
    go.wait(PATIENCE_S)
    order.append("first")
    return {"answer": 1}

  one = jobs.start("one", first)
  two = jobs.start("two", lambda job: order.append("second") or {})
  assert two.state()["state"] == "waiting"
  go.set()
  assert ended(one) | {"text": "reading", "done": 1, "total": 4} == ended(one)
  assert one.state()["result"] == {"answer": 1} and ended(two)["state"] == "done" and order == ["first", "second"]
  assert jobs[one.number] is one


def test_what_a_person_can_mend_is_told_and_what_not_is_reported_without_its_words():
  reported = []
  jobs = Jobs(reported.append)

  def wrong(job):
    raise TemplateError("no templates\n yet")

  def broken(job):
    raise ValueError("the name of a patient")

  assert ended(jobs.start("a", wrong))["error"] == "no templates yet" and not reported
  said = ended(jobs.start("b", broken))
  assert "patient" not in said["error"] and "ValueError" in said["error"] and isinstance(reported[0], ValueError)
  assert ended(jobs.start("c", lambda job: {}))["state"] == "done"


def test_a_job_can_be_stopped_between_two_steps():
  at_work, go = threading.Event(), threading.Event()

  def work(job):
    at_work.set()
    go.wait(PATIENCE_S)
    job(1, 2)
    return {}

  jobs = Jobs(lambda error: None)
  job = jobs.start("a", work)
  at_work.wait(PATIENCE_S)
  job.stop()
  go.set()
  assert ended(job)["error"] == "stopped; nothing was changed"


@pytest.mark.parametrize(
  ("error", "said"), [(None, "stopped; saved"), (TemplateError("bad bank"), "bad bank; saved"), (OSError(), "saved")]
)
def test_what_was_done_before_a_job_ended_is_told(error, said):
  def work(job):
    job.stage("saving")
    job.keeps("saved in templates")
    if error is not None:
      raise error
    job.stop()
    job.stage("checking")

  told = ended(Jobs(lambda error: None).start("a", work))["error"]
  assert said in told and "nothing was changed" not in told


def test_a_job_of_an_earlier_program_is_unknown():
  with pytest.raises(InputError, match="started anew"):
    Jobs(lambda error: None)[7]
