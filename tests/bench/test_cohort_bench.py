"""The benchmark of cohorts: what it makes, and that a command that fails is no figure."""

import pytest

cohort = pytest.importorskip("bench.cohort")


def test_there_are_as_many_scans_as_asked_for(tmp_path, monkeypatch):
  monkeypatch.setattr(cohort, "SPACING_MM", (30.0, 30.0, 30.0))
  monkeypatch.setattr(cohort, "PEOPLE", 2)
  cohort.make_scans(tmp_path / "scans", 5)
  files = sorted((tmp_path / "scans").iterdir())
  assert len(files) == 5 and files[0].read_bytes() == files[2].read_bytes() != files[1].read_bytes()


def test_a_command_that_fails_gives_no_figure(tmp_path):
  with pytest.raises(RuntimeError, match="ended with 2"):
    cohort.measure(["localize", "--quiet"], tmp_path / "out", 1)
