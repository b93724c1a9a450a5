"""The page of a folder of results, put together from its parts."""

from __future__ import annotations

import datetime
import html

from medlsam_jax import display
from medlsam_jax.cohort import page as cohort_page
from medlsam_jax.cohort.looked import LOOK_FROM, Quality
from medlsam_jax.evaluation.comparison_report import TITLES
from medlsam_jax.evaluation.report import METRICS
from medlsam_jax.installation import version
from medlsam_jax.pages.page import Section, items, page, tiles
from medlsam_jax.pages.plots import Group, box_plots
from medlsam_jax.pages.table import Cell, Markup, table
from medlsam_jax.progress import Progress
from medlsam_jax.report.cases import DECIDED, MOST_CASES, Links, cases_of, cases_part
from medlsam_jax.report.comparison_part import comparison_part
from medlsam_jax.report.configuration import configuration_part
from medlsam_jax.report.evaluation_part import evaluation_part
from medlsam_jax.report.results import Results
from medlsam_jax.report.volumes_part import volumes_part, what

NOTE = "Research use only, not a medical device. A verdict or a score is no clinical finding."


def to_html(results: Results, made: datetime.datetime, report: Progress | None = None) -> str:
  """The page.

  Args:
    results: what was read.
    made: when, in UTC; stands at the top.
    report: hears of each picture.
  """
  cases = cases_of(results)
  links = Links({case.scan: number for number, case in enumerate(cases[:MOST_CASES], 1)})
  parts, quality = [], results.quality
  if results.unread:
    parts.append(Section("What could not be read", items(results.unread)))
  if results.scores is not None:
    parts.append(Section("Scores against truth", evaluation_part(results.scores, links)))
  for comparison, said in results.comparisons:
    parts.append(Section(f"Ways to paint: {TITLES[comparison.boxes]}", comparison_part(comparison, said)))
  if quality is not None:
    parts += _cohort(quality, links)
  if cases:
    how = "the worst first" if results.scores is not None else "the oddest first"
    parts.append(Section(f"Scans, {how}", cases_part(cases, results, report)))
  if results.origins or not results.comparisons:
    parts.append(Section("Configuration", configuration_part(results.origins, results.scored_with)))
  names = ", ".join(folder.resolve().name for folder in results.folders)
  return page(f"Results: {names}", _lead(results, made), parts, NOTE)


def _lead(results: Results, made: datetime.datetime) -> str:
  """When it was made, and the numbers that are looked for first."""
  said: list[tuple[str, str]] = []
  if (quality := results.quality) is not None:
    said += [("scans", f"{len(quality.scans):,}"), ("organs", str(len(quality.organs)))]
    said += [("to look at", str(len(quality.to_look_at))), ("failed", str(len(quality.failed)))]
  if results.corrected:
    said.append(("corrected by a person", str(len(results.corrected))))
  if results.decisions:
    decided = [each["decision"] for each in results.decisions.values()]
    said += [(f"{word} by a person", str(decided.count(name))) for name, word in DECIDED.items() if name in decided]
  if results.scores is not None:
    summary = results.scores.summary()
    said += [("scored scans", str(summary["scans"])), ("missing results", str(summary["failed"]))]
    for name in ("dice", "box_iou", "wall_distance_mm"):
      if name in summary["mean_over_organs"]:
        title, places = METRICS[name]
        said.append((f"{title}, mean over organs", f"{summary['mean_over_organs'][name]:.{places}f}"))
  when = f"{made:%Y-%m-%d %H:%M} UTC, medlsam_jax {version('medlsam_jax')}"
  note = "" if results.scores is None else f'<p class="warn">{html.escape(results.scores.note)}</p>'
  return f'<p class="soft">{when}. {html.escape(NOTE)}</p>\n{tiles(said)}\n{note}'


def _cohort(quality: Quality, links: Links) -> list[Section]:
  """What is odd, what failed, organs, sizes, likeness."""
  parts = [Section("Scans to look at", f"<p>{html.escape(cohort_page.RULE)}</p>{_look_at(quality, links)}")]
  if quality.failed:
    parts.append(Section("Scans that failed", cohort_page.failed_table(quality)))
  if quality.organs:
    likeness = box_plots("Similarity to the templates by organ", "similarity to the templates, 1 is identical",
                         _likeness(quality))  # fmt: skip
    shown = f"<h3>Similarity to the templates</h3><figure>{likeness}</figure>" if likeness else ""
    parts.append(Section("Organs", cohort_page.organs_table(quality) + shown))
    parts.append(Section(what(quality), volumes_part(quality, links)))
  return parts


def _look_at(quality: Quality, links: Links) -> str:
  odd = [*quality.to_look_at, *quality.noted]
  if not odd:
    return f"<p>None of {display.count(len(quality.scans), 'scan')}: nothing is odd.</p>"
  rows: list[list[Cell]] = []
  for row in odd[: cohort_page.MOST_ON_PAGE]:
    looked = quality.scans[row]
    why = Markup("<br>".join(html.escape(reason) for reason in looked.in_words))
    kind = "to look at" if looked.is_to_look_at else "noted"
    rows.append([links.to(looked.record.scan), round(looked.score), kind, why])
  more = len(odd) - cohort_page.MOST_ON_PAGE
  text = f'<p class="soft">To look at from {LOOK_FROM:g} points on; less is noted.</p>'
  return text + table(["scan", "points", "what", "why"], rows) + (f"<p>and {more} more.</p>" if more > 0 else "")


def _likeness(quality: Quality) -> list[Group]:
  names = [each.record.scan for each in quality.scans]
  return [Group(organ, quality.similarity[:, column].tolist(), names) for column, organ in enumerate(quality.organs)]
