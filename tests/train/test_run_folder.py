"""A run's folder behind an address, which the tests keep in memory: no bucket is asked."""

import dataclasses
import json

import fsspec
import jax
import numpy as np
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from medlsam_jax.errors import OutputError
from medlsam_jax.train import run_folder
from medlsam_jax.train.late_metrics import LateMetrics, NotFinite
from medlsam_jax.train.records import Records
from medlsam_jax.train.settings import RunSettings


class Bucket(MemoryFileSystem):
  """What epath reaches as gs://; like a bucket, it has no appending."""

  protocol = ("gs", "gcs")
  store, pseudo_dirs = {}, [""]

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(path.removeprefix("gs://").removeprefix("gcs://"))

  def _open(self, path, mode="rb", **more):
    assert "a" not in mode, "object stores cannot append"
    return super()._open(path, mode, **more)


@pytest.fixture(params=["local", "address"])
def folder(request, tmp_path, monkeypatch):
  if request.param == "local":
    return epath.Path(tmp_path / "run")
  from etils.epath import backend

  for name in ("gs", "gcs"):
    fsspec.register_implementation(name, Bucket, clobber=True)
  monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", lambda name: Bucket())
  Bucket.store.clear()
  Bucket.pseudo_dirs[:] = [""]
  return epath.Path("gs://bucket/run")


def test_records_of_a_resumed_run_have_each_step_once(folder):
  for steps in ((1, 2, 3), (3, 4)):
    records = Records(folder, RunSettings(name="mine"))
    for step in steps:
      records(step, {"loss": step / 2})
    records.close()
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  assert lines == [{"step": step, "loss": step / 2} for step in (1, 2, 3, 4)]
  assert json.loads((folder / "config.json").read_text())["name"] == "mine"
  events = list((folder / "tensorboard").iterdir())
  assert events and all(len(file.read_bytes()) > 50 for file in events)


def test_a_file_is_there_whole_or_not_at_all(folder):
  folder.mkdir(parents=True)
  with run_folder.whole_file(folder / "a.json") as part:
    part.write_text("{}")
  with pytest.raises(KeyboardInterrupt), run_folder.whole_file(folder / "b.json") as part:
    part.write_text("{")
    raise KeyboardInterrupt
  assert (folder / "a.json").read_text() == "{}"
  assert [file.name for file in folder.iterdir()] == ["a.json"]


def test_a_batch_whose_loss_is_no_number_is_kept(folder):
  from linear_run import Points

  folder.mkdir(parents=True)
  late, batch = LateMetrics(folder), Points(jax.numpy.ones((2, 3)), jax.numpy.zeros(2))
  late.push(7, batch, {"loss": jax.numpy.float32(np.nan)})
  with pytest.raises(NotFinite, match="step 7"):
    late.all()
  (file,) = folder.iterdir()
  with file.open("rb") as content:
    np.testing.assert_array_equal(np.load(content)["x"], np.ones((2, 3)))


def test_scores_and_embeddings_are_read_back(folder, monkeypatch, tmp_path):
  from medlsam_jax.sam.finetuning import scores_file

  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
  folder.mkdir(parents=True)
  scores_file.write_scores(folder / "validation.json", {"2": {"scan": {"liver": 0.5}}})
  assert scores_file.read_scores(folder / "validation.json") == {"2": {"scan": {"liver": 0.5}}}
  with run_folder.whole_file(folder / "x.npy") as part, part.open("wb") as file:
    np.save(file, np.arange(5))
  np.testing.assert_array_equal(np.load(run_folder.local_copy(str(folder / "x.npy")), mmap_mode="r"), np.arange(5))


def test_a_folder_that_cannot_be_written_is_said_before_long_work(folder, monkeypatch):
  run_folder.require_writable_run(folder)
  assert not folder.exists() or not list(folder.iterdir())

  def refuse(*_, **__):
    raise PermissionError("no rights")

  monkeypatch.setattr(Bucket, "_open", refuse)
  monkeypatch.setattr("tempfile.mkdtemp", refuse)
  with pytest.raises(OutputError, match="no rights"):
    run_folder.require_writable_run(folder)


def test_settings_name_no_network():
  assert {field.name for field in dataclasses.fields(RunSettings)} == {
    "name", "seed", "optimizer", "mesh", "cluster", "checkpoint", "log_every_steps", "validate_every_steps",
  }  # fmt: skip
