"""Fine-tuning of the SAM family on labelled CT, with boxes as prompts.

medlsam finetune --workdir runs/mine --data.scans=train/ --data.validation=held_out/
    LiteMedSAM's mask decoder; every slice is encoded once. Minutes on a few CPU cores.
medlsam finetune --config configs/finetune.py:medsam --workdir runs/medsam --network sam-vit-b --data.scans=train/
    MedSAM's recipe: image encoder and mask decoder, AdamW 1e-4, decay 0.01, boxes moved outward by up to 20 px at 1024,
    160 images a step: for accelerators.
medlsam finetune --config configs/finetune.py:lora --workdir runs/lora --data.scans=train/
    The mask decoder, and updates of rank 4 of the image encoder's attention.
medlsam finetune --config configs/finetune.py:distill --workdir runs/distill --network litemedsam --teacher medsam
    --data.scans=train/
    A TinyViT image encoder, on the embeddings of a ViT of the family (computed once), as MobileSAM's was: for
    accelerators. The decoder stays: start from a network whose decoder was made for the teacher's embeddings, or train
    it after with the first mode.
medlsam finetune --config configs/finetune.py:prompted --workdir runs/prompted --bank organs.safetensors
    --data.scans=train/ --data.validation=held_out/
    Mask decoder and prompt encoder, prompted as `segment --masks prompted` does: in each slice by what the templates of
    a bank say of an organ. The packaged `litemedsam-prompted` was made so in about 40 minutes on two shared CPU cores,
    with --data.slice_step 4 --optimizer.total_steps 280, of ten people: Dice of five others .712, of the templates'
    masks alone .688 (medlsam_jax/weights/litemedsam_prompted.md).
medlsam finetune --config configs/finetune.py:smoke --workdir /tmp/smoke
    Two steps of LiteMedSAM's decoder on a phantom: shows that everything runs.
"""

import dataclasses

from ml_collections import ConfigDict

from medlsam_jax.sam.finetuning.settings import FinetuneSettings


def get_config(mode: str = "decoder") -> ConfigDict:
  """The config of one mode: `decoder`, `medsam`, `lora`, `distill`, `prompted` or `smoke`."""
  config = ConfigDict(dataclasses.asdict(FinetuneSettings()))
  config.name = f"finetuned_{mode}"
  if mode == "medsam":
    config.train, config.batch_norm = "model", "updated"
    config.data.images_per_step = 160
    config.data.windows = ("soft_tissue", "lung", "brain", "bone")
    config.optimizer.update(decay="constant", clip_norm=0.0, total_steps=100_000, warmup_steps=0)
    config.checkpoint.every_steps, config.validate_every_steps = 1000, 5000
  elif mode == "lora":
    config.train = "lora"
  elif mode == "distill":
    config.train, config.batch_norm, config.teacher = "distill", "updated", "medsam"
    config.data.windows = ("soft_tissue", "lung", "brain", "bone")
    config.optimizer.update(learning_rate=1e-3, total_steps=20_000, warmup_steps=500)
    config.checkpoint.every_steps, config.validate_every_steps = 1000, 1000
  elif mode == "prompted":
    config.train, config.data.prompts, config.data.window_cells = "prompts", "templates", 32
    config.loss.bce = 10.0  # most of a window is background; at 1 it counts nothing beside Dice
    config.optimizer.update(learning_rate=3e-4)
  elif mode == "smoke":
    config.data.update(phantoms=1, validation_phantoms=1, slice_step=24, validation_slice_step=40, images_per_step=2)
    config.data.organs = ("liver", "spleen")
    config.optimizer.update(total_steps=2, warmup_steps=1)
    config.log_every_steps = 1
  elif mode != "decoder":
    known = "decoder, medsam, lora, distill, prompted, smoke"
    raise ValueError(f"configs/finetune.py has no mode '{mode}'; it has: {known}")
  return config.lock()
