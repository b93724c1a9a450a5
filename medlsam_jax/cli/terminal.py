"""What a person sees: results on stdout; progress, warnings and errors on stderr, each in one line."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from medlsam_jax.cli.progress import Display, Lines, MovingBar, Nothing

STOPPING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Bar:
  """Progress of one stage; called with what is done and what there is in all (None: not known)."""

  def __init__(self, display: Display, terminal: Terminal):
    self._display, self._terminal = display, terminal

  def __call__(self, done: int, total: int | None) -> None:
    self._terminal.stop_if_asked()
    self._display.update(done, total)

  def title(self, text: str) -> None:
    """Says what is being done now."""
    self._display.title(text)

  def say(self, text: str) -> None:
    """What happens, in a line of its own: a bar on the terminal moves down for it."""
    if isinstance(self._display, MovingBar):
      self._display.say(text)
    else:
      self._terminal.say(text)


class Terminal:
  """Prints for one command; `quiet` leaves warnings, errors and what was asked for."""

  def __init__(self, quiet: bool = False):
    self.quiet = quiet
    self._said: set[str] = set()
    self._owner = threading.get_ident()
    self.stopped = 0
    """The signal that asked to stop, such as that of Ctrl-C; 0 as long as none did."""
    self._out = Console(file=sys.stdout, markup=False, highlight=False, soft_wrap=True)
    self._err = Console(file=sys.stderr, markup=False, highlight=False, soft_wrap=True)

  def __reduce__(self) -> tuple[type[Terminal], tuple[bool]]:
    """In another process nobody looks."""
    return Terminal, (True,)

  def result(self, text: str = "") -> None:
    """What the command was called for, also with `--quiet`."""
    self._out.print(text)

  def say(self, text: str = "") -> None:
    """What happens; not with `--quiet`."""
    if not self.quiet:
      self._out.print(text)

  def say_once(self, text: str) -> None:
    """The same, unless it was said before: explanations in a batch."""
    if text not in self._said:
      self._said.add(text)
      self.say(text)

  def warn(self, text: str) -> None:
    """Something that went on but should be known."""
    self._err.print(f"warning: {_one_line(text)}", style="yellow")

  def warn_replaced(self, *paths: str | os.PathLike[str]) -> None:
    """Names the files that are there already, before a command writes them anew."""
    there = [str(path) for path in paths if os.path.exists(path)]
    if there:
      self.warn(f"{', '.join(there)}: there already, replaced")

  def error(self, text: str) -> None:
    """Something that did not work, and what to do."""
    self._err.print(f"medlsam: {_one_line(text)}", style="red")

  def trace(self, text: str) -> None:
    """A traceback, as it is."""
    self._err.print(text.rstrip())

  def table(self, rows: Sequence[Sequence[str]], footer: bool = False) -> None:
    """Rows of text under a heading, the first of them; numbers to the right. `footer` sets the last row apart.

    Columns that do not fit into the terminal's width follow in a further table, whose first column is the same. A pipe
    gets one table, however wide.
    """
    # a pipe or a narrow window must not cost columns
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]))]
    limit = self._out.width if self._out.is_terminal else sum(widths)
    for number, columns in enumerate(_blocks(widths, limit)):
      if number:
        self._out.print()
      self._print([[row[column] for column in columns] for row in rows], footer)

  def _print(self, rows: Sequence[Sequence[str]], footer: bool) -> None:
    heading, *body = rows
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for number, title in enumerate(heading):
      table.add_column(title, justify="left" if number == 0 else "right", no_wrap=True)
    for number, row in enumerate(body):
      table.add_row(*row, style="bold" if footer and number == len(body) - 1 else None)
    width = sum(max(len(row[column]) for row in rows) + 2 for column in range(len(heading)))
    Console(file=sys.stdout, markup=False, highlight=False, width=width).print(table)

  @contextlib.contextmanager
  def stops_on_signals(self) -> Iterator[None]:
    """Makes Ctrl-C, a request to end and a closed terminal stop the block as an interrupt does, and remembers them.

    An interrupt is raised wherever the program is; JAX swallows one that meets it in a callback, or turns it into an
    ImportError. What was asked for is done at the next step then.
    """
    if threading.current_thread() is not threading.main_thread():
      yield
      return

    def stop(number: int, _: object) -> None:
      self.stopped = number
      raise KeyboardInterrupt

    # a signal that was set to be ignored, as `nohup` does, stays ignored
    heeded = [each for each in STOPPING_SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, stop) for each in heeded}
    try:
      yield
    finally:
      for each, handler in before.items():
        signal.signal(each, handler)

  def stop_if_asked(self) -> None:
    """Raises KeyboardInterrupt if a signal to stop came before."""
    if self.stopped:
      raise KeyboardInterrupt

  @contextlib.contextmanager
  def bar(self, text: str) -> Iterator[Bar]:
    """Progress while the block runs, moved through what it gives: a bar on a terminal, else lines; none if quiet.

    Nor in a thread that works beside the main one, where several stages go on at once; a signal stops those too.
    """
    self.stop_if_asked()
    display = self._display(text)
    whole = False
    try:
      yield Bar(display, self)
      whole = True
    finally:
      display.close(whole)

  def _display(self, text: str) -> Display:
    if self.quiet or self._owner != threading.get_ident():
      return Nothing()
    return MovingBar(self._err, text) if self._err.is_terminal else Lines(self._err.print, text)

  @contextlib.contextmanager
  def warnings_as_lines(self) -> Iterator[None]:
    """Warnings of the library, each once, as a line without the place in the code; others' deprecations are dropped."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
      # of the cache of compiled programs (a full disk): one line, not one for each of them
      text = re.sub(r"(compilation cache entry) for '\w+'", r"\1", str(message))
      if text not in seen:
        seen.add(text)
        self.warn(text)

    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      warnings.filterwarnings("always", category=UserWarning)
      warnings.showwarning = show
      yield


def _blocks(widths: Sequence[int], limit: int) -> list[list[int]]:
  """Columns of tables that are at most `limit` wide, each beginning with column 0 and holding one more at least."""
  blocks, used = [[0]], widths[0]
  for column in range(1, len(widths)):
    if used + widths[column] > limit and len(blocks[-1]) > 1:
      blocks.append([0])
      used = widths[0]
    blocks[-1].append(column)
    used += widths[column]
  return blocks


def _one_line(text: str) -> str:
  return " ".join(text.split())
