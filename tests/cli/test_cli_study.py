"""`medlsam study all`: a data set in, tables out, kept as they come; with a stand-in search and painter."""

import argparse
import csv
import json
import time
import types
import warnings

import data_set_files
import nibabel
import numpy as np
import pytest
from self_contained import loaded_by
from study_stand_ins import VALUES, StandInBank, install, labelled

from medlsam_jax.cli import studying
from medlsam_jax.evaluation.study import work

QUICK = ["--counts", "1,2", "--repeats", "2", "--intervals", "6", "--count", "2"]


@pytest.fixture
def data(tmp_path):
  """Four scans as nnU-Net has them, of two organs; the last has no spleen."""
  root = tmp_path / "data"
  for folder in ("imagesTr", "labelsTr"):
    (root / folder).mkdir(parents=True)
  for number in range(4):
    scan, labels = labelled(f"c{number}", tuple(VALUES) if number < 3 else ("liver",))
    for path, volume, dtype in (("imagesTr/c{}_0000", scan, np.int16), ("labelsTr/c{}", labels, np.uint8)):
      image = nibabel.Nifti1Image(volume.array.astype(dtype).T, volume.grid.affine)
      nibabel.save(image, root / f"{path.format(number)}.nii.gz")
  (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0} | VALUES}))
  return root


@pytest.fixture
def searched(monkeypatch):
  """Scans that were searched, in turn, by a stand-in that is one voxel beside."""
  names = []

  def by(bank, scan, settings):
    names.append(scan.source)
    return 1

  install(monkeypatch, work, by)
  return names


@pytest.fixture
def study(medlsam, data, searched, painter, small_network_file, tmp_path):
  def run(*words, root=data):
    call = ["study", "all", "--data", root, "--network", small_network_file, "--out", tmp_path / "out", *QUICK]
    return medlsam(*call, *words)

  return run


def table(folder, name):
  with (folder / f"{name}.csv").open() as file:
    return list(csv.DictReader(file))


def test_every_table_is_made_and_the_same_command_asks_nothing_again(study, searched, tmp_path):
  out = tmp_path / "out"
  result = study("--models", "litemedsam,medsam,templates=gone.safetensors")
  assert result.code == 0, result.err
  page = (out / "study.md").read_text()
  for name in ("localization", "templates", "scales", "intervals", "models", "boxes", "crops"):
    assert table(out, name) and f"{name}.csv" in result.out
  assert "- split: the first 2 scans by name are templates" in page and "templates: c0, c1" in page
  means = {row["line"]: row for row in table(out, "localization") if row["organ"] == "mean over organs"}
  assert float(means["MedLAM"]["box_iou"]) == pytest.approx(9 / 11, abs=1e-5) and means["MedLAM"]["n"] == "3"
  html = (out / "study.html").read_text()
  assert html.count("<section") == 7 and "<svg" in html and not loaded_by(html)
  missing = {row["line"]: row["missing"] for row in table(out, "models") if row["missing"]}
  assert missing == {
    "MedSAM": "its weights are not here; run: medlsam weights get medsam",
    "templates": "no such file, and no name of weights",
  }
  before, number = {path.name: path.read_text() for path in out.glob("*.csv")}, len(searched)
  assert study("--models", "litemedsam,medsam,templates=gone.safetensors").code == 0
  assert len(searched) == number and {path.name: path.read_text() for path in out.glob("*.csv")} == before


def test_a_run_that_is_cut_goes_on(study, searched, tmp_path):
  words = ["--tables", "localization,crops", "--models", "none"]
  result = study(*words, "--seconds", "0")
  assert result.code == 2 and "nothing is measured yet: give it more --seconds" in result.err and not searched
  assert study(*words, "--scans", "1").code == 0
  kept = (tmp_path / "out" / "study.jsonl").read_text().splitlines()
  assert study(*words).code == 0
  assert (tmp_path / "out" / "study.jsonl").read_text().splitlines()[: len(kept)] == kept
  assert {row["people"] for row in table(tmp_path / "out", "crops")} == {"1", "2"}  # spleen, and the others


def test_a_bank_that_takes_too_long_ends_and_is_no_failure(study, searched, monkeypatch, tmp_path):
  told, late = [], [0.0]

  class Slow(StandInBank):
    @classmethod
    def build(cls, *arguments, progress, **more):
      told.append(progress)
      late[0] = 1000.0
      progress(1, 2)
      return StandInBank.build(*arguments, progress=progress, **more)

  clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + late[0], perf_counter=time.perf_counter)
  monkeypatch.setattr(studying, "time", clock)
  monkeypatch.setattr(work, "Bank", Slow)
  words = ["--tables", "crops", "--models", "none", "--scans", "1"]
  result = study(*words, "--seconds", "900")
  assert result.code == 2 and "give it more --seconds" in result.err and len(told) == 1 and not searched
  assert study(*words).code == 0 and len(told) == 2


def test_what_an_answer_depends_on_asks_anew(study, searched, data, tmp_path):
  words = ["--tables", "crops", "--models", "none", "--scans", "1"]
  assert study(*words).code == 0
  number = len(searched)
  assert study(*words, "--seed", "7").code == 0 and len(searched) == 2 * number
  labels = data / "labelsTr" / "c0.nii.gz"  # of a template
  image = nibabel.load(labels)
  nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), labels.with_name("x.nii.gz"))
  labels.with_name("x.nii.gz").rename(labels)
  assert study(*words).code == 0 and len(searched) == 3 * number


