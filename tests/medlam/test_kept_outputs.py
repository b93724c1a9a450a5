"""A bank that grows leaves what was computed, so that a build that was killed goes on and gives the same bank."""

import os
import time

import numpy as np
import pytest

from medlsam_jax.cli.provenance import bank_sha256
from medlsam_jax.medlam.bank import kept_outputs as keeping
from medlsam_jax.medlam.bank import template_points
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.bank.kept_outputs import KeptOutputs

LIVER = ((3, 4, 5), (16, 12, 14))
KIDNEY = ((20, 8, 4), (23, 12, 9))


@pytest.fixture
def templates(make_template):
  return [make_template("a", liver=LIVER, kidney=KIDNEY), make_template("b", 1, liver=LIVER, kidney=KIDNEY)]


@pytest.fixture
def computed(monkeypatch):
  """Points that the network is asked about."""
  points = []
  original = template_points._outputs

  def outputs(network, patches, centres, edge):
    points.extend(map(tuple, centres.tolist()))
    return original(network, patches, centres, edge)

  monkeypatch.setattr(template_points, "_outputs", outputs)
  return points


class Killed(BaseException):
  """As SIGKILL: nothing is caught and written on the way out."""


def stop_after(points):
  def progress(done, total):
    if done >= points:
      raise Killed

  return progress


def build(network, templates, folder, **options):
  return Bank.build(network, templates, "WPL", kept=KeptOutputs(folder), **options)


def test_a_stopped_build_goes_on_and_gives_the_same_bank(network, templates, tmp_path, computed):
  whole = Bank.build(network, templates, "WPL")
  everything = len(computed)
  computed.clear()
  with pytest.raises(Killed):
    build(network, templates, tmp_path, progress=stop_after(12))
  before = len(computed)
  assert 0 < before < everything
  told = []
  again = build(network, templates, tmp_path, progress=lambda *step: told.append(step))
  assert len(computed) == everything  # nothing twice
  assert bank_sha256(again) == bank_sha256(whole)
  assert told[0][0] == 0 and told[-1] == (told[0][1], told[0][1])


def test_what_was_written_before_a_kill_is_used(network, templates, tmp_path, computed, monkeypatch):
  monkeypatch.setattr(keeping, "WRITE_EVERY_S", -1.0)  # after every step
  original = keeping.TemplateOutputs.write
  asked = []

  def write(self):
    asked.append(self)
    if len(asked) < 3:
      original(self)  # later ones are lost, as if the process had gone

  monkeypatch.setattr(keeping.TemplateOutputs, "write", write)
  with pytest.raises(Killed):
    build(network, templates, tmp_path, progress=stop_after(18))
  monkeypatch.setattr(keeping.TemplateOutputs, "write", original)
  computed.clear()
  fresh = KeptOutputs(tmp_path)
  Bank.build(network, templates, "WPL", kept=fresh)
  assert fresh.known == 12 and len(computed) == 24 - 12


def test_other_weights_scans_and_cubes_share_nothing(
  network, other_network, templates, tmp_path, computed, make_template
):
  build(network, templates, tmp_path)
  for change in ("weights", "scan", "cube"):
    computed.clear()
    other = [make_template("a", 7, liver=LIVER), make_template("b", 8, liver=LIVER)] if change == "scan" else templates
    build(
      other_network if change == "weights" else network,
      other,
      tmp_path,
      organs=["liver"],
      template_edge=16 if change == "cube" else None,
    )
    assert len(computed) == 12, change


def test_further_organs_of_the_same_template_use_what_is_there(network, templates, tmp_path, computed):
  build(network, templates, tmp_path, organs=["liver"])
  computed.clear()
  build(network, templates, tmp_path, organs=["kidney", "liver"])
  assert len(computed) == 12


@pytest.mark.parametrize("damage", ["cut", "letter", "other cube", "empty"])
def test_a_damaged_file_is_computed_again(network, templates, tmp_path, computed, damage):
  whole = build(network, templates, tmp_path)
  for path in tmp_path.rglob("*.safetensors"):
    if damage == "other cube":
      from safetensors.numpy import load_file, save_file

      save_file({name: array[:, :1] if array.ndim > 2 else array for name, array in load_file(path).items()}, path)
    else:
      path.write_bytes({"cut": path.read_bytes()[:-50], "letter": b"not arrays", "empty": b""}[damage])
  computed.clear()
  again = build(network, templates, tmp_path)
  assert len(computed) == 24 and bank_sha256(again) == bank_sha256(whole)


def test_two_builds_at_once_do_not_disturb_each_other(network, templates, tmp_path):
  first, second = KeptOutputs(tmp_path), KeptOutputs(tmp_path)
  whole = Bank.build(network, templates, "WPL", kept=first)
  inside = []

  def other_ends(done, total):
    if done and not inside:
      inside.append(done)
      first.clear()  # the other process is through and takes its files away

  again = Bank.build(network, templates, "WPL", kept=second, progress=other_ends)
  assert inside and bank_sha256(again) == bank_sha256(whole)
  second.clear()
  assert not tmp_path.exists() or list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_once_and_the_bank_is_built_all_the_same(
  network, templates, tmp_path, monkeypatch, recwarn
):
  def full(*_, **__):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(keeping, "save_file", full)
  bank = build(network, templates[:1], tmp_path)
  assert bank_sha256(bank) == bank_sha256(Bank.build(network, templates[:1], "WPL"))
  assert sum("No space left on device" in str(warning.message) for warning in recwarn) == 1
  assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_clearing_leaves_other_builds_and_drops_forgotten_ones(network, templates, tmp_path):
  mine, other = KeptOutputs(tmp_path), KeptOutputs(tmp_path)
  Bank.build(network, templates[:1], "WPL", kept=mine)
  Bank.build(network, templates[1:], "WPL", kept=other)
  forgotten = tmp_path / "forgotten"
  forgotten.mkdir()
  long_ago = time.time() - 86400 * (keeping.UNUSED_DAYS + 1)
  os.utime(forgotten, (long_ago, long_ago))
  mine.clear()
  assert len(list(tmp_path.iterdir())) == 1 and not forgotten.exists()
  other.clear()
  assert not tmp_path.exists()


def test_features_of_every_scale_come_back(network, templates, tmp_path):
  first, second = (build(network, templates, tmp_path).organs["liver"] for _ in range(2))
  assert set(first.features) == set(network.module.feature_scales)
  assert all(np.array_equal(volume, second.features[stride]) for stride, volume in first.features.items())
