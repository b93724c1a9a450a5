"""What `bench.accelerator` times of ours: cases by stage."""

import dataclasses
import runpy
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from bench import common
from bench.accelerator_case import GB, OPERANDS, Case, dtype_of, error_against_highest, relative, said, traced
from bench.accelerator_sizes import Sizes
from medlsam_jax import platform
from medlsam_jax.medlam.search import programs


def ceilings(sizes: Sizes) -> Iterator[Case]:
  """A copy and square matrix products."""

  def copy() -> Callable[[], Any]:
    a, run = jnp.ones(sizes.copied_numbers), jax.jit(lambda a: a + 1)
    return lambda: run(a)

  def product(operands: str) -> Callable[[], Any]:
    edge = sizes.product_edge
    # drawn on the host: zeros and ones take less power, and run faster than numbers do
    a = jnp.asarray(np.random.default_rng(0).standard_normal((edge, edge), np.float32), dtype_of(operands))
    run = jax.jit(lambda a: a @ a)
    return traced(operands, lambda: run(a))

  yield Case("copy", "float32", copy, gigabytes=8 * sizes.copied_numbers / GB)
  for operands in reversed(OPERANDS):
    name, work = f"matrix product {sizes.product_edge}", 2 * sizes.product_edge**3 / 1e12
    yield Case(name, operands, partial(product, operands), work)


def forward(sizes: Sizes) -> Iterator[Case]:
  """Patches through the whole network, as the search runs them."""
  return _forwards("forward", (4, 2, 1), sizes)


def head(sizes: Sizes) -> Iterator[Case]:
  """Patches through encoder and head alone."""
  return _forwards("encoder and head", (), sizes)


def _forwards(name: str, scales: tuple[int, ...], sizes: Sizes) -> Iterator[Case]:
  network, given = common.network(sizes.width), common.patches(sizes.patches)
  exact: list[Any] = []

  def errors(operands: str, result: Any) -> dict[str, float]:
    if operands == "highest":
      exact.append(result)
      return {}
    if not exact:
      return {}
    position, features = exact[0]
    found = {"position_error": relative(result[0], position)}
    return found | {f"feature_error_{stride}": relative(result[1][stride], features[stride]) for stride in scales}

  for operands in OPERANDS:
    module = network.module.clone(dtype=dtype_of(operands))
    make = partial(_forward, module, network.variables, given, scales, operands)
    work = sizes.patches * common.gflop_of(module, scales) / 1e3
    yield Case(f"{name}, {sizes.patches} patches", operands, make, work, figures=partial(errors, operands))


def _forward(module: Any, variables: Any, given: Any, scales: tuple[int, ...], operands: str) -> Callable[[], Any]:
  def one(variables: Any, patch: Any) -> Any:
    out = module.apply(variables, patch[None], feature_scales=scales)
    return out.position[0], {stride: volume[0] for stride, volume in out.features.items()}

  run = jax.jit(lambda v, p: programs.each(partial(one, v), p, platform.patches_together()))
  variables, given = jax.device_put((variables, given))
  return traced(operands, lambda: run(variables, given))


def forward_many(sizes: Sizes) -> Iterator[Case]:
  """As many patches as fill a large chip."""
  network, given = common.network(sizes.width), common.patches(sizes.many_patches)
  for operands in ("bfloat16", "default"):
    module = network.module.clone(dtype=dtype_of(operands))
    make = partial(_forward, module, network.variables, given, (4, 2, 1), operands)
    work = sizes.many_patches * common.gflop_of(module, (4, 2, 1)) / 1e3
    yield Case(f"forward, {sizes.many_patches} patches", operands, make, work)


