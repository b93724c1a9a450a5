"""Slices of an image with what the network's encoder made of them, kept: a further click costs the decoder alone."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from jaxtyping import Array, Float

from medlsam_jax.geometry import Volume
from medlsam_jax.sam.predictor import EncodedImage, Predictor
from medlsam_jax.sam.propagation import AXES
from medlsam_jax.sam.segmentation_settings import SegmentationSettings
from medlsam_jax.sam.sliced_scan import SlicedScan

KEPT_BYTES = 1 << 30
"""Embeddings of an image, 4 MB a slice with LiteMedSAM; the one that was used longest ago goes first."""


class Turns:
  """One computation at a time, and one that a person waits for before one that nobody waits for."""

  def __init__(self) -> None:
    self._lock = threading.Lock()
    self._waiting = 0
    self._count = threading.Lock()

  def __enter__(self) -> None:
    with self._count:
      self._waiting += 1
    self._lock.acquire()
    with self._count:
      self._waiting -= 1

  def __exit__(self, *_: object) -> None:
    self._lock.release()

  def spare(self, work: Callable[[], None]) -> bool:
    """Does something that nobody waits for; False where somebody waits or works."""
    if self._waiting or not self._lock.acquire(blocking=False):
      return False
    try:
      work()
    finally:
      self._lock.release()
    return True


class KeptSlices:
  """Slices of one image in any plane. Not for several threads at once: `Turns` sees to that."""

  def __init__(self, volume: Volume, predictor: Predictor, settings: SegmentationSettings, max_bytes: int = KEPT_BYTES):
    self.volume, self.predictor, self.settings = volume, predictor, settings
    self.encoded = 0
    """Slices that went through the encoder so far."""
    self._max_bytes, self._bytes = max_bytes, 0
    self._scans: dict[str, SlicedScan] = {}
    self._kept: OrderedDict[tuple[str, int], Float[Array, "g g c"] | None] = OrderedDict()
    self._beside = ThreadPoolExecutor(1, "slices")

  def plane(self, name: str) -> SlicedScan:
    """The image cut along a plane of `propagation.AXES`."""
    if name not in self._scans:
      self._scans[name] = SlicedScan(self.volume, AXES[name], self.predictor, self.settings)
    return self._scans[name]

  def has(self, plane: str, index: int) -> bool:
    """Whether a slice was encoded and is kept."""
    return (plane, index) in self._kept

  def get(self, plane: str, index: int, next_ones: Sequence[int] = ()) -> EncodedImage | None:
    """A slice's embedding; None for a slice of one grey. Where it has to be encoded, others of the batch come along.

    Args:
      next_ones: slices that are likely asked for next; encoded too as far as one call of the encoder takes them.
    """
    if not self.has(plane, index):
      missing = [index, *(each for each in next_ones if each != index and not self.has(plane, each))]
      batch = missing[: self.predictor.encode_batch]
      for each, embedding in self.plane(plane).embeddings(batch, self._beside):
        self._keep((plane, each), embedding)
        self.encoded += 1
    self._kept.move_to_end((plane, index))
    embedding = self._kept[plane, index]
    return None if embedding is None else EncodedImage(embedding, self.plane(plane).fit)

  @property
  def is_full(self) -> bool:
    """Whether one more would cost one that is kept."""
    largest = max((each.nbytes for each in self._kept.values() if each is not None), default=0)
    return self._bytes + largest > self._max_bytes

  def close(self) -> None:
    """Lets go of all."""
    self._kept.clear()
    self._beside.shutdown(wait=False)

  def _keep(self, key: tuple[str, int], embedding: Float[Array, "g g c"] | None) -> None:
    self._kept[key] = embedding
    self._bytes += 0 if embedding is None else embedding.nbytes
    while self._bytes > self._max_bytes and len(self._kept) > self.predictor.encode_batch:
      _, gone = self._kept.popitem(last=False)
      self._bytes -= 0 if gone is None else gone.nbytes
