"""What commands that train on labelled scans say of a run, and of the network that came out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Bar, Terminal
  from medlsam_jax.train.run_folder import Folder
  from medlsam_jax.train.settings import RunSettings


@contextlib.contextmanager
def told(
  settings: RunSettings, workdir: Folder, terminal: Terminal
) -> Iterator[tuple[Bar, Callable[[int, Mapping[str, float]], None]]]:
  """A bar, and what takes a step's metrics: they go to the run's records, in its main process, and to the terminal."""
  from medlsam_jax.train import cluster
  from medlsam_jax.train.records import Records

  with terminal.bar("preparing") as bar, contextlib.ExitStack() as stack:
    records = stack.enter_context(contextlib.closing(Records(workdir, settings))) if cluster.is_main() else None

    def report(step: int, metrics: Mapping[str, float]) -> None:
      if records is not None:
        records(step, metrics)
      bar(step, settings.optimizer.total_steps)
      shown = {name: value for name, value in metrics.items() if not name.startswith("organ_")}
      terminal.say(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items()))

    yield bar, report


def which(header: Mapping[str, str], metric: str) -> str:
  """Which step's weights were written, and why."""
  step, value = header["trained_steps"], header.get(metric)
  return f"of step {step}, " + ("the last" if value is None else f"the best by {metric}: {float(value):.3f}")


def tell(scores: Mapping[str, dict[str, dict[str, float]]], step: int, terminal: Terminal) -> None:
  """Dice of the held-out scans before and at the step that is written, by organ."""
  from medlsam_jax.sam.finetuning.mask_validation import means_of

  if not scores:
    return
  kept = {int(step): means_of(each) for step, each in scores.items()}
  step = step if step in kept else max(kept)
  first, last = kept[min(kept)], kept[step]
  rows = [["held-out Dice", f"step {min(kept)}", f"step {step}"]]
  for name in (*sorted(set(last) - {"validation_dice"}), "validation_dice"):
    title = "mean" if name == "validation_dice" else name.removeprefix("organ_").removesuffix("_dice")
    rows.append([title, f"{first[name]:.3f}" if name in first else "-", f"{last[name]:.3f}"])
  terminal.table(rows, footer=True)
