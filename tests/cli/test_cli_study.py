"""`medlsam study all`: a data set in, tables out, kept as they come; with a stand-in search and painter."""

import argparse
import csv
import json
import shutil
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
from medlsam_jax.cli.study_data import StudyData
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.errors import TemplateError
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


def asked(data, split=None):
  return argparse.Namespace(
    data=str(data), split=split, templates=None, pool=12, count=1, counts=(1,), organs=None, labels=None, scans=None
  )


def test_organs_that_nobody_names_are_called_by_their_values(tmp_path):
  data_set_files.structseg(tmp_path)
  (tmp_path / "labels.json").unlink()
  with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    read = StudyData.read(asked(tmp_path), Terminal(quiet=True))
  assert list(read.templates) == ["1"] and list(read.cases) == ["2"]
  assert read.values == {"2": {"label_1": 1, "label_2": 2, "label_5": 5}}
  assert any("labels.json is missing" in str(each.message) for each in said)


WORD = [
  "liver", "spleen", "left_kidney", "right_kidney", "stomach", "gallbladder", "esophagus", "pancreas", "duodenum",
  "colon", "intestine", "adrenal", "rectum", "bladder", "Head_of_femur_L", "Head_of_femur_R",
]  # fmt: skip
"""As `dataset.json` of the data set calls them."""
TEMPLATES = ("word_0010", "word_0036", "word_0053", "word_0064", "word_0113")


@pytest.fixture
def word(tmp_path):
  """WORD as it is laid out, all its organs in each scan."""
  root = tmp_path / "WORD"
  scan, labels = labelled("w")
  array = np.zeros_like(labels.array)
  for value in range(1, 17):  # beside each other, in steps of two voxels
    z, y = divmod(value - 1, 4)
    array[2 + 5 * z : 4 + 5 * z, 2 + 5 * y : 4 + 5 * y, 4:8] = value
  volumes = {"images": np.where(array > 0, 1000.0 + array, 0), "labels": array}
  volumes["images"][:, :1] = volumes["images"][:, -1:] = -1000
  for folder, volume in volumes.items():
    image = nibabel.Nifti1Image(volume.astype(np.int16).T, scan.grid.affine)
    nibabel.save(image, tmp_path / f"{folder}.nii.gz")
    for part, numbers in (("Tr", (2, 10, 36, 53, 64, 113)), ("Val", (1,)), ("Ts", (14,))):
      (root / f"{folder}{part}").mkdir(parents=True)
      for number in numbers:
        (root / f"{folder}{part}" / f"word_{number:04d}.nii.gz").hardlink_to(tmp_path / f"{folder}.nii.gz")
  values = {organ: value for value, organ in enumerate(WORD, 1)}
  (root / "dataset.json").write_text(json.dumps({"labels": values}))
  return root


@pytest.fixture
def published_study(study, word, monkeypatch, tmp_path):
  """Of mean boxes alone, which need no search; gives the page."""
  monkeypatch.setattr(work.pipeline, "localize", lambda *_, **__: {})

  def run(*words):
    monkeypatch.setattr(work, "Bank", types.SimpleNamespace(build=lambda *_, **__: StandInBank({}, "WPL", 12.0)))
    result = study("--tables", "localization", "--models", "none", "--count", "5", *words, root=word)
    assert result.code == 0, result.err
    return (tmp_path / "out" / "study.md").read_text(), result.err

  return run


NUMBERS = "IoU max-min 0.566, wall mm 9.9, ALE mm 17.5"


def test_word_is_split_as_published(published_study):
  page, _ = published_study()
  assert f"templates: {', '.join(TEMPLATES)}\n" in page
  assert "- queries: 2\n" in page and "split: published with WORD\n" in page
  assert NUMBERS in page and "same templates and organs" in page and "ours are of 2 queries." in page


