"""What commands do with the result of each scan: write it, tell it, hand it on."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medlsam_jax.cli import options
from medlsam_jax.cli.many_scans import ReadAhead, Summary, run_over
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.geometry import Volume
from medlsam_jax.io import scan_result
from medlsam_jax.io.scan_result import ScanResult
from medlsam_jax.io.scans import ListedScan
from medlsam_jax.medlam.search import findings
from medlsam_jax.platform import devices_for

Read = Callable[[ListedScan], Volume]
Make = Callable[[ListedScan, str, Read], tuple[ScanResult, Mapping[str, object]]]
"""Takes a scan, what to call it in progress bars, and how to read it; gives its result and where that comes from."""


def make_all(
  arguments: argparse.Namespace,
  queries: Sequence[ListedScan],
  make: Make,
  outputs: Sequence[str],
  terminal: Terminal,
  then: Callable[[ScanResult], None] | None = None,
) -> Summary:
  """Makes, writes and tells the result of every scan, its label map in the formats `outputs`; `then` gets each."""

  def finish(title: str, made: tuple[ScanResult, Mapping[str, object]]) -> Sequence[str]:
    result, provenance = made
    try:
      with terminal.bar(f"{title}: writing"):
        files = result.write(arguments.out, provenance)
    except scan_result.PartlyWritten as error:
      tell(terminal, title, result, error.files)
      raise
    tell(terminal, title, result, files)
    if then is not None:
      then(result)
    return result.scan.doubts

  def is_done(name: str) -> bool:
    paths = scan_result.result_paths(arguments.out, name, outputs)
    return arguments.skip_existing and all(path.exists() for path in paths)

  warn_replaced(terminal, arguments, [query.name for query in queries], outputs)
  ahead = max(len(devices_for(len(queries))), 1)
  with ReadAhead(queries, is_done, options.reading(arguments), ahead) as read:
    return run_over(terminal, queries, lambda listed, title: make(listed, title, read), finish, is_done)


def warn_replaced(
  terminal: Terminal, arguments: argparse.Namespace, names: Sequence[str], outputs: Sequence[str]
) -> None:
  """Says before the work which results of an earlier run it will replace."""
  text = "" if arguments.skip_existing else scan_result.replaced(arguments.out, names, outputs)
  if text:
    terminal.warn(text)


def tell(terminal: Terminal, title: str, result: ScanResult, files: Sequence[Path]) -> None:
  """One scan's findings as a table, what speaks against them, and where its files are."""
  if terminal.quiet:
    return
  rows = findings.table(result.findings)
  if (volumes_ml := result.volumes_ml) is not None:
    rows = [[*rows[0], "ml"], *([*row, f"{volumes_ml[row[0]]:.1f}"] for row in rows[1:])]
  terminal.say(f"{title}:")
  terminal.table(rows)
  if any(each.confidence is not None for each in result.findings.values()):
    terminal.say_once(f"({findings.COLUMNS})")
  for doubt in result.scan.doubts:
    terminal.say(f"doubtful: {doubt}")
  for organ, each in result.findings.items():
    own = [doubt for doubt in each.doubts if doubt not in result.scan.doubts]
    if own:
      terminal.say(f"{organ}: {'; '.join(own)}")
  terminal.say("wrote " + ", ".join(str(path) for path in files))