def exactness(sizes: Sizes) -> Iterator[Case]:
  """Position and features on this device against the CPU of the same process."""
  network, given = common.network(sizes.width), common.patches(2)
  cpu = jax.devices("cpu")[0]
  kept: list[Any] = []

  def on_cpu(operands: str) -> Any:
    if not kept:
      run = jax.jit(lambda v, p: jax.lax.map(lambda patch: tuple(_outputs(network.module, v, patch)), p))
      kept.append(jax.device_get(traced("highest", lambda: run(*jax.device_put((network.variables, given), cpu)))()))
    return kept[0]

  def compare(operands: str, result: Any) -> dict[str, float]:
    exact = on_cpu(operands)
    found = (result[0], *(result[1][stride] for stride in (4, 2, 1)))
    names = ("position_error", *(f"feature_error_{stride}" for stride in (4, 2, 1)))
    return {name: relative(jnp.asarray(np.asarray(a)), b) for name, a, b in zip(names, found, exact, strict=True)}

  for operands in OPERANDS:
    module = network.module.clone(dtype=dtype_of(operands))
    make = partial(_forward, module, network.variables, given, (4, 2, 1), operands)
    yield Case("against the CPU, 2 patches", operands, make, figures=partial(compare, operands), runs=1)


def _outputs(module: Any, variables: Any, patch: Any) -> Iterator[Any]:
  out = module.apply(variables, patch[None], feature_scales=(4, 2, 1))
  yield out.position[0]
  for stride in (4, 2, 1):
    yield out.features[stride][0]


def correlation(sizes: Sizes) -> Iterator[Case]:
  """MSS correlation of some points at full resolution, as the search runs it."""
  from medlsam_jax.medlam.search.correlation import correlate

  channels, rng = 4 * sizes.width, np.random.default_rng(0)
  features, taps = (jnp.asarray(rng.standard_normal((sizes.points, *(e,) * 3, channels), np.float32)) for e in (64, 8))
  work, error = sizes.points * 2 * 512 * channels * 64**3 / 1e12, error_against_highest()

  def make(operands: str) -> Callable[[], Any]:
    run = jax.jit(
      lambda *both: programs.each(lambda pair: correlate(*pair, dtype_of(operands)), both, platform.patches_together())
    )
    return traced(operands, lambda: run(features, taps))

  for operands in OPERANDS:
    yield Case(f"MSS correlation, {channels} channels", operands, partial(make, operands), work,
               figures=partial(error, operands))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Search:
  """A bank of some organs, and a scan to look for them in."""

  network: Any
  templates: Any
  bank: Any
  scan: Any

  @classmethod
  def of(cls, width: int, organs: int) -> "_Search":
    from bench.stages_search import SIXTEEN
    from medlsam_jax import working_grid
    from medlsam_jax.phantom.people import make_phantom

    network, templates = common.network(width), common.templates(1, SIXTEEN[:organs])
    bank = _bank(network, templates)
    return cls(network, templates, bank, working_grid.to_working_grid(make_phantom(4).scan, bank.convention))

  @property
  def points(self) -> list[int]:
    return [organ.positions.shape[1] for organ in self.bank.organs.values()]


def _bank(network: Any, templates: Any) -> Any:
  from medlsam_jax.medlam.bank.bank import Bank

  return Bank.build(network, templates, "WPL", 12.0)


def localize(organs: int, sizes: Sizes) -> Iterator[Case]:
  """Organs in a scan that is on the working grid, with a bank that is ready."""
  from medlsam_jax.medlam.search.search import find
  from medlsam_jax.medlam.search.search_settings import PRESETS

  search = _Search.of(sizes.width, organs)
  for preset in ("exact", "vote-fast", "fast", "atlas") if organs > 2 else ("exact", "vote-fast", "fast"):
    settings = PRESETS[preset]

    def run(settings: Any = settings) -> Callable[[], Any]:
      return lambda: find(search.network, search.bank, search.scan, settings=settings) and None

    operands = said(settings.operands)
    yield Case(f"localize {organs} organs, {preset}", operands, run, note=f"{sum(search.points)} points")


def bank(sizes: Sizes) -> Iterator[Case]:
  """A bank of one template, its resampling to the working grid included."""
  from bench.stages_search import SIXTEEN

  organs = sizes.organs[1]
  network, templates = common.network(sizes.width), common.templates(1, SIXTEEN[:organs])
  yield Case(f"bank, {organs} organs", said("float32"), lambda: lambda: _bank(network, templates) and None, runs=3)


