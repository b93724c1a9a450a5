"""Banks by name: built once from scans in the package, kept, joined with the user's own templates."""

import json
import shutil

import numpy as np
import pytest

import medlsam_jax as ml
from medlsam_jax.errors import TemplateError
from medlsam_jax.geometry import Volume
from medlsam_jax.io import packaged_banks as packaged
from medlsam_jax.medlam.bank.bank import Bank


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv("MEDLSAM_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache"


@pytest.fixture
def mini_region(mini_templates, monkeypatch):
  """The mini templates in place of the head and neck."""
  monkeypatch.setattr(packaged, "folder_of", lambda name: mini_templates)
  return mini_templates


@pytest.fixture
def localize(medlsam, small_network_file, mini_queries, tmp_path):
  def run(*words):
    query = mini_queries / "q0_ct.nii.gz"
    return medlsam("localize", "--network", small_network_file, "--query", query, "--out", tmp_path / "out", *words)

  return run


def organs_found(tmp_path):
  return sorted(json.loads((tmp_path / "out" / "q0_boxes.json").read_text())["organs"])


def count_builds(monkeypatch):
  original, built = Bank.build, []
  monkeypatch.setattr(Bank, "build", classmethod(lambda _, *a, **k: built.append(1) or original(*a, **k)))
  return built


def test_a_named_bank_is_built_once_and_kept(localize, mini_region, own_cache, tmp_path, monkeypatch):
  built = count_builds(monkeypatch)
  first = localize("--bank", "headneck")
  assert first.code == 0, first.err
  assert organs_found(tmp_path) == ["alpha", "beta", "gamma"] and "kept for the next time" in first.out
  assert localize("--bank", "headneck", "--organs", "beta").code == 0
  assert organs_found(tmp_path) == ["beta"] and len(built) == 1
  assert localize("--bank", "headneck", "--mode", "SPL").code == 0
  assert len(built) == 2 and len(list((own_cache / "banks").iterdir())) == 2


def test_a_kept_bank_that_is_damaged_is_built_again(localize, mini_region, own_cache, monkeypatch):
  built = count_builds(monkeypatch)
  assert localize("--bank", "headneck").code == 0
  (kept,) = (own_cache / "banks").iterdir()
  kept.write_bytes(kept.read_bytes()[:100])
  assert localize("--bank", "headneck").code == 0 and len(built) == 2


def test_own_templates_stand_beside_those_of_the_package(localize, mini_region, tmp_path):
  own = tmp_path / "own"
  own.mkdir()
  for ending in ("ct", "seg"):
    shutil.copy(mini_region / f"t1_{ending}.nii.gz", own / f"mine_{ending}.nii.gz")
  (own / "labels.json").write_text(json.dumps({"alpha": 1, "delta": 2, "gamma": 3}))
  result = localize("--bank", "headneck", "--templates", own)
  assert result.code == 0 and "3 templates (t0, t1, mine)" in result.out
  assert organs_found(tmp_path) == ["alpha", "beta", "delta", "gamma"]
  organs = json.loads((tmp_path / "out" / "q0_boxes.json").read_text())["organs"]
  assert len({organ["label"] for organ in organs.values()}) == 4
  missing = localize("--bank", "headneck", "--templates", own, "--organs", "alpha,omega")
  assert missing.code == 2 and "omega" in missing.err and str(own) in missing.err
  table = localize("--bank", "headneck", "--templates", own, "--labels", own / "labels.json")
  assert table.code == 2 and "--labels would name the organs of headneck too" in table.err


def test_a_finished_bank_still_stands_alone(localize, mini_bank, mini_templates):
  result = localize("--bank", mini_bank, "--templates", mini_templates)
  assert result.code == 2 and "headneck or torso" in result.err


def test_an_installation_without_the_scans_says_so(localize, monkeypatch, tmp_path):
  monkeypatch.setattr(packaged.importlib.resources, "files", lambda _: tmp_path)
  result = localize("--bank", "torso")
  assert result.code == 2 and "lacks the template scans of torso; install the package again" in result.err
  with pytest.raises(TemplateError, match="'leg' is no bank in the package; there are headneck, torso"):
    ml.packaged_templates("leg")


def test_the_packaged_scans_are_what_they_are_said_to_be():
  head, torso = ml.packaged_templates("headneck"), ml.packaged_templates("torso", ["liver", "femur_left"])
  organs = {"brainstem", "spinal_cord", "parotid_gland_right", "parotid_gland_left", "esophagus", "larynx", "mandible"}
  assert len(head) == 5 and all(set(template.organs) == organs for template in head)
  assert len(torso) == 1 and set(torso[0].organs) == {"liver", "femur_left"}
  for template in (*head, *torso):
    scan: Volume = template.scan
    assert not scan.doubts and scan.array.min() >= -1024 and scan.array.max() <= 2000
    assert (np.unique(scan.array) % 8 == 0).all()
  query = ml.read_volume(next(packaged.folder_of(packaged.DEMO_QUERY).glob("*_ct.nii.gz")))
  assert not query.doubts and query.source not in {template.scan.source for template in head}
