"""A patient's name, number and date of birth in headers reach nothing that a run writes or prints, unless asked for."""

import base64
import gzip
import io
import json
import re
import shutil
import time
import zipfile

import nibabel
import numpy as np
import pytest
from dicom_files import write_slice
from starlette.testclient import TestClient

from medlsam_jax.cli import main as command_line
from medlsam_jax.serve import guard, listening, viewers

NAME, NUMBER, BORN = "Zzyzxova^Marketa", "ZZYZXOVA-7734", "18470113"
MARKS = ("zzyzx", "marketa", BORN)
FIELDS = {
  "PatientName": NAME, "PatientID": NUMBER, "PatientBirthDate": BORN, "OtherPatientNames": NAME, "PatientSex": "F",
  "PatientAddress": "Zzyzx Road 1", "PatientComments": "Zzyzxova, born 18470113", "PatientBirthName": NAME,
  "ReferringPhysicianName": NAME, "OperatorsName": NAME, "InstitutionName": "Zzyzx Clinic", "AccessionNumber": "ZZYZX1",
  "StudyDescription": "Head of Zzyzxova", "SeriesDescription": "ZZYZXOVA axial", "ProtocolName": "Zzyzxova's",
  "StudyID": "ZZYZX2", "ImageComments": NUMBER, "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.5",
  "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.6",
}  # fmt: skip


@pytest.fixture
def medlsam(capfd):
  """Runs a command; gives its exit code and all that it and its children printed, and keeps that."""
  said = []

  def run(*words, code=0):
    assert command_line.main([str(word) for word in words]) == code, capfd.readouterr().err
    out = capfd.readouterr()
    said.append(out.out + out.err)
    return said[-1]

  run.said = said
  return run


def marked_nifti(source, target):
  """The same image with marks in every text of its header, in an extension, and in the gzip's own."""
  image = nibabel.load(source)
  header = image.header
  header["descrip"], header["aux_file"] = f"{NAME} {BORN}".encode(), b"zzyzxova.dcm"
  header["db_name"], header["intent_name"] = b"zzyzxova", b"Zzyzxova"
  header.extensions.append(nibabel.nifti1.Nifti1Extension(6, f"{NAME} {NUMBER} {BORN}".encode()))
  content = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, header).to_bytes()
  with target.open("wb") as file, gzip.GzipFile("zzyzxova.nii", "wb", fileobj=file) as packed:
    packed.write(content)
  assert marks_in(target)


def marked_series(source, folder, **changes):
  """An image as a DICOM series of such a patient."""
  image = nibabel.as_closest_canonical(nibabel.load(source))
  array, (x_mm, y_mm, z_mm) = np.asarray(image.dataobj), image.header.get_zooms()
  first = image.affine @ [array.shape[0] - 1, array.shape[1] - 1, 0, 1]
  folder.mkdir(parents=True, exist_ok=True)
  for z in range(array.shape[2]):
    pixels = np.clip(np.rint(array[::-1, ::-1, z].T) + 1024, 0, 4000).astype(int)
    place = [-first[0], -first[1], first[2] + z * z_mm]
    own = {"PixelSpacing": [float(y_mm), float(x_mm)], "SliceThickness": float(z_mm), "InstanceNumber": z + 1}
    write_slice(folder / f"{changes.get('series', '1')[-2:]}_{z:03}.dcm", pixels, place, **(own | FIELDS | changes))
  assert marks_in(folder / f"{changes.get('series', '1')[-2:]}_000.dcm")


def contents(path):
  """All that stands in a file, its packed parts too."""
  raw = path.read_bytes()
  yield raw
  if raw[:2] == b"\x1f\x8b":
    yield gzip.decompress(raw)
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(io.BytesIO(raw)) as parts:
      yield from (parts.read(name) for name in parts.namelist())
  for packed in re.findall(rb"data:[\w/]+;base64,([A-Za-z0-9+/=]+)", raw):
    yield base64.b64decode(packed)


def marks_in(path):
  """Marks in a file or in its name, in any capitals, and in two bytes a letter."""
  texts = [path.name.encode(), *contents(path)]
  texts = [each for text in texts for each in (text.lower(), text.replace(b"\0", b"").lower())]
  return {mark for mark in MARKS for text in texts if mark.encode() in text}


def marked_files(folder):
  return {
    str(path.relative_to(folder)): found for path in folder.rglob("*") if path.is_file() and (found := marks_in(path))
  }


