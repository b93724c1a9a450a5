"""Without a terminal a line now and then says how far a stage is; with --quiet nothing does."""

import io
import threading

import pytest
from rich.console import Console

from medlsam_jax.cli import progress
from medlsam_jax.cli.progress import Lines, MovingBar, Pace, duration
from medlsam_jax.cli.terminal import Bar, Terminal


class Log(list):
  """Lines as they come; `wait` returns when there is one."""

  def __init__(self):
    super().__init__()
    self._came = threading.Event()

  def __call__(self, text):
    self.append(text)
    self._came.set()

  def wait(self):
    assert self._came.wait(60), "no line came"


@pytest.fixture
def clock(monkeypatch):
  """Time that a test sets."""
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  return now


def test_a_line_comes_while_a_step_lasts(monkeypatch):
  monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
  log = Log()
  lines = Lines(log, "reading scan a")
  log.wait()
  lines.close(whole=True)
  assert log[0].startswith("reading scan a: ") and "so far" in log[0]
  told = len(log)
  threading.Event().wait(0.05)
  assert len(log) == told  # nothing after the end


def test_a_line_gives_share_and_time_left(monkeypatch, clock):
  monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
  log = Log()
  lines = Lines(log, "building")
  for clock[0], done in ((100.0, 10), (110.0, 20), (120.0, 30)):
    lines.update(done, 100)
  log.clear()
  log._came.clear()
  log.wait()
  lines.close(whole=False)
  assert log[-1] == "building: 30%, 2 min so far, about 1 min 10 s left"


@pytest.mark.parametrize(("took", "told"), [(4.0, []), (65.0, ["segmenting: done in 1 min 5 s"])])
def test_the_end_of_a_long_stage_is_told(monkeypatch, clock, took, told):
  monkeypatch.setattr(progress, "LONG_STAGE_S", 5.0)
  log = Log()
  lines = Lines(log, "segmenting")
  clock[0] = took
  lines.close(whole=True)
  assert log == told


def test_a_stage_that_failed_is_not_called_done(monkeypatch, capsys):
  monkeypatch.setattr(progress, "LONG_STAGE_S", 0.0)
  with pytest.raises(ValueError, match="boom"), Terminal().bar("reading"):
    raise ValueError("boom")
  assert capsys.readouterr().err == ""
  with Terminal().bar("reading"):
    pass
  assert capsys.readouterr().err == "reading: done in 0 s\n"


def test_quiet_tells_nothing(monkeypatch, capsys):
  monkeypatch.setattr(progress, "LONG_STAGE_S", 0.0)
  with Terminal(quiet=True).bar("reading") as bar:
    bar(1, 2)
    bar.title("reading more")
  assert capsys.readouterr().err == ""


def test_a_log_that_cannot_be_written_ends_the_lines_alone(monkeypatch):
  monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
  tried = threading.Event()

  def say(_):
    tried.set()
    raise BrokenPipeError

  lines = Lines(say, "reading")
  assert tried.wait(60)
  lines._thread.join(60)
  assert not lines._thread.is_alive()


def test_the_first_step_compiles_and_is_not_counted(clock):
  pace = Pace()
  assert pace.left_s is None
  for clock[0], done in ((60.0, 6), (62.0, 12), (64.0, 18)):
    pace.step(done, 600)
  assert pace.each_s == pytest.approx(4 / 12) and pace.left_s == pytest.approx(194)


@pytest.mark.parametrize(
  ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (185, "3 min 5 s"), (7860, "2 h 11 min")]
)
def test_durations_read_as_people_say_them(seconds, text):
  assert duration(seconds) == text


def test_a_line_does_not_run_into_a_moving_bar():
  screen = io.StringIO()
  bar = MovingBar(Console(file=screen, force_terminal=True, width=60), "building")
  Bar(bar, Terminal()).say("bank: 12 points to compute")
  bar.close(whole=True)
  (line,) = (line for line in screen.getvalue().split("\n") if "points to compute" in line)
  assert line.split("\x1b[2K")[-1].startswith("bank: ") and "building" not in line.split("\x1b[2K")[-1]


def test_without_a_bar_the_line_is_printed_as_others(capsys):
  with Terminal().bar("building") as bar:
    bar.say("bank: 12 points to compute")
  assert capsys.readouterr().out == "bank: 12 points to compute\n"