@pytest.mark.parametrize("given", ["split", "templates", "splits_final.json", "one absent", "organs"])
def test_published_numbers_stand_beside_no_other_split_and_no_other_organs(published_study, word, tmp_path, given):
  words, why = [], "the split differs, published are the templates word_0010"
  other = {"templates": ["word_0002", *TEMPLATES[1:]], "queries": ["word_0001"]}
  if given == "split":
    (tmp_path / "split.json").write_text(json.dumps(other))
    words = ["--split", tmp_path / "split.json"]
  elif given == "templates":
    own = shutil.copytree(word, tmp_path / "own")
    shutil.rmtree(own / "imagesTs")
    words = ["--templates", own / "imagesTr"]
  elif given == "splits_final.json":
    (word / given).write_text(json.dumps([{"train": other["templates"], "val": other["queries"]}]))
  elif given == "one absent":
    (word / "imagesTr" / "word_0053.nii.gz").unlink()
    (word / "labelsTr" / "word_0053.nii.gz").unlink()
    words = ["--counts", "1,5"]  # another is taken in its place
  else:
    words, why = ["--organs", "liver,spleen"], "the organs differ, published means have kidney left"
  page, said = published_study(*words)
  assert NUMBERS not in page and f"The numbers published for WORD do not stand beside ours: {why}" in page
  if given == "splits_final.json":
    assert "splits_final.json\n" in page and "templates: word_0002, word_0036" in page
  if given == "one absent":
    assert (
      "published with WORD; 1 of its 5 scans not there\n" in page and "1 of its 5 scans not there: left out" in said
    )


def test_the_published_split_by_hand_is_the_published_split(published_study, tmp_path):
  (tmp_path / "split.json").write_text(json.dumps({"templates": TEMPLATES, "queries": ["word_0001", "word_0002"]}))
  page, _ = published_study("--split", tmp_path / "split.json")
  assert NUMBERS in page and "split.json" in page
  (tmp_path / "split.json").write_text(json.dumps({"templates": TEMPLATES, "queries": ["word_0001", "word_0014"]}))
  page, _ = published_study("--split", tmp_path / "split.json")
  assert NUMBERS not in page  # word_0014 is of imagesTs, which was no query


def test_numbered_cases_of_an_abdomen_are_no_heads_and_necks(study, data, tmp_path):
  root = tmp_path / "abdomen"
  for number in range(1, 16):
    (root / str(number)).mkdir(parents=True)
    (root / str(number) / "data.nii.gz").hardlink_to(data / "imagesTr" / "c0_0000.nii.gz")
    (root / str(number) / "label.nii.gz").hardlink_to(data / "labelsTr" / "c0.nii.gz")
  (root / "labels.json").write_text(json.dumps(VALUES))
  words = ["--tables", "localization", "--models", "none", "--count", "5", "--pool", "5"]
  assert study(*words, root=root).code == 0
  page = (tmp_path / "out" / "study.md").read_text()
  assert "split: the first 5 scans by name are templates" in page
  assert "StructSeg" not in page and "| published |" not in page


@pytest.mark.parametrize(("there", "split"), [(("s0001", "s0002"), True), (("s0001", "s0003"), False)])
def test_part_of_a_download_is_split_as_far_as_it_is_there(tmp_path, capsys, there, split):
  for name in there:
    data_set_files.put(tmp_path / name / "ct.nii.gz", data_set_files.scan())
    mask = (data_set_files.labels() == 5).astype(np.uint8)
    data_set_files.put(tmp_path / name / "segmentations" / "liver.nii.gz", mask)
  rows = "s0001;train\ns0003;train\ns0004;train\ns0002;test\ns0005;test\n"
  (tmp_path / "meta.csv").write_text(f"image_id;split\n{rows}")
  read = StudyData.read(asked(tmp_path), Terminal())
  assert list(read.templates) == ["s0001"] and list(read.cases) == [there[1]]
  if split:
    assert read.split.endswith("meta.csv; 3 of its 5 scans not there")
    assert "meta.csv; 3 of its 5 scans not there: left out" in capsys.readouterr().err
  else:
    assert read.split == "the first 1 scans by name are templates"
    assert "meta.csv: none of its queries is there, so it is not taken" in capsys.readouterr().err
  (tmp_path / "split.csv").write_text(f"image_id;split\n{rows}")
  with pytest.raises(TemplateError, match=r"called .*s0004, a template"):
    StudyData.read(asked(tmp_path, split=str(tmp_path / "split.csv")), Terminal(quiet=True))
