"""A command line whose painter fills boxes, and scans that are broken in one way each."""

import gzip
import shutil
import types

import nibabel
import numpy as np
import pytest
from box_painter import BoxPainter

from medlsam_jax.cli import main as command_line


@pytest.fixture(autouse=True)
def a_slow_machine_prints_no_progress(monkeypatch):
  """What tests read must not depend on how long a stage took."""
  from medlsam_jax.cli import progress

  monkeypatch.setattr(progress, "LINE_EVERY_S", 1e6)
  monkeypatch.setattr(progress, "LONG_STAGE_S", 1e6)


@pytest.fixture(autouse=True, scope="session")
def banks_grow_elsewhere(tmp_path_factory):
  """Not in the cache of whoever runs the tests."""
  from medlsam_jax.cli import growing_bank

  folder = tmp_path_factory.mktemp("growing") / "banks"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(growing_bank, "folder", lambda: folder)
    yield folder


@pytest.fixture
def painter(monkeypatch):
  """Makes every command paint with `BoxPainter`, so that no weights are needed."""
  from medlsam_jax import pipeline
  from medlsam_jax.cli import networks_and_banks

  monkeypatch.setattr(networks_and_banks, "predictor_of", lambda model, terminal, dtype=None: BoxPainter())
  monkeypatch.setattr(
    pipeline, "predictor_of", lambda model, dtype=None: model if isinstance(model, BoxPainter) else BoxPainter()
  )


@pytest.fixture
def medlsam(capsys):
  """Runs a command; gives its exit code, stdout and stderr."""

  def run(*words):
    capsys.readouterr()
    code = command_line.main([str(word) for word in words])
    out = capsys.readouterr()
    return types.SimpleNamespace(code=code, out=out.out, err=out.err)

  return run


@pytest.fixture(scope="session")
def mini_bank(tmp_path_factory, mini_templates, small_network_file):
  """A bank of one organ of the mini templates."""
  path = tmp_path_factory.mktemp("bank") / "mini.safetensors"
  words = ["bank", "build", mini_templates, "--out", path, "--network", small_network_file, "--organs", "beta,alpha"]
  assert command_line.main([str(word) for word in (*words, "--mode", "WPL", "--quiet")]) == 0
  return path


@pytest.fixture
def search(mini_bank, small_network_file):
  """Options that make a search quick."""
  return ["--bank", mini_bank, "--network", small_network_file]


@pytest.fixture
def broken(tmp_path, mini_queries):
  """Writes a scan that is broken in the way asked for; gives its path."""
  source = mini_queries / "q0_ct.nii.gz"
  image = nibabel.load(source)
  array = np.asarray(image.dataobj).astype(np.float32)

  def save(array, affine=image.affine, name="bad_ct.nii.gz"):
    path = tmp_path / "scans" / name
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path

  def patched(*changes):
    path = save(array)
    content = bytearray(gzip.decompress(path.read_bytes()))
    for position, value in changes:
      content[position : position + len(value)] = value
    path.write_bytes(gzip.compress(bytes(content)))
    return path

  qform_alone = (252, np.array([1, 0], "<i2").tobytes()), (280, bytes(48))

  def make(how):
    if how == "not a NIfTI":
      path = save(array)
      path.write_text("this is a letter, not a scan")
      return path
    if how == "truncated":
      path = save(array)
      path.write_bytes(path.read_bytes()[:-2000])
      return path
    if how == "2D":
      return save(array[:, :, 5])
    if how == "4D":
      return save(np.stack([array, array], -1))
    if how == "RGB":
      colours = np.zeros(array.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
      return save(colours)
    if how in ("NaN", "infinite"):
      spoilt = array.copy()
      spoilt[3, 4, 5] = np.nan if how == "NaN" else np.inf
      return save(spoilt)
    if how == "zero spacing":
      return patched((80, np.array([0, 5, 6], "<f4").tobytes()), *qform_alone)
    if how == "spacing of metres":
      return patched((80, np.array([4000, 5000, 6000], "<f4").tobytes()), (123, bytes([2])), *qform_alone)
    if how == "singular affine":
      affine = image.affine.copy()
      affine[:3, 1] = affine[:3, 0]
      return patched((256, bytes(24)), (280, affine[:3].astype("<f4").tobytes()))
    if how == "MR":
      return save(array - array.min())
    if how == "tiny":
      return save(np.round(array[20:44, 16:36, 10:24]).astype(np.int16))
    raise AssertionError(how)

  return make


@pytest.fixture
def one_query(tmp_path, mini_queries):
  """A folder with one scan alone."""
  folder = tmp_path / "query"
  folder.mkdir()
  shutil.copy(mini_queries / "q0_ct.nii.gz", folder)
  return folder / "q0_ct.nii.gz"
