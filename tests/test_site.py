"""The site builds without a warning, every page is in its contents, and it fetches nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytest.importorskip("sphinx")
pytest.importorskip("myst_nb")
pytest.importorskip("furo")


def build(source, out):
  call = [sys.executable, "-m", "sphinx", "-c", source / "docs", "-W", "--keep-going", "-q", source, out]
  return subprocess.run(call, capture_output=True, text=True, cwd=source)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  out = tmp_path_factory.mktemp("site")
  run = build(ROOT, out)
  assert run.returncode == 0, run.stderr
  return out


@pytest.mark.slow
def test_every_page_is_built(site):
  pages = {path.relative_to(ROOT).with_suffix(".html") for path in (ROOT / "docs").glob("*.md")}
  pages |= {path.relative_to(ROOT).with_suffix(".html") for path in (ROOT / "notebooks").glob("*.ipynb")}
  assert not [page for page in pages if not (site / page).is_file()]
  assert 'url=docs/index.html"' in (site / "index.html").read_text()


@pytest.mark.slow
def test_every_public_name_is_described(site):
  import medlsam_jax as ml

  text = (site / "docs" / "api.html").read_text()
  assert not [
    name for name in ml.__all__ if f'id="medlsam_jax.{name}"' not in text and f"medlsam_jax.{name}." not in text
  ]
  assert "Float[ndarray" in text and "jaxlib._jax" not in text


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site):
  for page in site.rglob("*.html"):
    loaded = re.findall(
      r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)|<link[^>]+href="(https?:[^"]+)', page.read_text()
    )
    assert not loaded, f"{page.name} loads {loaded}"


@pytest.mark.slow
def test_a_link_to_nowhere_is_an_error(tmp_path):
  (tmp_path / "docs").mkdir()
  conf = (ROOT / "docs" / "conf.py").read_text().replace("Path(__file__).resolve().parents[1]", f"Path({str(ROOT)!r})")
  (tmp_path / "docs" / "conf.py").write_text(conf)
  (tmp_path / "docs" / "index.md").write_text("# A page\n\n[nowhere](nowhere.md)\n")
  run = build(tmp_path, tmp_path / "out")
  assert run.returncode != 0 and "nowhere" in run.stderr
