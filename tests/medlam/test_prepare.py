"""Prepared sets: what is written is read back, stopped runs go on, bad scans and damaged shards are named."""

import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.io.scans import ReadingOptions, list_scans, read_volume
from medlsam_jax.medlam.pretraining import crop_batches, crops, prepare, shards
from medlsam_jax.train import loading
from medlsam_jax.working_grid import to_working_grid


@pytest.fixture
def listed(tmp_path, mini_queries):
  """A list of two scans, one that is a letter, and one that is missing."""
  for name in ("q0", "q1"):
    shutil.copy(mini_queries / f"{name}_ct.nii.gz", tmp_path)
  (tmp_path / "letter_ct.nii.gz").write_text("this is a letter")
  path = tmp_path / "list.txt"
  path.write_text("q0_ct.nii.gz\nletter_ct.nii.gz\nmissing_ct.nii.gz\nq1_ct.nii.gz\nq0_ct.nii.gz\n")
  return path


def test_a_prepared_scan_is_the_scan_and_bad_ones_are_reported(listed, tmp_path):
  out = str(tmp_path / "set")
  with pytest.warns(UserWarning, match=r"q0_ct.nii.gz: listed twice; taken once"):
    sources = list_scans(listed)
  report = prepare.prepare(sources, out, scans_per_shard=1)
  assert report.scans == 2 and [Path(b["source"]).name for b in report.bad] == ["letter_ct.nii.gz", "missing_ct.nii.gz"]
  assert json.loads((tmp_path / "set" / "report.json").read_text())["bad"] == list(report.bad)
  index = shards.read_index(out)
  assert len(index.shards) == 2 and shards.check(out) == [] and not (tmp_path / "set" / "parts").exists()
  reader = shards.ShardReader(index, range(2))
  for position, row in enumerate(index.scans):
    wanted = to_working_grid(read_volume(row["source"])).intensity
    assert row["shape"] == list(wanted.shape) and len(row["sha256"]) == 64
    np.testing.assert_allclose(reader[position].intensity / 65535, wanted, atol=1e-5)


def test_a_stopped_preparation_redoes_no_finished_scan(listed, tmp_path, monkeypatch):
  listed.write_text(listed.read_text().rpartition("q0")[0])
  out, sources = str(tmp_path / "set"), list_scans(listed)
  original, made = prepare.prepare_one, []

  def dies_at_the_last(scan, *how):
    if scan.name == "q1":
      raise KeyboardInterrupt
    made.append(scan.name)
    return original(scan, *how)

  monkeypatch.setattr(prepare, "prepare_one", dies_at_the_last)
  with pytest.raises(KeyboardInterrupt):
    prepare.prepare(sources, out)
  monkeypatch.setattr(prepare, "prepare_one", lambda scan, *how: made.append(scan.name) or original(scan, *how))
  report = prepare.prepare(sources, out)
  assert (report.scans, report.kept) == (2, 1) and made.count("q0") == 1
  assert prepare.prepare(sources, out).kept == 2


def test_slices_and_files_that_changed_in_place_are_prepared_again(tmp_path):
  from dicom_files import write_series

  stored = np.random.default_rng(0).integers(0, 2000, (6, 20, 24))
  series = write_series(tmp_path / "export" / "study" / "series", stored)
  out = str(tmp_path / "set")

  def kept():
    return prepare.prepare(list_scans(tmp_path / "export"), out).kept

  assert (kept(), kept()) == (0, 1)
  write_series(series, np.flip(stored, 1))
  assert (kept(), kept()) == (0, 1)
  (series / "005.dcm").unlink()
  assert kept() == 0
  keys = {prepare.key_of(place) for place in (series, series / "001.dcm", tmp_path / "export")}
  assert len(keys) == 3
  (series / "002.dcm").write_bytes((series / "002.dcm").read_bytes())
  assert not keys & {prepare.key_of(place) for place in (series, series / "001.dcm", tmp_path / "export")}
  assert prepare.prepare(list_scans(series), out, options=ReadingOptions(hu_offset=-24.0)).kept == 0


def test_doubts_of_a_prepared_scan_are_reported(tmp_path):
  import nibabel

  labels = np.random.default_rng(0).integers(0, 5, (30, 30, 30)).astype(np.uint8)
  nibabel.save(nibabel.Nifti1Image(labels, np.diag([3.0, 3, 3, 1])), tmp_path / "labels_of_a_ct.nii.gz")
  report = prepare.prepare(list_scans(tmp_path), str(tmp_path / "set"))
  assert "label map" in report.doubtful[0]["doubt"]
  assert shards.read_index(str(tmp_path / "set")).scans[0]["doubts"][0] == report.doubtful[0]["doubt"]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # fsspec before 2026.9 leaves its copies open
def test_an_address_of_another_file_system_works(mini_queries, tmp_path):
  fsspec.filesystem("memory").rm("/bucket", recursive=True) if fsspec.filesystem("memory").exists("/bucket") else None
  prepare.prepare([mini_queries / "q0_ct.nii.gz"], "memory://bucket/set")
  index = shards.read_index("memory://bucket/set")
  assert shards.ShardReader(index, [0], cache=str(tmp_path))[0].name == "q0"


def test_nothing_but_bad_scans_is_an_error_that_names_the_report(tmp_path):
  with pytest.raises(InputError, match=r"no scan of 1 could be used; see .*report.json.*missing"):
    prepare.prepare([tmp_path / "missing_ct.nii.gz"], str(tmp_path / "set"))
  with pytest.raises(InputError, match="empty"):
    prepare.prepare([], str(tmp_path / "set"))
  assert [path.name for path in (tmp_path / "set").rglob("*")] == ["report.json"]