def test_marks_are_found_wherever_they_hide(tmp_path):
  (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"xx ZZYZXOVA"))
  np.savez_compressed(tmp_path / "b.npz", name="Marketa")
  (tmp_path / "c.html").write_text(f'<a href="data:text/csv;base64,{base64.b64encode(BORN.encode()).decode()}">')
  (tmp_path / "of_zzyzxova.txt").write_text("nothing")
  (tmp_path / "d.txt").write_text("nothing")
  assert set(marked_files(tmp_path)) == {"a.nii.gz", "b.npz", "c.html", "of_zzyzxova.txt"}


@pytest.fixture
def scans(tmp_path, mini_queries):
  """A NIfTI file, a series, a folder of two series, one of two that nobody can choose from, and half a file."""
  folder = tmp_path / "scans"
  folder.mkdir()
  marked_nifti(mini_queries / "q0_ct.nii.gz", folder / "q0_ct.nii.gz")
  (folder / "half_ct.nii.gz").write_bytes((folder / "q0_ct.nii.gz").read_bytes()[:-3000])
  return folder


@pytest.fixture
def series(tmp_path, mini_queries):
  folder = tmp_path / "series"
  marked_series(mini_queries / "q1_ct.nii.gz", folder / "plain")
  for name, kind in (("two", "DERIVED"), ("which", "ORIGINAL")):
    marked_series(mini_queries / "q1_ct.nii.gz", folder / name, series="1.2.3.11", ImageType=["ORIGINAL", "PRIMARY"])
    marked_series(mini_queries / "q1_ct.nii.gz", folder / name, series="1.2.3.12", ImageType=[kind, "PRIMARY"])
  damaged = folder / "damaged"
  marked_series(mini_queries / "q1_ct.nii.gz", damaged, PatientBirthDate=f"{BORN}x", RescaleSlope=0)
  return folder


@pytest.mark.slow
def test_no_name_of_a_patient_is_written_or_printed(
  medlsam, painter, mini_templates, mini_queries, small_network_file, scans, series, banks_grow_elsewhere, tmp_path
):
  out, templates = tmp_path / "out", tmp_path / "templates"
  templates.mkdir()
  for path in mini_templates.glob("*.nii.gz"):
    marked_nifti(path, templates / path.name)
  shutil.copy(mini_templates / "labels.json", templates)
  bank = out / "bank.safetensors"
  network = ["--network", small_network_file]
  medlsam("bank", "build", templates, "--out", bank, *network, "--mode", "WPL", "--organs", "alpha,beta")
  medlsam("bank", "info", bank)
  search = ["--bank", bank, *network]
  medlsam("segment", *search, "--query", scans, "--out", out / "files", code=1)
  said = medlsam("segment", *search, "--query", series, "--out", out / "series", code=1)
  assert "2 series" in said and "plain" in said, "the choice was offered"
  listed = tmp_path / "scans.txt"
  listed.write_text("\n".join(map(str, [scans / "q0_ct.nii.gz", scans / "half_ct.nii.gz", *sorted(series.iterdir())])))
  medlsam("segment", listed, *search, "--out", out / "cohort", code=1)
  truth = tmp_path / "truth"
  truth.mkdir()
  marked_nifti(mini_queries / "q0_seg.nii.gz", truth / "q0_seg.nii.gz")
  shutil.copy(mini_queries / "labels.json", truth)
  medlsam("evaluate", "--predictions", out / "files", "--truth", truth, "--out", out / "scores")
  medlsam("report", out / "scores", out / "files", "--out", out / "report.html")
  medlsam("report", out / "cohort", "--out", out / "cohort_report.html")
  notes = json.loads((out / "series" / "two_boxes.json").read_text())["scan"]["notes"]
  assert any("took series" in note for note in notes), "what was chosen is said, without its description"
  made = {path.name for path in out.rglob("*")}
  assert {
    "q0_preview.png",
    "plain_seg.nii.gz",
    "cohort.html",
    "manifest.jsonl",
    "evaluation.csv",
    "report.html",
  } <= made
  assert marked_files(out) == {} == marked_files(banks_grow_elsewhere.parent)
  assert [mark for mark in MARKS for text in medlsam.said if mark in text.lower()] == []


