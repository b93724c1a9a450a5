"""Which stages `bench.accelerator` has, in order of importance, and how they are dealt out to processes."""

import dataclasses
from collections.abc import Collection, Iterator

BOTH = ("ours", "peer")
TOGETHER = 3
"""Stages that one process times one after the other: a start costs about 5 s of imports and of waking the card."""


@dataclasses.dataclass(frozen=True)
class Stage:
  """What the plan must know of a stage without importing JAX."""

  cases: int
  """Ours, at most."""
  sides: tuple[str, ...] = BOTH
  split: bool = False
  """Whether each of its cases is compiled in a process of its own."""
  family: str = ""
  """Stages of one family run the same programs: one process compiles these for all of them."""
  flag: str = ""
  """Of XLA, for a stage that is run a second time to see what the flag is worth."""


CHANNELS_LAST = "--xla_gpu_force_conv_nhwc=true"
"""Left alone, XLA for GPUs gives every 3D convolution channels first, which tensor cores' programs turn round again."""
STAGES = {
  "ceilings": Stage(4),
  "localize-few": Stage(2, split=True, family="localize"),
  "localize-many": Stage(3, split=True, family="localize"),
  "forward": Stage(3, split=True),
  "forward-channels-last": Stage(3, sides=("ours",), split=True, flag=CHANNELS_LAST),
  "correlation": Stage(3),
  "step": Stage(1),
  "encoder-many": Stage(3, split=True),
  "paint": Stage(2, split=True),
  "published-step": Stage(1),
  "cubes": Stage(4, split=True),
  "cube-step": Stage(4, split=True),
  "vit": Stage(3, split=True),
  "forward-many": Stage(2, split=True),
  "step-bfloat16": Stage(1),
  "step-bfloat16-channels-last": Stage(1, sides=("ours",), flag=CHANNELS_LAST),
  "published-step-bfloat16": Stage(1),
  "bank": Stage(1),
  "encoder": Stage(3),
  "head": Stage(3),
  "exactness": Stage(3, sides=("ours",)),
  "published-step-highest": Stage(1),
  "step-untuned": Stage(1, sides=("ours",), flag="--xla_gpu_autotune_level=0"),
  "forward-compiled": Stage(0, sides=("peer",)),
}
"""Most important first."""


@dataclasses.dataclass(frozen=True, order=True)
class Item:
  """A case of a stage by its number, or all of them."""

  stage: str
  case: int | None = None

  def __str__(self) -> str:
    return self.stage if self.case is None else f"{self.stage}:{self.case}"

  @classmethod
  def parse(cls, text: str) -> "Item":
    """The inverse of `str`."""
    stage, _, case = text.partition(":")
    return cls(stage, int(case) if case else None)


def items_of(stage: str) -> list[Item]:
  """All of ours of a stage."""
  return [Item(stage, number) for number in range(STAGES[stage].cases)]


def compile_jobs(chosen: Collection[str]) -> list[list[Item]]:
  """What each process compiles, most important first."""
  jobs: dict[tuple[str, int, str], list[Item]] = {}
  for name, stage in STAGES.items():
    if name in chosen and "ours" in stage.sides:
      for item in items_of(name):
        key = (stage.family or name, (item.case or 0) if stage.split else 0, stage.flag)
        jobs.setdefault(key, []).append(item)
  return list(jobs.values())


def groups(chosen: Collection[str], together: int = TOGETHER) -> Iterator[list[str]]:
  """Stages that a process times: neighbours that want the same flag."""
  group: list[str] = []
  for name, stage in STAGES.items():
    if name not in chosen:
      continue
    if group and (len(group) == together or STAGES[group[0]].flag != stage.flag):
      yield group
      group = []
    group.append(name)
  if group:
    yield group