def test_a_preparation_that_was_stopped_at_its_first_scan_leaves_no_folder(mini_queries, tmp_path, monkeypatch):
  def stopped(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(prepare, "prepare_one", stopped)
  with pytest.raises(KeyboardInterrupt):
    prepare.prepare([mini_queries / "q0_ct.nii.gz"], str(tmp_path / "new" / "set"))
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("damage", ["deleted", "emptied", "truncated", "changed"])
def test_a_damaged_shard_is_named_by_check_and_by_the_loader(mini_queries, tmp_path, damage):
  out = str(tmp_path / "set")
  prepare.prepare([mini_queries / "q0_ct.nii.gz"], out)
  shard = tmp_path / "set" / "scans-00000.arrayrecord"
  content = shard.read_bytes()
  if damage == "deleted":
    shard.unlink()
  elif damage == "emptied":
    shard.write_bytes(b"")
  elif damage == "truncated":
    shard.write_bytes(content[: len(content) // 2])
  else:
    shard.write_bytes(content[:70_000] + bytes(100) + content[70_100:])
  assert any("scans-00000" in problem for problem in shards.check(out))
  source = crop_batches.CropBatches(
    [crop_batches.Prepared(shards.read_index(out), 1.0)], crop_batches.Plan(0, 1, 1, edge=16), range(1), 3
  )
  with pytest.raises(InputError, match="scans-00000"):
    list(loading.batches(source, 0, threads=1))


def test_lanes_share_out_the_shards_and_one_that_is_alone_serves_all():
  def index(count):
    return shards.Index("x", tuple({"records": 2, "file": str(n)} for n in range(count)), ())

  five = [{n for n, _ in crop_batches.Prepared(index(5), 1.0).lane(lane, 2).positions} for lane in range(2)]
  assert five == [{0, 2, 4}, {1, 3}]
  one = [{n for n, _ in crop_batches.Prepared(index(1), 1.0).lane(lane, 2).positions} for lane in range(2)]
  assert one == [{0}, {0}]


def test_eight_bits_take_less_and_read_back_within_half_a_step(listed, tmp_path):
  with pytest.warns(UserWarning, match="listed twice"):
    sources = list_scans(listed)
  for bits in (16, 8):
    prepare.prepare(sources, str(tmp_path / str(bits)), bits=bits)
  wide, narrow = (shards.read_index(str(tmp_path / str(bits))) for bits in (16, 8))
  assert narrow.shards[0]["bytes"] < 0.6 * wide.shards[0]["bytes"]
  scans = [shards.ShardReader(index, [0])[0] for index in (wide, narrow)]
  assert [scan.intensity.dtype for scan in scans] == [np.uint16, np.uint8]
  exact, rounded = (scan.intensity / scan.scale for scan in scans)
  assert 0 < np.abs(exact - rounded).max() <= 0.5 / 255 + 1e-5
  assert shards.check(str(tmp_path / "8")) == []
  cubes = [crops.cut_cube(scan, np.array(scan.intensity.shape) // 2, 16) for scan in scans]
  np.testing.assert_allclose(cubes[0], cubes[1], atol=0.5 / 255 + 1e-5)
  sets = [crop_batches.Prepared(index, 1.0) for index in (narrow, wide)]
  mixed = [*sets, loading.InMemory((scans[0],), 1.0)]
  for chosen, kind in ((sets[:1], np.uint8), (sets, np.uint16), (mixed, np.float32)):
    batch = crop_batches.CropBatches(chosen, crop_batches.Plan(0, 1, 1, edge=16), range(1), 1)[0]
    assert batch.cubes.dtype == kind
  with pytest.raises(InputError, match=r"holds scans of 8 bits, not 16; choose another folder"):
    prepare.prepare(sources, str(tmp_path / "8"))


def test_records_of_before_bits_were_told_are_of_sixteen(mini_queries):
  made = crops.TrainingScan.of("q0", to_working_grid(read_volume(mini_queries / "q0_ct.nii.gz")).intensity)
  line, _, values = shards.encode(made).partition(b"\n")
  head = json.loads(line)
  del head["bits"]
  read = shards.decode(json.dumps(head).encode() + b"\n" + values)
  np.testing.assert_allclose(read.intensity / 65535, made.intensity, atol=1e-5)


def test_scans_made_in_memory_become_a_set_once(tmp_path):
  made = [
    crops.TrainingScan.of(str(seed), np.random.default_rng(seed).random((9, 8, 7), dtype=np.float32))
    for seed in range(3)
  ]
  folder = str(tmp_path / "set")
  prepare.write_set(made, folder, bits=8, scans_per_shard=2)
  index = shards.read_index(folder)
  assert [shard["records"] for shard in index.shards] == [2, 1] and shards.check(folder) == []
  assert [row["name"] for row in index.scans] == ["0", "1", "2"]
  for position, scan in enumerate(made):
    np.testing.assert_allclose(
      shards.ShardReader(index, [0, 1])[position].intensity / 255, scan.intensity, atol=0.5 / 255 + 1e-6
    )
  before = (tmp_path / "set" / "index.json").read_bytes()
  prepare.write_set(made[:1], folder, bits=8)
  assert (tmp_path / "set" / "index.json").read_bytes() == before