def step(sizes: Sizes, operands: str) -> Iterator[Case]:
  """The packaged recipe's step on one batch again and again: what data loading costs is not part of it."""
  from medlsam_jax.medlam.pretraining.settings import PretrainSettings
  from medlsam_jax.typed_settings import from_mapping

  config = runpy.run_path(str(Path(__file__).parents[1] / "configs" / "medlam.py"))["get_config"]("open").to_dict()
  config["network"].update(base_channels=sizes.step_width, **_network(operands))
  config["data"].update(scans_per_step=sizes.step_scans)
  config["optimizer"].update(total_seconds=0.0)  # the clock's share would be one more argument
  settings = from_mapping(PretrainSettings, config)
  name = f"training step, width {sizes.step_width}, {sizes.step_scans} scans of 3 patches, strides 4 and 2"
  work = sizes.step_scans * (4 * _work(sizes.step_width, (4, 2)) + _work(sizes.step_width, ()))
  yield _step_case(name, settings, operands, 3 * work / 1e3)


def published_step(sizes: Sizes, operands: str) -> Iterator[Case]:
  """The published recipe's step: scans of two patches, all strides."""
  from medlsam_jax.medlam.pretraining.settings import PretrainSettings
  from medlsam_jax.typed_settings import from_mapping

  network = {"base_channels": sizes.width, **_network(operands)}
  settings = from_mapping(PretrainSettings, {"network": network, "data": {"scans_per_step": sizes.published_scans}})
  name = f"published step, width {sizes.width}, {sizes.published_scans} scans"
  work = 3 * 4 * sizes.published_scans * _work(sizes.width, (4, 2, 1)) / 1e3
  yield _step_case(name, settings, operands, work)


def _network(operands: str) -> dict[str, str]:
  """Settings of a network that is trained."""
  return {"dtype": jnp.dtype(dtype_of(operands)).name, "precision": "highest" if operands == "highest" else "default"}


def _work(width: int, scales: tuple[int, ...]) -> float:
  return common.gflop_of(common.MedLAM(base_channels=width), scales)


def _step_case(name: str, settings: Any, operands: str, tflop: float) -> Case:
  result: dict[str, float] = {}
  return Case(name, operands, partial(_step, settings, result), tflop, figures=lambda _: result)


def _step(settings: Any, found: dict[str, float]) -> Callable[[], Any]:
  from medlsam_jax.medlam.pretraining.crops import Batch
  from medlsam_jax.medlam.pretraining.step import init_state, make_step
  from medlsam_jax.train import sharding

  rng, mesh = np.random.default_rng(0), sharding.make_mesh(settings.mesh, jax.devices()[:1])
  shape, edge = (settings.data.scans_per_step, settings.data.patches_per_scan), settings.network.cube_edge
  cubes = rng.integers(0, 2**16, (*shape, edge, edge, edge), np.uint16)  # as prepared sets store them
  batch = Batch(cubes, rng.uniform(0, 300, (*shape, 3)).astype(np.float32))
  given = sharding.put_batch(batch, settings.data.scans_per_step, mesh)
  began = time.perf_counter()
  state = init_state(settings, mesh)
  found["init_s"] = round(time.perf_counter() - began, 2)
  began, lower = time.perf_counter(), cast(Any, make_step(settings, mesh)).lower
  lowered = lower(state, given)
  found["lower_s"] = round(time.perf_counter() - began, 2)
  update = lowered.compile()
  found["temporary_gib"] = round(update.memory_analysis().temp_size_in_bytes / 2**30, 2)

  def run() -> Any:
    nonlocal state  # the state given is donated
    state, metrics = update(state, given)
    return metrics

  return run


