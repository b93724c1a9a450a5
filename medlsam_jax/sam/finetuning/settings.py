"""Every setting of fine-tuning a network of the SAM family; the defaults are those of the decoder-only recipe."""

from __future__ import annotations

import dataclasses
from typing import Literal

from medlsam_jax.train.settings import CheckpointSettings, OptimizerSettings, RunSettings

Prompts = Literal["boxes", "templates"]


@dataclasses.dataclass(frozen=True)
class LabelledDataSettings:
  """Labelled scans to learn from and to hold out, and how they are read."""

  scans: tuple[str, ...] = ()
  """Folders or lists of scans with label maps, laid out as templates are (docs/file_formats.md)."""
  validation: tuple[str, ...] = ()
  """The same, of scans that are not trained on."""
  series: str = ""
  """DICOM series to take where a scan has several: its UID, the end of it, or its number."""
  hu_offset: float = 0.0
  """Added to the values of every scan that is read here, for files that do not hold HU."""
  phantoms: int = 0
  """Synthetic labelled scans to learn from besides."""
  first_phantom_seed: int = 1000
  validation_phantoms: int = 0
  organs: tuple[str, ...] = ()
  """Organs to learn; empty: every one that is labelled."""


@dataclasses.dataclass(frozen=True)
class FinetuneDataSettings(LabelledDataSettings):
  """Labelled scans, and how questions are made from them."""

  windows: tuple[str, ...] = ("soft_tissue",)
  """CT windows that slices are shown through, each making an image (`labelled_slices.WINDOWS_HU`); validation uses the
  first."""
  prompts: Prompts = "boxes"
  """What asks for an organ in a slice: its own box, or the templates' vote by box and mask, from found boxes and from
  the labels' own moved at random (`medlsam finetune --bank`); the slices are then those in which a vote sees an
  organ."""
  votes: str = ""
  """Folder of the votes of all scans; empty: WORKDIR/votes."""
  vote_jitter_mm: float = 5.6
  """Standard deviation by which faces of the labels' own boxes are moved for votes to learn from; 0: found boxes
  alone."""
  window_cells: int = 0
  """Edge of the part of an embedding, around the box, that the decoder sees with templates' votes; 0: all of it. A
  window of 32 of LiteMedSAM's 64 cells is a quarter of the work."""
  vote_share: float = 0.5
  """Of the vote in a mask's probability when held-out scans are scored (`segment --masks.vote_share`)."""
  slice_step: int = 1
  """Every how manyth slice is used."""
  validation_slice_step: int = 1
  least_pixels: float = 100.0
  """Organs smaller than this in a slice are not asked for, except in validation; pixels of an image of 256 an edge."""
  jitter_px: int = 5
  """Each edge of a box is moved outward by up to this, pixels of an image of 256 an edge (20 at 1024)."""
  images_per_step: int = 8
  """Over all devices and processes; each is asked for one of its organs."""
  threads: int = 2
  """That prepare images ahead of the step."""


@dataclasses.dataclass(frozen=True)
class MaskLossSettings:
  """Weights of the terms."""

  dice: float = 1.0
  bce: float = 1.0
  iou: float = 1.0
  """Squared error of the predicted IoU."""


@dataclasses.dataclass(frozen=True)
class FinetuneSettings(RunSettings):
  """One fine-tuning run."""

  name: str = "finetuned"
  network: str = "litemedsam"
  """Where to start: name or file of a network of the SAM family."""
  train: Literal["decoder", "prompts", "model", "lora", "distill"] = "decoder"
  """`decoder`: the mask decoder, image embeddings being computed once. `prompts`: likewise, and the prompt encoder,
  which makes something of masks. `model`: image encoder and mask decoder, as
  MedSAM was. `lora`: the mask decoder, and low-rank updates of the encoder's attention. `distill`: a TinyViT image
  encoder alone, on the embeddings of `teacher`, which are computed once."""
  teacher: str = ""
  """With `distill`, name or file of the network whose embeddings are learned, of as many channels: medsam, for
  instance."""
  lora_rank: int = 4
  changes_rank: int = 0
  """Besides the whole weights, WORKDIR/NAME.changes.safetensors is written: what changed, kernels by matrices of that
  rank, in half precision, to be loaded where `network` is at hand; 0: it is not."""
  batch_norm: Literal["frozen", "updated"] = "frozen"
  """Statistics of batch norm in an encoder that is trained."""
  dtype: Literal["float32", "bfloat16"] = "float32"
  """Of the operands of matrix products."""
  data: FinetuneDataSettings = dataclasses.field(default_factory=FinetuneDataSettings)
  loss: MaskLossSettings = dataclasses.field(default_factory=MaskLossSettings)
  optimizer: OptimizerSettings = dataclasses.field(
    default_factory=lambda: OptimizerSettings(
      kind="adamw", total_steps=2000, warmup_steps=50, learning_rate=1e-4, l2=0.01, decay="cosine", clip_norm=1.0
    )
  )
  checkpoint: CheckpointSettings = dataclasses.field(
    default_factory=lambda: CheckpointSettings(every_steps=200, best_metric="validation_dice")
  )
  log_every_steps: int = 20
  validate_every_steps: int = 500
