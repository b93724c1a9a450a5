import dataclasses
import runpy
import shutil
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax import loading
from medlsam_jax.errors import OutputError, WeightsError
from medlsam_jax.io.weights.fetch import CACHE_VARIABLE, PUBLISHED, cached_weights, digest_of
from medlsam_jax.io.weights.weights_file import read_weights, write_weights
from medlsam_jax.sam.network.sam import Sam

GOLDEN = Path(__file__).parent / "golden"
CHECKPOINT = GOLDEN / "medlam_random.pth"
SHA256 = "8d1f083bc1244ddc29995d10b31fa854012f89bb2cd16f79d3dbab26e560bcfc"
HEADER = {
  "format": "medlsam_jax 1",
  "kind": "medlam",
  "base_channels": "2",
  "patch_edge": "64",
  "working_grid": "published",
  "source_name": "medlam_random.pth",
  "source_sha256": SHA256,
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "medlam.safetensors"
  assert loading.convert(CHECKPOINT, path) == HEADER
  return path


def test_a_converted_file_loads_as_the_published_one_does(converted):
  ours, theirs = loading.load(converted), loading.load(str(CHECKPOINT))
  assert ours.sha256 == theirs.sha256
  assert ours.header == HEADER and ours.kind == theirs.kind == "medlam"
  assert ours.source == str(converted) and theirs.source == str(CHECKPOINT)
  assert ours.module.base_channels == 2 and ours.module.patch_edge == 64
  assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(ours.variables))


def test_the_loaded_network_gives_the_published_position(converted):
  golden = np.load(GOLDEN / "medlam_forward.npz")
  patches = np.random.default_rng(int(golden["seed"])).random((2, 1, 64, 64, 64), dtype=np.float32)
  network = loading.load(converted)
  forward = jax.jit(lambda variables, x: network.module.apply(variables, x, feature_scales=()).position)
  position = forward(network.variables, jnp.moveaxis(jnp.asarray(patches), 1, -1))
  np.testing.assert_allclose(position, golden["fc_position"], atol=1e-4)


def test_another_kind_than_wanted_is_refused(converted, tmp_path):
  for path in (converted, CHECKPOINT):
    with pytest.raises(WeightsError, match="wanted kind litemedsam, but the file is medlam"):
      loading.load(path, kind="litemedsam")
  with pytest.raises(WeightsError, match="wanted kind litemedsam"):
    loading.convert(CHECKPOINT, tmp_path / "x.safetensors", "litemedsam")
  assert not list(tmp_path.iterdir())


def test_a_kind_without_a_network_here_says_so(converted, tmp_path):
  variables, header = read_weights(converted)
  write_weights(tmp_path / "x.safetensors", variables, header | {"kind": "sam-vit-z"})
  with pytest.raises(WeightsError, match=r"sam-vit-z, for which this version has no network yet; it has: medlam"):
    loading.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda params: params.pop("fc3"), r"it lacks: params\.fc3\.bias, params\.fc3\.kernel"),
    (lambda params: params.update(extra={"bias": np.ones(1, np.float32)}), r"it has besides: params\.extra\.bias"),
    (
      lambda params: params["fc3"].update(bias=np.ones(4, np.float32)),
      r"other shapes for: params\.fc3\.bias \(4,\) instead of \(3,\)",
    ),
  ],
)
def test_weights_that_do_not_fill_the_network_exactly_are_refused(converted, tmp_path, change, words):
  variables, header = read_weights(converted)
  change(variables["params"])
  write_weights(tmp_path / "x.safetensors", variables, header)
  with pytest.raises(WeightsError, match=words):
    loading.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("header", [{"kind": "medlam"}, {"kind": "medlam", "base_channels": "two", "patch_edge": "64"}])
def test_a_header_without_sizes_is_refused(converted, tmp_path, header):
  write_weights(tmp_path / "x.safetensors", read_weights(converted)[0], header)
  with pytest.raises(WeightsError, match="header lacks base_channels"):
    loading.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"base_channels": "0"}, "base_channels 0"),
    ({"base_channels": "-3"}, "base_channels -3"),
    ({"patch_edge": "0"}, "patch_edge 0"),
    ({"patch_edge": "-64"}, "patch_edge -64"),
    ({"patch_edge": "1600000"}, "patch_edge 1600000"),
    ({"working_grid": "x"}, "working_grid 'x'"),
  ],
)
def test_a_header_of_impossible_settings_is_refused_by_name(converted, tmp_path, change, words):
  variables, header = read_weights(converted)
  write_weights(tmp_path / "x.safetensors", variables, header | change)
  with pytest.raises(WeightsError, match=rf"x\.safetensors: its header says .*{words}"):
    loading.load(str(tmp_path / "x.safetensors"))


def test_what_cannot_be_converted_leaves_nothing(converted, tmp_path):
  with pytest.raises(WeightsError, match="converted weights file already"):
    loading.convert(converted, tmp_path / "x.safetensors")
  with pytest.raises(OutputError, match="give the output that ending"):
    loading.convert(CHECKPOINT, tmp_path / "x.pth")
  with pytest.raises(WeightsError, match="no such file"):
    loading.convert(tmp_path / "missing.pth", tmp_path / "x.safetensors")
  with pytest.raises(OutputError, match="missing"):
    loading.convert(CHECKPOINT, tmp_path / "missing" / "x.safetensors")
  assert not list(tmp_path.iterdir())


