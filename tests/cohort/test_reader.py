"""Reading in a child: the same scan as without it, and a bad file that is given up."""

import gzip
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medlsam_jax.cohort.reader import Limits, Reader, ReadingStopped, UnreadableError
from medlsam_jax.cohort.sketch import sketch_of
from medlsam_jax.io.scans import ListedScan, ReadingOptions, read_volume
from medlsam_jax.notices import MedlsamWarning

HOLD = """
import sys
from pathlib import Path
from medlsam_jax.cohort.reader import Limits, Reader
from medlsam_jax.io.scans import ListedScan, ReadingOptions
reader = Reader(ReadingOptions(), Limits())
reader._begun()
print(reader._child.pid, flush=True)
reader(ListedScan(Path(sys.argv[1]), "x"))
"""


@pytest.fixture
def make():
  """Makes readers, and ends them after the test."""
  readers = []

  def make(**limits):
    readers.append(Reader(ReadingOptions(), Limits(**limits)))
    return readers[-1]

  yield make
  for each in readers:
    each.close()


@pytest.fixture
def fifo(tmp_path):
  """A file that nobody ever writes to: whoever opens it hangs."""
  os.mkfifo(tmp_path / "hangs_ct.nii.gz")
  return ListedScan(tmp_path / "hangs_ct.nii.gz", "hangs")


def listed(path):
  return ListedScan(Path(path), Path(path).name)


def is_running(pid):
  try:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
  except FileNotFoundError:
    return False


def test_a_scan_comes_as_it_is_read_here(make, mini_queries):
  reader, scan = make(), listed(mini_queries / "q0_ct.nii.gz")
  volume, about = reader(scan)
  here = read_volume(scan.path)
  assert np.array_equal(volume.array, here.array) and volume.array.dtype == here.array.dtype
  assert volume.grid == here.grid and volume.source == here.source
  low, high = np.array(about.body_mm)
  corners = here.grid.world_from_voxel(np.array([[0, 0, 0], np.array(here.grid.shape) - 1]))
  assert (low >= corners.min(0) - 0.1).all() and (high <= corners.max(0) + 0.1).all() and (high - low > 20).all()
  assert np.array_equal(about.sketch.cells, sketch_of(here).cells) and about.sketch.cells.any()
  assert about.identity.bytes == scan.path.stat().st_size and about.peak_bytes > 1 << 20


def test_what_hangs_is_given_up_and_the_next_scan_is_read(make, fifo, mini_queries):
  reader = make(seconds=1.0)
  begun = time.monotonic()
  with pytest.raises(UnreadableError, match=r"longer than 1 s \(--scan-seconds\)"):
    reader(fifo)
  assert time.monotonic() - begun < 20
  assert reader(listed(mini_queries / "q0_ct.nii.gz"))[0].array.any()


def test_what_takes_too_much_memory_is_given_up_and_the_next_scan_is_read(make, tmp_path, mini_queries):
  small = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.diag([1.0, 1, 1, 1]))
  small.header.set_data_shape((2, 2, 2))
  header = bytearray(small.header.binaryblock)
  header[40:48] = np.array([3, 500, 500, 800], "<i2").tobytes()
  path = tmp_path / "big_ct.nii.gz"
  with gzip.open(path, "wb", compresslevel=1) as file:
    file.write(bytes(header) + bytes(4))
    for _ in range(800):
      file.write(bytes(500 * 500 * 2))
  reader = make(memory_bytes=200 << 20)
  with pytest.raises(UnreadableError, match=r"more than 0\.195312 GiB of memory \(--scan-memory\)"):
    reader(listed(path))
  assert reader(listed(mini_queries / "q0_ct.nii.gz"))[0].array.any()


@pytest.fixture
def three_gigabytes(tmp_path):
  """Writes the header of a scan of 3 GB; the rest is a hole in the file, which takes no disk."""

  def write(shape, dtype):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), dtype), np.diag([1.0, 1, 1, 1]))
    header = bytearray(image.header.binaryblock)
    header[40:48] = np.array([3, *shape], "<i2").tobytes()
    path = tmp_path / "big_ct.nii"
    path.write_bytes(header)
    os.truncate(path, 352 + np.prod(shape, dtype=int) * np.dtype(dtype).itemsize)
    assert path.stat().st_size > 3e9
    return listed(path)

  return write


@pytest.mark.slow
def test_a_scan_of_three_gigabytes_fails_by_its_voxels_or_its_memory(make, three_gigabytes, mini_queries):
  reader = make(memory_bytes=1 << 30)
  with pytest.raises(UnreadableError, match="1500 million voxels, over the limit of 600 million"):
    reader(three_gigabytes((1000, 1000, 1500), np.int16))
  with pytest.raises(UnreadableError, match=r"more than 1 GiB of memory \(--scan-memory\)"):
    reader(three_gigabytes((800, 800, 600), np.float64))
  assert reader(listed(mini_queries / "q0_ct.nii.gz"))[0].array.any()


def test_a_child_that_is_killed_once_is_forgiven_and_twice_is_not(make, mini_queries, monkeypatch):
  reader, scan = make(), listed(mini_queries / "q0_ct.nii.gz")
  begun = reader._begun
  deaths = [1]

  def begin():
    line = begun()
    if deaths and deaths.pop():
      reader._child.kill()
      reader._child.wait()
    return line

  monkeypatch.setattr(reader, "_begun", begin)
  assert reader(scan)[0].array.any()
  deaths[:] = [1, 1]
  with pytest.raises(UnreadableError, match="ended, twice"):
    reader(scan)


def test_what_cannot_be_read_says_why_and_warnings_come_through(make, tmp_path, doubtful_scan):
  reader = make()
  with pytest.raises(UnreadableError, match="not a NIfTI") as failure:
    (tmp_path / "letter.nii.gz").write_text("a letter")
    reader(listed(tmp_path / "letter.nii.gz"))
  assert failure.value.identity.bytes == 8 and not failure.value.defect
  with pytest.raises(UnreadableError, match="line 3: nothing"):
    reader(ListedScan(tmp_path / "x", "x", "l.txt, line 3: nothing"))
  with pytest.warns(MedlsamWarning, match="do not look like CT"):
    volume, _ = reader(listed(doubtful_scan))
  assert volume.doubts


@pytest.fixture
def doubtful_scan(tmp_path, mini_queries):
  """Its values are no HU, of which reading it warns."""
  image = nibabel.load(mini_queries / "q0_ct.nii.gz")
  array = np.asarray(image.dataobj).astype(np.float32)
  nibabel.save(nibabel.Nifti1Image(array - array.min(), image.affine), tmp_path / "mr_ct.nii.gz")
  return tmp_path / "mr_ct.nii.gz"


def test_closing_ends_a_reader_in_the_middle(make, fifo):
  reader = make()
  reader._begun()
  threading.Timer(0.3, reader.close).start()
  with pytest.raises(ReadingStopped):
    reader(fifo)
  with pytest.raises(ReadingStopped):
    reader(fifo)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_hanging_child_does_not_outlive_a_killed_parent(fifo):
  with subprocess.Popen([sys.executable, "-c", HOLD, fifo.path], stdout=subprocess.PIPE, text=True) as parent:
    child = int(parent.stdout.readline())
    assert is_running(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
  deadline = time.monotonic() + 20
  while is_running(child) and time.monotonic() < deadline:
    time.sleep(0.1)
  assert not is_running(child)
