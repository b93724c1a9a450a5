"""All tables of a study on one page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medlsam_jax.evaluation.report import NOTE
from medlsam_jax.evaluation.study.report import RULE, Measured


def markdown(
  measured: Sequence[Measured], about: Mapping[str, str], reasons: Mapping[str, str], note: str = NOTE
) -> str:
  """The page.

  Args:
    about: what was studied, at its top.
    reasons: scan -> why it, or a setting in it, failed.
    note: at its end.
  """
  parts = ["# Study", "\n".join(f"- {name}: {value}" for name, value in about.items()), RULE]
  for each in measured:
    parts.append(f"## {each.table.title}")
    parts.append(_table(each.means()) if each.rows else "Nothing measured yet.")
    if each.rows and len({row.organ for row in each.rows}) > 1:
      parts.append(f"By organ, {each.rows[0].way}:")
      parts.append(_table(each.by_organ()))
    parts += each.notes()
  if reasons:
    parts += ["## Failed", "\n".join(f"- {scan}: {why}" for scan, why in reasons.items())]
  return "\n\n".join([*parts, note]) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
  heading, *body = rows
  lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
  return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])