def encoder(sizes: Sizes) -> Iterator[Case]:
  """LiteMedSAM's encoder on images that are on the device."""
  from medlsam_jax.sam.network.sam import LITEMEDSAM

  return _encoders(LITEMEDSAM, 1)


def encoder_many(sizes: Sizes) -> Iterator[Case]:
  """The same on a batch."""
  from medlsam_jax.sam.network.sam import LITEMEDSAM

  return _encoders(LITEMEDSAM, sizes.images)


def vit(sizes: Sizes) -> Iterator[Case]:
  """ViT-B at 1024."""
  from medlsam_jax.sam.network.sam import SAM_VIT_B

  if sizes.vit:
    yield from _encoders(SAM_VIT_B, 1)


def _encoders(variant: Any, images: int) -> Iterator[Case]:
  from bench.stages_sam import random_sam
  from medlsam_jax.sam.network.layers import fold_batch_norm

  network, edge, error = random_sam(variant), variant.image_size, error_against_highest()

  def make(operands: str) -> Callable[[], Any]:
    module, variables = network.module.clone(folded=True, dtype=dtype_of(operands)), fold_batch_norm(network.variables)
    given = jnp.asarray(np.random.default_rng(0).random((images, edge, edge, 3), np.float32))
    run, variables = jax.jit(lambda v, x: module.apply(v, x, method="encode")), jax.device_put(variables)
    return traced(operands, lambda: run(variables, given))

  for operands in OPERANDS:
    yield Case(f"{variant.name} encoder, {images} image{'s' * (images > 1)}", operands, partial(make, operands),
               figures=partial(error, operands))  # fmt: skip


def paint(sizes: Sizes) -> Iterator[Case]:
  """A scan and boxes of its organs to a label map, LiteMedSAM."""
  from bench.stages_paint import boxes_to_paint
  from bench.stages_sam import random_sam
  from medlsam_jax.sam.network.sam import LITEMEDSAM
  from medlsam_jax.sam.predictor import Predictor
  from medlsam_jax.sam.volume import paint_volume

  scan, boxes, _ = boxes_to_paint(sizes.paint_organs, sizes.paint_slices)
  values = {organ: number for number, organ in enumerate(boxes, 1)}
  network = random_sam(LITEMEDSAM)

  def make(operands: str) -> Callable[[], Any]:
    predictor = Predictor(network, dtype_of(operands))
    return lambda: paint_volume(scan, boxes, values, predictor) is None

  for operands in (said("float32"), "bfloat16"):
    yield Case(f"paint {scan.array.shape[0]} slices, {len(boxes)} organs", operands, partial(make, operands), runs=3)


def cubes(sizes: Sizes) -> Iterator[Case]:
  """A cube and one organ's box through the volumetric networks, as they paint."""
  from bench import cube_programs
  from medlsam_jax.sam3d.network.variants import VARIANTS

  for name in sizes.cubes:
    work, error = cube_programs.forward_flop(VARIANTS[name], 1) / 1e12, error_against_highest()
    for operands in (said("float32"), "bfloat16"):
      make = partial(cube_programs.forward, name, dtype_of(operands), 1)
      yield Case(f"{name}, a cube", operands, make, work, figures=partial(error, operands))


def cube_step(sizes: Sizes) -> Iterator[Case]:
  """The training step of the volumetric networks on one cube, views included, as their config has it."""
  from bench import cube_programs

  for name in sizes.cubes:
    work = cube_programs.step_flop(cube_programs.settings_of(name, remat=False)) / 1e12
    for remat in (True, False):
      settings, found = cube_programs.settings_of(name, "bfloat16", remat), dict[str, float]()
      make = partial(_cube_step, settings, found)
      # what is worked out again is no work done
      yield Case(f"{name}, step{', remat' * remat}", "bfloat16", make, work, figures=lambda _, found=found: found)


def _cube_step(settings: Any, found: dict[str, float]) -> Callable[[], Any]:
  from bench import cube_programs

  step = cube_programs.Step(settings)
  found["temporary_gib"] = round(step.temporary / 2**30, 2)
  return step
