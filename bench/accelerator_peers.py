"""The same stages of `bench.accelerator` in PyTorch; import only with PyTorch."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bench import common, peer_training, peers
from bench.accelerator_case import GB, OPERANDS, Case
from bench.accelerator_sizes import Sizes
from bench.common import torch_device


def _set(operands: str, make: Callable[[], Callable[[], Any]]) -> Callable[[], Callable[[], Any]]:
  """What is to be timed, made and run at that precision; cases run one after the other."""

  def made() -> Callable[[], Any]:
    peers.set_precision(operands)
    return make()

  return made


def _dtype(operands: str) -> str:
  return "bfloat16" if operands == "bfloat16" else "float32"


def ceilings(sizes: Sizes) -> Iterator[Case]:
  yield Case("copy", "float32", partial(peers.copy, sizes.copied_numbers), gigabytes=8 * sizes.copied_numbers / GB)
  for operands in reversed(OPERANDS):
    make = partial(peers.matrix_product, sizes.product_edge, _dtype(operands))
    name, work = f"matrix product {sizes.product_edge}", 2 * sizes.product_edge**3 / 1e12
    yield Case(name, operands, _set(operands, make), work)


def forward(sizes: Sizes) -> Iterator[Case]:
  return _forwards("forward", True, sizes)


def head(sizes: Sizes) -> Iterator[Case]:
  return _forwards("encoder and head", False, sizes)


def _forwards(name: str, decoder: bool, sizes: Sizes) -> Iterator[Case]:
  for operands in OPERANDS:
    make = partial(peers.forward, sizes.width, _dtype(operands), common.patches(sizes.patches), decoder)
    yield Case(f"{name}, {sizes.patches} patches", operands, _set(operands, make))


def forward_compiled(sizes: Sizes) -> Iterator[Case]:
  given = common.patches(sizes.patches)
  for operands in ("bfloat16", "default"):
    make = partial(peers.forward, sizes.width, _dtype(operands), given, True, compiled=True)
    yield Case(f"forward, {sizes.patches} patches", operands, _set(operands, make), note="torch.compile")


def forward_many(sizes: Sizes) -> Iterator[Case]:
  given = common.patches(sizes.many_patches)
  for operands in ("bfloat16", "default"):
    make = partial(peers.forward, sizes.width, _dtype(operands), given, True)
    yield Case(f"forward, {sizes.many_patches} patches", operands, _set(operands, make))


def correlation(sizes: Sizes) -> Iterator[Case]:
  channels = 4 * sizes.width
  for operands in OPERANDS:
    make = partial(peers.correlation, channels, _dtype(operands), sizes.points)
    yield Case(f"MSS correlation, {channels} channels", operands, _set(operands, make), runs=5)


def localize(organs: int, sizes: Sizes) -> Iterator[Case]:
  for operands in OPERANDS:
    make = partial(peers.scan, sizes.width, [sizes.points] * organs, _dtype(operands))
    yield Case(f"localize {organs} organs, exact", operands, _set(operands, make), runs=5, note="patches as given")


def bank(sizes: Sizes) -> Iterator[Case]:
  organs = sizes.organs[1]
  for operands in ("highest", "default"):
    make = partial(peers.bank, sizes.width, [sizes.points] * organs)
    yield Case(f"bank, {organs} organs", operands, _set(operands, make), runs=3, note="patches as given")


def step(sizes: Sizes, operands: str) -> Iterator[Case]:
  recipe = peer_training.Recipe((4, 2), patches=3, dense=2, points=64, warped_positions=True)
  name = f"training step, width {sizes.step_width}, {sizes.step_scans} scans of 3 patches, strides 4 and 2"
  yield _step(name, sizes.step_width, sizes.step_scans, recipe, operands)


def published_step(sizes: Sizes, operands: str) -> Iterator[Case]:
  name = f"published step, width {sizes.width}, {sizes.published_scans} scans"
  yield _step(name, sizes.width, sizes.published_scans, peer_training.Recipe(), operands)


def _step(name: str, width: int, scans: int, recipe: peer_training.Recipe, operands: str) -> Case:
  def make() -> Callable[[], Any]:
    training = peer_training.PeerTraining(width, recipe, _dtype(operands))
    batch = peer_training.random_batch(scans, recipe)
    return lambda: training.step(batch)

  return Case(name, operands, _set(operands, make), runs=5, note="views are ready")


def encoder(sizes: Sizes) -> Iterator[Case]:
  for operands in OPERANDS:
    yield _encoder("litemedsam", ("PeerTinyViT", 256, 1), 1, operands)


def encoder_many(sizes: Sizes) -> Iterator[Case]:
  for operands in OPERANDS:
    yield _encoder("litemedsam", ("PeerTinyViT", 256, 1), sizes.images, operands)


def vit(sizes: Sizes) -> Iterator[Case]:
  if sizes.vit:
    for operands in OPERANDS:
      yield _encoder("sam-vit-b", ("PeerViT", 1024), 1, operands)


def _encoder(name: str, kind: tuple[Any, ...], images: int, operands: str) -> Case:
  make = partial(peers.encoder, *kind, images=images, dtype=_dtype(operands))
  return Case(f"{name} encoder, {images} image{'s' * (images > 1)}", operands, _set(operands, make))


def paint(sizes: Sizes) -> Iterator[Case]:
  """Each slice of each organ is encoded and decoded by itself; the work around is not counted for the peer."""
  from bench.stages_paint import boxes_to_paint

  scan, boxes, slices = boxes_to_paint(sizes.paint_organs, sizes.paint_slices)

  def make(operands: str) -> Callable[[], Any]:
    encode, decode = peers.encoder("PeerTinyViT", 256, 1, dtype=_dtype(operands)), peers.decoder(1, _dtype(operands))
    return lambda: (encode(), decode())

  for operands in OPERANDS:
    name = f"paint {scan.array.shape[0]} slices, {len(boxes)} organs"
    note = f"extrapolated from one of {slices} encodings and decodings"
    yield Case(name, operands, _set(operands, partial(make, operands)), times=slices, note=note)


def cubes(sizes: Sizes) -> Iterator[Case]:
  for name in sizes.cubes:
    for operands in OPERANDS:
      yield Case(f"{name}, a cube", operands, _set(operands, partial(peers.cubes, name, 1, _dtype(operands))))


def cube_step(sizes: Sizes) -> Iterator[Case]:
  for name in sizes.cubes:
    for remat in (True, False):
      make = _set("bfloat16", partial(peers.cube_step, name, 1, remat, "bfloat16"))
      yield Case(f"{name}, step{', remat' * remat}", "bfloat16", make, note="views are ready")


def device() -> dict[str, str]:
  """What runs."""
  import torch

  name = torch.cuda.get_device_name() if torch_device().type == "cuda" else "cpu"
  return {"torch": torch.__version__, "torch_device": name}


def peak_gib() -> float | None:
  """Most memory that tensors took on the device so far."""
  import torch

  return torch.cuda.max_memory_allocated() / 2**30 if torch_device().type == "cuda" else None
