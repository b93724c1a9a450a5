"""Pages stand alone and say what they are given as text; tables sort as numbers do; plots show every value."""

import base64
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from self_contained import loaded_by

from medlsam_jax.pages import pictures
from medlsam_jax.pages.page import Section, items, page, tiles
from medlsam_jax.pages.pictures import Room, picture
from medlsam_jax.pages.plots import Group, Spread, box_plots, near_ends, scatter, strip
from medlsam_jax.pages.table import Markup, spreadsheet_text, table

EVIL = '<script>alert("1")</script><img src=http://x.org/a.png>'


def test_a_page_loads_nothing_and_says_texts_as_texts():
  sections = [
    Section(EVIL, items([EVIL])),
    Section("b", table([EVIL], [[EVIL]], caption=EVIL)),
    Section("c", "<p>c</p>"),
  ]
  group = Group(EVIL, [1.0, 2.0], [EVIL, "b"])
  plots = box_plots(EVIL, EVIL, [group]) + strip([9.0], [EVIL], 4) + scatter(EVIL, EVIL, EVIL, [(EVIL, 1.0, 2.0)])
  text = page(EVIL, tiles([(EVIL, EVIL)]), [*sections, Section("d", plots)], EVIL)
  assert loaded_by(text) == set() and text.count("<script") == 1 and "&lt;script&gt;" in text
  assert "default-src 'none'" in text and text.count('<a href="#s') == 4


def test_what_a_page_would_load_is_noticed():
  for evil in (
    '<img src="a.png">', '<link rel="x">', "<style>b{background:url(//x)}</style>", '<a href="https://x">x</a>',
    "<script>fetch('/x')</script>", '<p style="background:url(x)">', '<p onclick="x()">',
    "<style>@import 'x';</style>",
  ):  # fmt: skip
    assert loaded_by(evil), evil
  assert loaded_by('<img src="data:image/png;base64,"><a href="#s1">x</a><a href="b_preview.png">b</a>') == set()


def test_numbers_stand_to_the_right_and_sort_as_numbers():
  text = table(["organ", "ml", "mean"], [
    ["liver", 1500.26, Markup.sorted_by("0.5 <i>± 0.1</i>", 0.5)], ["spleen", None, Markup.sorted_by("out", "")],
    ["lens", float("nan"), None],
  ])  # fmt: skip
  assert '<td class="n" data-v="1500.26">1,500.3</td>' in text and '<td class="n" data-v="0.5">0.5 <i>' in text
  assert '<td class="n" data-v="">out</td>' in text and text.count('<td class="n"></td>') == 3
  assert (
    "<td>liver</td>" in text and '<th scope="col">organ</th>' in text and '<th scope="col" class="n">ml</th>' in text
  )
  assert spreadsheet_text("=1+1") == "'=1+1" and spreadsheet_text("liver") == "liver"


def test_a_box_shows_quartiles_whiskers_and_outliers_by_name():
  values = [1.0, 2.0, 3.0, 4.0, 5.0, 40.0]
  assert Spread.of(values) == Spread(1.0, 2.25, 3.5, 4.75, 5.0)
  text = box_plots("sizes", "ml", [Group("liver", values, list("abcdef")), Group("none", [float("nan")], ["g"])])
  assert text.count('class="odd"') == 1 and "<title>f: 40</title>" in text and ">none<" not in text
  assert "Medians: liver 3.5" in text and text.count("<circle") == 6
  assert box_plots("sizes", "ml", [Group("none", [], [])]) == "" == scatter("x", "y", "z", [("a", 0.0, 1.0)])
  many = box_plots("sizes", "ml", [Group("liver", np.linspace(1, 2, 500).tolist(), ["x"] * 500)])
  assert many.count("<circle") == 0, "a cloud of dots would hide the box"
  assert near_ends([Group("liver", values, list("abcdef"))]) == (0.0, 7.5)


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.001, 0.002], [1e-9, 1e6], [0.0, 0.0], [-3.0, 8.0]])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_every_value_lies_within_the_plot(values, logarithmic):
  text = box_plots("x", "ml", [Group("a", values, ["n"] * len(values))], logarithmic=logarithmic)
  places = [float(each) for each in re.findall(r'cx="([\d.]+)"', text)]
  assert all(23 <= each <= 736 for each in places) and len(places) == len(
    [v for v in values if v > 0 or not logarithmic]
  )
  assert "nan" not in text and "inf" not in text


def test_a_picture_keeps_to_its_share_whatever_it_shows(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (1279, 1578, 3), np.uint8)
  Image.fromarray(noise).save(tmp_path / "noise.png", compress_level=1)
  shown = picture(tmp_path / "noise.png", 'a "b"', 300_000)
  assert len(shown) <= 300_200 and 'alt="a &quot;b&quot;"' in shown
  image = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1])))
  assert image.format == "JPEG" and f'width="{image.width}" height="{image.height}"' in shown
  assert image.width / image.height == pytest.approx(1578 / 1279, rel=0.01)


def test_pictures_share_the_room_of_a_page_and_the_last_of_too_many_have_none(tmp_path, monkeypatch):
  monkeypatch.setattr(pictures, "PAGE_BYTES", 500_000)
  noise = np.random.default_rng(0).integers(0, 256, (600, 560, 3), np.uint8)
  Image.fromarray(noise).save(tmp_path / "noise.png", compress_level=1)
  (tmp_path / "letter.png").write_text("no picture")
  room = Room(8)
  assert room.put(tmp_path / "letter.png", "") is None, "which takes no room"
  shown = [room.put(tmp_path / "noise.png", "") for _ in range(7)]
  assert sum(map(len, shown)) <= 500_000 and all(shown[:2]) and shown[-1] == ""
  assert len(Room(1).put(tmp_path / "noise.png", "")) > len(shown[0]), "few are shown in more detail"


def test_what_is_no_picture_gives_none(tmp_path):
  good = tmp_path / "good.png"
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(good)
  (tmp_path / "half.png").write_bytes(good.read_bytes()[:3000])
  (tmp_path / "letter.png").write_text("no picture")
  assert [picture(tmp_path / f"{name}.png", "", 9999) for name in ("half", "letter", "missing")] == [None] * 3
  assert picture(good, "", 9999).startswith('<img alt="" width="60" height="40" src="data:image/jpeg;base64,')


CLICK = """<script>
const button = document.querySelectorAll("th button")[1];
button.click();
document.title = [...document.querySelectorAll("tbody td:first-child")].map(each => each.textContent).join();
button.click();
document.title += ";" + [...document.querySelectorAll("tbody td:first-child")].map(each => each.textContent).join();
document.title += ";" + document.querySelectorAll("th")[1].getAttribute("aria-sort");
</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="sorts in a browser: needs chromium")
def test_a_click_on_a_heading_sorts_in_a_browser(tmp_path):
  cells = [["a", 20.0], ["b", None], ["c", 3.5], ["d", 1000.0], ["e", -1.0]]
  (tmp_path / "p.html").write_text(page("t", "", [Section("s", table(["name", "ml"], cells))]) + CLICK)
  words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/user", "--dump-dom"]
  shown = subprocess.run([*words, (tmp_path / "p.html").as_uri()], capture_output=True, text=True, timeout=300)
  assert "<title>e,c,a,d,b;d,a,c,e,b;descending</title>" in shown.stdout, shown.stderr[-500:]
