"""Checkpoints and records that a power cut or a full disk has damaged: the newest whole one is used, and it is said."""

import gc
import json
import shutil
import sys

import pytest
import small_run

from medlsam_jax.errors import ConfigError, InputError, WeightsError
from medlsam_jax.medlam.pretraining import export, step
from medlsam_jax.notices import MedlsamWarning
from medlsam_jax.train import checkpoint
from medlsam_jax.train.records import Records
from medlsam_jax.train.sharding import make_mesh

# of several arrays that cannot be read, the rest end after orbax has closed the loop that they report to
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True, scope="module")
def drops_what_is_left_of_reads():
  """Here, not while another module's tests run."""
  yield
  before, sys.unraisablehook = sys.unraisablehook, lambda _: None
  gc.collect()
  sys.unraisablehook = before


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
  small_run.replace_network_and_scans(monkeypatch.setattr)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A run's folder with checkpoints of steps 1 and 2, and what a restart of the run would want."""
  folder = tmp_path_factory.mktemp("written")
  with pytest.MonkeyPatch.context() as patch:
    small_run.replace_network_and_scans(patch.setattr)
    settings = small_run.settings()
    mesh = make_mesh(settings.mesh)
    state = step.init_state(settings, mesh)
  kept = checkpoint.Checkpoints(folder / "checkpoints", settings.checkpoint)
  for number in (1, 2):
    metrics = {"validation_error_mm": 9.0} if number == 2 else {}
    kept.save(number, state, settings, {"next_step": number, "drawn_from": "x"}, metrics)
  kept.close()
  return folder, settings, mesh


def largest(place):
  return max((file for file in (place / "state").rglob("d/*") if file.is_file()), key=lambda file: file.stat().st_size)


def cut(place):
  largest(place).write_bytes(largest(place).read_bytes()[:100])


def zero(place):
  """What a file system leaves of blocks that were never written."""
  for file in (place / "state").rglob("d/*"):
    file.write_bytes(bytes(file.stat().st_size))


DAMAGES = {
  "a data file cut": cut,
  "a data file gone": lambda place: largest(place).unlink(),
  "data of zeros": zero,
  "no names of its arrays": lambda place: (place / "state" / "_METADATA").unlink(),
  "names of its arrays cut": lambda place: (place / "state" / "_METADATA").write_text('{"tree'),
  "no state": lambda place: shutil.rmtree(place / "state"),
  "settings cut": lambda place: (place / "config" / "data.json").write_text('{"a'),
  "no position": lambda place: (place / "loader" / "data.json").write_text("{}"),
  "an empty folder": lambda place: [
    shutil.rmtree(part) if part.is_dir() else part.unlink() for part in place.iterdir()
  ],
}


@pytest.fixture(params=DAMAGES.values(), ids=DAMAGES.keys())
def damage(request):
  return request.param


def opened(tmp_path, written, *damages):
  """The checkpoints of a copy of the run, some steps damaged."""
  shutil.copytree(written[0], tmp_path, dirs_exist_ok=True)
  for number, how in damages:
    how(tmp_path / "checkpoints" / str(number))
  return checkpoint.Checkpoints(tmp_path / "checkpoints", written[1].checkpoint)


def test_the_checkpoint_before_a_damaged_one_is_used_and_both_are_named(tmp_path, written, damage):
  kept = opened(tmp_path, written, (2, damage))
  with pytest.warns(MedlsamWarning, match=r"step 2: .*going on from step 1.*2\.damaged"):
    state, _, position = kept.restore(step.abstract_state(*written[1:]))
  assert position["next_step"] == 1 and int(state.step) == 0
  kept.save(2, state, written[1], {"next_step": 2, "drawn_from": "x"}, {})
  kept.close()
  assert checkpoint.steps_in(tmp_path / "checkpoints") == [1, 2]
  assert (tmp_path / "checkpoints" / "2.damaged").is_dir()


def test_reads_that_the_library_leaves_begun_are_not_warned_of(tmp_path, written, monkeypatch):
  kept, read = opened(tmp_path, written), checkpoint.Checkpoints._read

  async def metadata():
    pass

  def stumbling(self, number, shapes):
    if number == 2:
      left = metadata()
      raise ValueError(f"damaged, with {left.__name__} not awaited")
    return read(self, number, shapes)

  monkeypatch.setattr(checkpoint.Checkpoints, "_read", stumbling)
  with pytest.warns(MedlsamWarning, match="going on from step 1") as caught:
    kept.restore(step.abstract_state(*written[1:]))
  kept.close()
  assert [each.category for each in caught] == [MedlsamWarning]


def test_without_a_whole_checkpoint_the_run_ends_and_says_what_to_delete(tmp_path, written):
  kept = opened(tmp_path, written, (1, cut), (2, DAMAGES["no names of its arrays"]))
  with pytest.raises(InputError, match=r"step 2: .*step 1: .*delete .*checkpoints"):
    kept.restore(step.abstract_state(*written[1:]))
  kept.close()
  assert checkpoint.steps_in(tmp_path / "checkpoints") == [1, 2]  # nothing was touched


def test_another_config_is_not_taken_for_damage(tmp_path, written):
  kept = opened(tmp_path, written)
  wider = small_run.settings(objectives={"vicreg": {"width": 16}})
  with pytest.raises(ConfigError, match=r"does not fit this config \(.*heads/vicreg.*\(8,\).*needs \(16,\)"):
    kept.restore(step.abstract_state(wider, written[2]))
  kept.close()
  assert checkpoint.steps_in(tmp_path / "checkpoints") == [1, 2]


def test_metrics_that_cannot_be_read_cost_the_metrics_alone(tmp_path, written):
  with pytest.warns(MedlsamWarning, match=r"step 2 does not count"):
    kept = opened(tmp_path, written, (2, lambda place: (place / "metrics" / "metrics").write_text('{"a')))
  _, _, position = kept.restore(step.abstract_state(*written[1:]))
  assert position["next_step"] == 2 and kept.best() is None
  kept.close()


def test_an_export_takes_the_newest_whole_checkpoint(tmp_path, written):
  opened(tmp_path, written, (2, cut)).close()
  with pytest.warns(MedlsamWarning, match=r"step 2: .*taking step 1"):
    assert export.read_network(tmp_path / "checkpoints")[2] == 1
  with pytest.raises(WeightsError, match=r"step 2: .*there are \[1, 2\]"):
    export.export(tmp_path, tmp_path / "out.safetensors", step=2)


def lines_of(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_that_a_full_disk_has_cut_is_left_out(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
  records = Records(tmp_path, small_run.settings())
  records(2, {"loss": 1.0})
  records(2, {"validation_error_mm": 5.0})
  records.close()
  assert lines_of(tmp_path) == [
    {"step": 1, "loss": 2.0},
    {"step": 2, "loss": 1.0},
    {"step": 2, "validation_error_mm": 5.0},
  ]
