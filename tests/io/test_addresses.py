"""Scans behind addresses: listed, named, copied here and read as if they lay here. In a bucket in memory."""

import fsspec
import nibabel
import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.io import addresses
from medlsam_jax.io.scans import ListedScan, ReadingOptions, list_scans, read_volume


@pytest.fixture
def bucket(request):
  """A bucket of this test's own; gives its address and what writes a file there."""
  fs, root = fsspec.filesystem("memory"), f"/{request.node.name}"

  def put(name, content):
    fs.pipe_file(f"{root}/{name}", content if isinstance(content, bytes) else content.encode())
    return f"memory:/{root}/{name}"

  yield f"memory:/{root}", put
  fs.rm(root, recursive=True)


def test_what_an_address_is():
  assert all(map(addresses.is_address, ("gs://b/x", "s3://b", "memory://b", "file:///x")))
  assert not any(map(addresses.is_address, ("/a/b", "a.txt", "C:\\x", "://b", "gs:/b", "gs://", "")))


def test_a_list_s_lines_are_relative_to_it_and_may_lie_elsewhere(bucket, mini_queries):
  root, put = bucket
  for name in ("more/one_ct.nii.gz", "more/one_seg.nii.gz", "two_ct.nii.gz", "none/report.pdf"):
    put(name, "x")
  lines = ["# of May", "more", "two_ct.nii.gz", f"{root}/two_ct.nii.gz", "nowhere/", "gone_ct.nii.gz"]
  with pytest.warns(UserWarning, match=r"two_ct\.nii\.gz: listed twice"):
    scans = list_scans(put("list.txt", "\n".join(lines)))
  assert [(str(scan), scan.name) for scan in scans[:2]] == [
    (f"{root}/more/one_ct.nii.gz", "one"), (f"{root}/two_ct.nii.gz", "two"),
  ]  # fmt: skip
  assert scans[2].wrong == f"{root}/list.txt, line 5: {root}/nowhere/: no such file or folder"
  assert (scans[3].name, scans[3].wrong) == ("gone", "")
  with pytest.raises(InputError, match=rf"{root}/gone_ct\.nii\.gz: not there"):
    ReadingOptions().read(scans[3])


def test_a_list_here_names_scans_there(bucket, tmp_path, mini_queries):
  root, put = bucket
  put("a_ct.nii.gz", "x")
  (tmp_path / "list.txt").write_text(f"{root}/a_ct.nii.gz\n{mini_queries}\n")
  assert [scan.name for scan in list_scans(tmp_path / "list.txt")] == ["a", "q0", "q1"]


def test_a_scan_is_read_as_the_same_file_here_and_says_its_address(bucket, mini_queries, tmp_path):
  _, put = bucket
  address = put("q0_ct.nii.gz", (mini_queries / "q0_ct.nii.gz").read_bytes())
  scan = ReadingOptions().read(list_scans(address)[0])
  here = read_volume(mini_queries / "q0_ct.nii.gz")
  assert scan.source == address and np.array_equal(scan.array, here.array)
  letter = put("letter_ct.nii.gz", "a letter")
  with pytest.raises(InputError, match=rf"^{letter}: not a NIfTI"):
    ReadingOptions().read(ListedScan.at(letter))


def test_doubts_name_the_address(bucket, mini_queries, tmp_path):
  _, put = bucket
  image = nibabel.load(mini_queries / "q0_ct.nii.gz")
  array = np.asarray(image.dataobj)
  nibabel.save(nibabel.Nifti1Image(array - array.min(), image.affine), tmp_path / "mr_ct.nii.gz")
  address = put("mr_ct.nii.gz", (tmp_path / "mr_ct.nii.gz").read_bytes())
  with pytest.warns(UserWarning):
    scan = ReadingOptions().read(ListedScan.at(address))
  assert scan.doubts and all(doubt.startswith(f"{address}: ") for doubt in scan.doubts)


def test_a_folder_of_slices_is_a_scan(bucket, tmp_path):
  root, put = bucket
  for name in ("s/1.dcm", "s/deep/2.dcm"):
    put(name, name)
  (scan,) = list_scans(f"{root}/s/")
  assert (str(scan), scan.name) == (f"{root}/s", "s")
  copied = addresses.copy_here(str(scan), tmp_path)
  assert copied == tmp_path / "s" and (copied / "deep" / "2.dcm").read_text() == "s/deep/2.dcm"


def test_a_name_that_leads_out_of_its_folder_is_refused(bucket, tmp_path, monkeypatch):
  root, put = bucket
  put("s/1.dcm", "x")
  fs, _ = addresses.opened(f"{root}/s")
  monkeypatch.setattr(type(fs), "find", lambda self, path: [f"{path}/../../1.dcm"])
  with pytest.raises(InputError, match="outside its folder"):
    addresses.copy_here(f"{root}/s", tmp_path / "here")


def test_a_listing_asks_for_a_folder_once_and_sees_what_a_single_look_sees(bucket, monkeypatch):
  root, put = bucket
  files = [put(f"{name}_ct.nii.gz", name * 3) for name in "abc"]
  folder = put("s/1.dcm", "xy").rpartition("/")[0]
  fs, _ = addresses.opened(root)
  asked, ls = [], type(fs).ls
  monkeypatch.setattr(type(fs), "ls", lambda self, path, **how: asked.append(path) or ls(self, path, **how))
  listing = addresses.Listing()
  seen = [listing.see(each) for each in files]
  assert len(asked) == 1 and seen == [addresses.see(each) for each in files]
  assert [each.bytes for each in seen] == [3, 3, 3] and all(each.changed_ns > 1.7e18 for each in seen)
  assert (listing.see(folder).bytes, listing.see(folder).files) == (2, 1)
  with pytest.raises(addresses.NotThereError):
    listing.see(f"{root}/d_ct.nii.gz")


def test_a_driver_that_is_not_there_is_told_in_a_line(monkeypatch):
  with pytest.raises(InputError, match=r"nosuch://x: .*nosuch"):
    list_scans("nosuch://x")

  def missing(address):
    raise ImportError("Install gcsfs to access GCS")

  monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
  with pytest.raises(InputError, match=r"gs://b/x: .*Install gcsfs.*; run: pip install .*cloud"):
    list_scans("gs://b/x")