def asked(app, token, requests):
  """Text of the answers of a server's application; a job is waited for."""
  texts = []
  headers = {"Authorization": f"Bearer {token}", "Origin": "http://127.0.0.1:1"}
  with TestClient(app, base_url="http://127.0.0.1:1", headers=headers) as client:
    for method, path, body in requests:
      answer = client.request(method, path, json=body)
      assert answer.status_code < 300, answer.text
      texts.append(answer.text + str(answer.headers))
      while answer.status_code == 202 or (path.startswith("/api/jobs") and '"running"' in answer.text):
        path = f"/api/jobs/{answer.json()['job']}"
        time.sleep(0.1)
        answer = client.get(path)
        texts.append(answer.text)
      assert '"failed"' not in answer.text
  return texts


@pytest.mark.slow
def test_the_servers_tell_and_write_no_name_of_a_patient(
  medlsam, painter, mini_templates, small_network_file, scans, series, monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(guard, "new_token", lambda: "k" * 40)
  monkeypatch.setattr(viewers, "warm", lambda predictor: None)
  shutil.copytree(series / "plain", scans / "plain")
  (scans / "half_ct.nii.gz").unlink()
  templates = tmp_path / "marked"
  templates.mkdir()
  for path in mini_templates.glob("*.nii.gz"):
    marked_nifti(path, templates / path.name)
  shutil.copy(mini_templates / "labels.json", templates)
  box, six = [[60, 60, 120], [90, 100, 180]], [[75, 80, z] for z in (120, 180)]
  six += [[60, 80, 150], [90, 80, 150], [75, 60, 150], [75, 100, 150]]
  of_scans = [
    (method, f"/api/scans/{number}{path}", body)
    for number in (0, 1)
    for method, path, body in (
      ("GET", "", None), ("POST", "/points", {"points": {"beta": six}}),
      ("POST", "/segment", {"organs": {"alpha": {"box": box}}}),
      ("POST", "/add", {"organs": ["alpha"]}), ("PUT", "/decision", {"decision": "accept"}), ("GET", "", None),
    )
  ]  # fmt: skip
  said = []

  def run(requests):
    return lambda app, taken: said.extend(asked(app, "k" * 40, requests))

  network = ["--network", small_network_file]
  monkeypatch.setattr(listening, "run", run([("GET", "/api/desk", None), *of_scans, ("GET", "/api/desk", None)]))
  medlsam("view", scans, *network, "--templates", "mine", "--out", "out", "--port", 0, "--no-browser")
  monkeypatch.setattr(listening, "run", run([("GET", "/healthz", None), ("GET", "/medlsam/organs", None)]))
  medlsam("serve", *network, "--templates", templates, "--mode", "WPL", "--organs", "alpha", "--port", 0)
  assert {"q0_boxes.json", "plain_seg.nii.gz", "decisions.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
  assert marked_files(tmp_path / "out") == {}
  # a template is the scan that the person chose, as it is; nothing else of it is kept
  assert set(marked_files(tmp_path / "mine")) <= {"q0_ct.nii.gz"} and (tmp_path / "mine" / "plain_points.json").exists()
  assert len(said) > 16 and [mark for mark in MARKS for text in [*said, *medlsam.said] if mark in text.lower()] == []


def test_files_that_refer_to_the_source_carry_its_patient_and_no_other_does(
  medlsam, painter, mini_bank, small_network_file, series, tmp_path
):
  words = ["segment", "--bank", mini_bank, "--network", small_network_file, "--query", series / "plain"]
  medlsam(*words, "--out", tmp_path / "out", "--output-type", "nifti,dicom-seg,rtstruct")
  found = marked_files(tmp_path / "out")
  assert set(found) == {"plain_seg.dcm", "plain_rtstruct.dcm"} and all(
    {"zzyzx", BORN} <= marks for marks in found.values()
  )
  assert [mark for mark in MARKS for text in medlsam.said if mark in text.lower()] == []


def test_a_description_that_names_nobody_is_still_offered(
  medlsam, mini_bank, small_network_file, mini_queries, tmp_path
):
  for number, text in (("11", "axial, soft"), ("12", "axial, Zzyzxova")):
    marked_series(mini_queries / "q1_ct.nii.gz", tmp_path / "in", series=f"1.2.3.{number}", SeriesDescription=text)
  words = ["localize", "--bank", mini_bank, "--network", small_network_file, "--query", tmp_path / "in"]
  said = medlsam(*words, "--out", tmp_path / "out", code=1)
  assert "'axial, soft'" in said and "zzyzx" not in said.lower()
