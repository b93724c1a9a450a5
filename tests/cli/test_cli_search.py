"""What commands that search do before they search."""

import pytest

from medlsam_jax.cli import search
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

  monkeypatch.setattr(search, "of_search", Spy)
  monkeypatch.setattr(template_points, "run", lambda *a, **k: seen.append("built") or run(*a, **k))
  given = ["--bank", mini_bank] if built else ["--templates", mini_templates, "--organs", "alpha", "--mode", "WPL"]
  words = [*given, "--network", small_network_file, "--query", one_query, "--out", tmp_path / "out"]
  assert medlsam("localize", *words).code == 0
  assert seen == [(2, 2, 8), *(() if built else ("built",)), "waited"]
