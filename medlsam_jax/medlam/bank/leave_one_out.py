"""How good a bank is: every template searched with the bank of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from medlsam_jax.errors import TemplateError
from medlsam_jax.finding import Finding
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.search import search
from medlsam_jax.medlam.search.confidence import Thresholds
from medlsam_jax.medlam.search.search_settings import SearchSettings
from medlsam_jax.medlam.search.starts import Key
from medlsam_jax.network import Network
from medlsam_jax.progress import Progress

if TYPE_CHECKING:
  from medlsam_jax.io.templates import Template


def leave_one_out(
  network: Network,
  bank: Bank,
  templates: Sequence[Template],
  *,
  key: Key = 0,
  settings: SearchSettings | None = None,
  thresholds: Thresholds | None = None,
  progress: Progress | None = None,
) -> Iterator[tuple[Template, dict[str, Finding]]]:
  """Search each template with what the others left in the bank; no scan goes through the network as a template again.

  Score the findings with `evaluation.case.evaluate_case`, with the template's own labels as truth.

  Args:
    templates: those that the bank was built from.
    key: draws the agents' starts, the same in every scan of one shape.
    progress: called with points done and in all, anew for each template.

  Yields:
    Template and findings. Organs that no other template has are not among them.

  Raises:
    TemplateError: fewer than two templates, or the bank was not built from these or by this network.
    InputError: the middle of a template is air.
  """
  used = {name for organ in bank.organs.values() for name in organ.templates}
  strangers = used - {template.name for template in templates}
  if strangers:
    raise TemplateError(f"the bank was built from {', '.join(sorted(strangers))}, which are not among these templates")
  if len(used) < 2:
    raise TemplateError("a bank of one template cannot be checked by the others; add a template")
  for template in templates:
    others = bank.without(template.name)
    others = others.subset([organ for organ in others.organs if organ in template.organs])
    if template.name in used and others.organs:
      findings = search.find(
        network, others, template.scan, key=key, settings=settings, thresholds=thresholds, progress=progress
      )
      yield template, findings