def test_a_scan_that_cannot_be_read_counts_as_failed(study, data, tmp_path):
  (data / "imagesTr" / "c3_0000.nii.gz").write_bytes(b"not a scan")
  result = study("--tables", "localization", "--models", "none")
  assert result.code == 1
  liver = next(row for row in table(tmp_path / "out", "localization") if row["organ"] == "liver")
  assert (liver["people"], liver["failed"]) == ("2", "1") and float(liver["box_iou"]) == pytest.approx(9 / 22, abs=1e-5)
  assert "c3: " in (tmp_path / "out" / "study.md").read_text().partition("## Failed")[2]


def test_a_split_says_who_is_a_template(study, data, tmp_path):
  (tmp_path / "split.json").write_text('{"templates": ["c2", "c0"], "queries": ["c3"]}')
  words = ["--tables", "crops", "--models", "none"]
  assert study(*words, "--split", tmp_path / "split.json").code == 0
  page = (tmp_path / "out" / "study.md").read_text()
  assert "templates: c2, c0" in page and "- queries: 1" in page
  (data / "splits_final.json").write_text('[{"train": ["c1"], "val": ["c2", "c3"]}]')
  assert study(*words).code == 0
  page = (tmp_path / "out" / "study.md").read_text()
  assert "templates: c1\n" in page and "splits_final.json" in page and "- queries: 2" in page


def test_templates_of_a_folder_of_their_own(study, data, mini_templates, tmp_path):
  words = ["--tables", "crops", "--models", "none", "--organs", "liver"]
  assert study(*words, "--templates", data / "imagesTr" / "c1_0000.nii.gz").code == 0
  page = (tmp_path / "out" / "study.md").read_text()
  assert "templates: c1\n" in page and "- queries: 3" in page and "organs: liver\n" in page


@pytest.mark.parametrize(
  ("words", "why"),
  [
    (["--tables", "crops,colours"], "--tables: colours unknown"),
    (["--split", "gone.json"], "gone.json"),
    (["--counts", "1,x"], "'x' is not a whole number"),
    (["--organs", "heart"], "'heart'"),
    (["--network", "gone.safetensors"], "gone.safetensors"),
    (["--tables", "models"], "nothing of models can be measured here"),
    (["--tables", "models", "--models", "medsam"], "MedSAM: its weights are not here"),
  ],
)
def test_a_wrong_call_is_one_line(study, words, why):
  result = study("--models", "none", *words)
  assert result.code == 2 and why in result.err and "Traceback" not in result.err


def test_a_split_of_other_scans_is_told(study, tmp_path):
  for text, why in (('{"templates": ["z"]}', "called z, a template"), ('{"templates": ["c0"], "queries": ["z"]}', "z")):
    (tmp_path / "split.json").write_text(text)
    result = study("--split", tmp_path / "split.json")
    assert result.code == 2 and why in result.err
  (tmp_path / "split.json").write_text('{"templates": ["c0", "c1", "c2", "c3"]}')
  result = study("--split", tmp_path / "split.json")
  assert result.code == 2 and "all labelled scans are templates" in result.err


def test_a_folder_that_is_no_data_set_and_labels_without_images(study, data, tmp_path):
  (tmp_path / "letters").mkdir()
  (tmp_path / "letters" / "a.txt").write_text("dear")
  result = study(root=tmp_path / "letters")
  assert result.code == 2 and "laid out as TotalSegmentator" in result.err
  for path in (data / "imagesTr").iterdir():
    path.unlink()
  result = study()
  assert result.code == 2 and "labels without images" in result.err


def test_organs_that_nobody_names_are_called_by_their_values(tmp_path):
  from medlsam_jax.cli.study_data import StudyData
  from medlsam_jax.cli.terminal import Terminal

  data_set_files.structseg(tmp_path)
  (tmp_path / "labels.json").unlink()
  asked = argparse.Namespace(
    data=str(tmp_path), split=None, templates=None, pool=12, count=1, counts=(1,), organs=None, labels=None, scans=None
  )
  with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    read = StudyData.read(asked, Terminal(quiet=True))
  assert list(read.templates) == ["1"] and list(read.cases) == ["2"]
  assert read.values == {"2": {"label_1": 1, "label_2": 2, "label_5": 5}}
  assert any("labels.json is missing" in str(each.message) for each in said)


def test_word_is_split_as_published(study, data, tmp_path):
  word = tmp_path / "WORD"
  for part, numbers in (("Tr", (2, 10, 36, 53, 64, 113)), ("Val", (1,)), ("Ts", (14,))):
    for number in numbers:
      for folder, source in (("images", "imagesTr/c0_0000"), ("labels", "labelsTr/c0")):
        (word / f"{folder}{part}").mkdir(parents=True, exist_ok=True)
        (word / f"{folder}{part}" / f"word_{number:04d}.nii.gz").hardlink_to(data / f"{source}.nii.gz")
  (word / "dataset.json").write_text(json.dumps({"labels": VALUES}))
  assert study("--tables", "localization", "--models", "none", "--count", "5", root=word).code == 0
  page = (tmp_path / "out" / "study.md").read_text()
  assert "templates: word_0010, word_0036, word_0053, word_0064, word_0113\n" in page
  assert "- queries: 2\n" in page and "split: published with WORD" in page
  assert "IoU max-min 0.566, wall mm 9.9, ALE mm 17.5" in page
