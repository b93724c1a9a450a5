"""Settings of the site (`make docs`). Pages are Markdown that GitHub shows too, in `docs/` and where they belong.

The source folder is the repository, so that a page may link to any other; `include_patterns` says what is a page.
"""

import importlib
import os
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # signatures are read, nothing is computed

project = "medlsam_jax"
author = "the medlsam_jax authors"
project_copyright = "2026, the medlsam_jax authors"
version = release = importlib.import_module("medlsam_jax").__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
  "README.md",
  "CHANGELOG.md",
  "CONTRIBUTING.md",
  "bench/README.md",
  "docs/**.md",
  "medlsam_jax/banks/README.md",
  "medlsam_jax/weights/*.md",
  "notebooks/*.ipynb",
]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks hold their outputs; tests run them

default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = f"medlsam_jax {version}"
html_show_sourcelink = False
html_copy_source = False


def _lead_to_the_first_page(app: Sphinx, error: Exception | None) -> None:
  """The folder's own page: pages lie below it as they do in the repository."""
  if error is None and app.builder.format == "html":
    target = app.builder.get_target_uri(root_doc)
    page = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={target}">'
    (Path(app.outdir) / "index.html").write_text(f'{page}<a href="{target}">medlsam_jax</a>\n', encoding="utf-8")


def _readable(app: Sphinx, what: str, name: str, thing: object, options: object, said: str, returns: str) -> object:
  """Arrays by the names that everybody has for them."""
  del app, what, name, thing, options
  return [text and text.replace("jaxlib._jax.Array", "jax.Array") for text in (said, returns)]


def setup(app: Sphinx) -> None:
  """Called by Sphinx."""
  app.connect("autodoc-process-signature", _readable)
  app.connect("build-finished", _lead_to_the_first_page)
