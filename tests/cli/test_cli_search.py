"""What commands that search do before they search."""

import pytest

from medlsam_jax.cli import search as searching
from medlsam_jax.medlam.bank import template_points


@pytest.mark.parametrize("built", [True, False], ids=["bank", "templates"])
def test_programs_are_compiled_from_when_the_bank_is_known_and_waited_for(
  medlsam, mini_templates, mini_bank, small_network_file, one_query, tmp_path, monkeypatch, built
):
  seen, run = [], template_points.run

  class Spy:
    def __init__(self, network, settings, templates, edge):
      seen.append((settings.finest_stride, templates, edge))

    def wait(self):
      seen.append("waited")

  monkeypatch.setattr(searching, "of_search", Spy)
  monkeypatch.setattr(template_points, "run", lambda *a, **k: seen.append("built") or run(*a, **k))
  given = ["--bank", mini_bank] if built else ["--templates", mini_templates, "--organs", "alpha", "--mode", "WPL"]
  words = [*given, "--network", small_network_file, "--query", one_query, "--out", tmp_path / "out"]
  assert medlsam("localize", *words).code == 0
  assert seen == [(2, 2, 8), *(() if built else ("built",)), "waited"]


@pytest.mark.parametrize("dtype", ["float32", "auto", "bfloat16"])
def test_whoever_asks_for_bfloat16_on_a_cpu_is_told_that_it_saves_nothing(medlsam, search, one_query, tmp_path, dtype):
  words = ["localize", *search, "--query", one_query, "--out", tmp_path / "out", f"--search.dtype={dtype}"]
  result = medlsam(*words)
  assert result.code == 0 and ("a CPU widens bfloat16" in result.out) == (dtype == "bfloat16")
