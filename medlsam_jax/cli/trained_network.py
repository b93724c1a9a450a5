"""What commands that train on labelled scans say of a run, and of the network that came out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Bar, Terminal
  from medlsam_jax.train.run_folder import Folder
  from medlsam_jax.train.settings import OptimizerSettings, RunSettings


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
      shown = {name: value for name, value in metrics.items() if not name.startswith("organ_")}
      say_step(step, settings.optimizer, shown, bar, terminal)

    yield bar, report


def say_step(
  step: int, optimizer: OptimizerSettings, metrics: Mapping[str, float], bar: Bar, terminal: Terminal
) -> None:
  """Says a step's metrics and moves the bar, by the steps or by the clock that ends the run."""
  place, share = f"step {step}", metrics.get("run_share")
  if share:
    bar(round(1000 * share), 1000)
    place += f", {share:.1%}"
  elif not optimizer.total_seconds:
    bar(step, optimizer.total_steps)
    place += f"/{optimizer.total_steps}"
  terminal.say(f"{place}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


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
