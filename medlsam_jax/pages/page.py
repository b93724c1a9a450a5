"""A page from its sections: one file that loads nothing, which its own content security policy sees to."""

from __future__ import annotations

import dataclasses
import functools
import html
from collections.abc import Sequence
from importlib.resources import files

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of a page."""

  title: str
  body: str
  """HTML."""


def page(title: str, lead: str, sections: Sequence[Section], note: str = "") -> str:
  """The whole page.

  Args:
    title: as text.
    lead: HTML between the title and the list of sections.
    sections: in their order; with more than two of them, a list of them stands at the top.
    note: text at the end.
  """
  parts = [f"<header><h1>{html.escape(title)}</h1>\n{lead}"]
  if len(sections) > 2:
    links = "".join(f'<li><a href="#s{n}">{html.escape(each.title)}</a></li>' for n, each in enumerate(sections, 1))
    parts.append(f'<nav aria-label="Sections"><ul>{links}</ul></nav>')
  parts.append("</header>\n<main>")
  for number, each in enumerate(sections, 1):
    parts.append(f'<section id="s{number}"><h2>{html.escape(each.title)}</h2>\n{each.body}\n</section>')
  parts.append("</main>")
  if note:
    parts.append(f"<footer><p>{html.escape(note)}</p></footer>")
  head = "".join((
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><meta name="referrer" content="no-referrer">',
    f"<title>{html.escape(title)}</title><style>\n{_file('page.css')}</style>",
  ))  # fmt: skip
  body, script = "\n".join(parts), _file("page.js")
  return (
    f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n<script>\n{script}</script></body></html>\n'
  )


def tiles(said: Sequence[tuple[str, str]]) -> str:
  """A few numbers in large print: what each is, and the number."""
  cells = (f"<div><dt>{html.escape(what)}</dt><dd>{html.escape(number)}</dd></div>" for what, number in said)
  return f'<dl class="tiles">{"".join(cells)}</dl>'


def items(lines: Sequence[str]) -> str:
  """A list of sentences; empty without any."""
  return "<ul>" + "".join(f"<li>{html.escape(each)}</li>" for each in lines) + "</ul>" if lines else ""


@functools.cache
def _file(name: str) -> str:
  return (files("medlsam_jax.pages") / name).read_text(encoding="utf-8")
