"""What a page would load from elsewhere. Not a test."""

import re
from html.parser import HTMLParser

LOADING = ("src", "srcset", "data", "poster", "background", "action", "formaction", "manifest", "ping", "xlink:href")
"""Attributes that a browser fetches, or sends to, by itself or when a form is sent."""


class _Loads(HTMLParser):
  def __init__(self):
    super().__init__()
    self.found = set()

  def handle_starttag(self, tag, attrs):
    for name, value in attrs:
      said = (value or "").strip()
      if name in LOADING or (name == "href" and tag not in ("a", "area")):
        self._note(said)
      elif name == "href" and re.match(r"\s*(\w+:)?//", said):
        self.found.add(said)
      elif name == "style":
        self._in_style(said)
      elif name.startswith("on") or said.lower().startswith("javascript:"):
        self.found.add(f"{name}={said}")
    if tag in ("base", "iframe", "object", "embed", "link"):
      self.found.add(f"<{tag}>")

  def handle_data(self, data):
    self._in_style(data)
    if self.cdata_elem == "script":
      self.found |= set(re.findall(r"https?://\S+|\b(?:fetch|import|XMLHttpRequest|WebSocket|sendBeacon)\b", data))

  def _in_style(self, text):
    if self.cdata_elem in (None, "style"):
      for address in re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(r"@import\s+(\S+)", text):
        self._note(address)

  def _note(self, address):
    if address and not address.startswith("data:"):
      self.found.add(address)


def loaded_by(page):
  """Addresses outside a page that it loads or leads to, and what else has no place in a page that stands alone."""
  reader = _Loads()
  reader.feed(page)
  return reader.found