def test_names_that_are_not_there_say_what_to_do(tmp_path, monkeypatch):
  monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
  with pytest.raises(WeightsError, match="run: medlsam weights get litemedsam"):
    loading.load("litemedsam")
  with pytest.raises(WeightsError, match=r"nothing: no such file, and no name of weights \(open, tiny, litemedsam"):
    loading.load("nothing")


def test_get_converts_an_offline_copy_into_the_cache_once(tmp_path, monkeypatch):
  monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
  monkeypatch.setitem(PUBLISHED, "medlam", dataclasses.replace(PUBLISHED["medlam"], digest=f"sha256:{SHA256}"))
  path = loading.get("medlam", file=CHECKPOINT)
  assert path == cached_weights("medlam") and list(path.parent.iterdir()) == [path]
  assert loading.load("medlam").source == "medlam"
  before = path.stat().st_mtime_ns
  monkeypatch.setattr(loading, "fetch_published", lambda *a: pytest.fail("nothing to fetch"))
  assert loading.get("medlam") == path and path.stat().st_mtime_ns == before


def test_get_refuses_other_bytes_and_unknown_names_and_leaves_nothing(tmp_path, monkeypatch):
  monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
  with pytest.raises(WeightsError, match="not the published litemedsam file"):
    loading.get("litemedsam", file=CHECKPOINT)
  with pytest.raises(WeightsError, match="'nothing' is no name of published weights; known: litemedsam"):
    loading.get("nothing")
  assert not list((tmp_path / "weights").iterdir())


def test_get_says_when_the_cache_cannot_be_written(tmp_path, monkeypatch):
  (tmp_path / "file").touch()
  monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
  with pytest.raises(OutputError, match="cannot be written"):
    loading.get("litemedsam", file=CHECKPOINT)


def test_the_script_converts_and_fails_with_a_message(tmp_path, monkeypatch, capsys):
  script = str(Path(__file__).parents[1] / "tools" / "convert_sam_weights.py")
  output = tmp_path / "x.safetensors"
  for source, code in ((CHECKPOINT, 0), (output, 1)):
    monkeypatch.setattr(sys, "argv", [script, str(source), str(output)])
    with pytest.raises(SystemExit) as ended:
      runpy.run_path(script, run_name="__main__")
    assert ended.value.code == code
  said = capsys.readouterr()
  assert "medlam" in said.out and SHA256 in said.out and read_weights(output)[1] == HEADER
  assert "converted weights file already" in said.err and "Traceback" not in said.err


@pytest.fixture(scope="module")
def litemedsam_path():
  path = cached_weights("litemedsam")
  if not path.is_file():
    pytest.skip("needs the released weights: medlsam weights get litemedsam")
  return path


def test_released_litemedsam_loads_folded_or_for_training(litemedsam_path, tmp_path):
  folded, kept = loading.load("litemedsam"), loading.load(litemedsam_path, for_training=True)
  assert isinstance(folded.module, Sam) and folded.module.folded and not kept.module.folded
  assert "batch_stats" not in folded.variables and "batch_stats" in kept.variables
  assert folded.header["source_sha256"] == PUBLISHED["litemedsam"].digest.partition(":")[2]
  parameters = sum(leaf.size for leaf in jax.tree.leaves(kept.params))
  assert 9.7e6 < parameters < 9.9e6
  moved = shutil.copy(litemedsam_path, tmp_path / "own.safetensors")
  assert loading.load(moved).sha256 == folded.sha256 and digest_of(moved) == digest_of(litemedsam_path)


def test_loading_makes_no_warnings(converted):
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    loading.load(converted)


@pytest.mark.parametrize(("name", "most_mb", "width"), [("open", 14, 16), ("tiny", 4, 8)])
def test_networks_are_in_the_package(name, most_mb, width):
  path, source = loading._find(name)
  assert source == name and path.stat().st_size <= most_mb << 20
  network = loading.load(name)
  assert network.kind == "medlam" and network.module.base_channels == width


def test_changes_in_the_package_name_weights_that_can_be_fetched(monkeypatch, tmp_path):
  monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
  assert loading.BELONGS_TO.keys() <= loading.PACKAGED.keys()
  for name, base in loading.BELONGS_TO.items():
    path, _ = loading._find(name)
    header = loading.read_weights(path)[1]
    assert header[loading.CHANGES_OF] == base in PUBLISHED and path.stat().st_size < 2 << 20
    with pytest.raises(WeightsError, match=f"medlsam weights get {base}"):
      loading.load(name)


def test_a_packaged_network_that_is_missing_says_how_to_mend_it(monkeypatch, tmp_path):
  monkeypatch.setattr(loading.importlib.resources, "files", lambda _: tmp_path)
  with pytest.raises(WeightsError, match="lacks the network open; install the package again"):
    loading.load("open")
