"""How far predicted masks are from true ones: MedSAM's Dice and cross-entropy, and LiteMedSAM's error of the IoU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from medlsam_jax.sam.finetuning.settings import MaskLossSettings

_SMOOTH = 1e-5


def dice_losses(logits: Float[Array, "n y x"], truth: Bool[Array, "n y x"]) -> Float[Array, " n"]:
  """1 - 2 sum(p t) / (sum(p^2) + sum(t^2)) of each mask ("Segment anything in medical images")."""
  p, t = jax.nn.sigmoid(logits), truth.astype(jnp.float32)
  shared, sizes = (p * t).sum((1, 2)), (p * p).sum((1, 2)) + t.sum((1, 2))
  return 1 - (2 * shared + _SMOOTH) / (sizes + _SMOOTH)


def true_iou(logits: Float[Array, "n y x"], truth: Bool[Array, "n y x"]) -> Float[Array, " n"]:
  """Intersection over union of the answers as they would be used."""
  inside = logits > 0
  return (inside & truth).sum((1, 2)) / jnp.maximum((inside | truth).sum((1, 2)), 1)


def mask_loss(
  logits: Float[Array, "n y x"], iou: Float[Array, " n"], truth: Bool[Array, "n y x"], settings: MaskLossSettings
) -> tuple[Float[Array, ""], dict[str, Array]]:
  """The weighted sum, and its terms by name with the IoU that was reached."""
  reached = true_iou(logits, truth)
  terms = {
    "dice": jnp.mean(dice_losses(logits, truth)),
    "bce": optax.sigmoid_binary_cross_entropy(logits, truth.astype(jnp.float32)).mean(),
    "iou": jnp.mean(jnp.square(iou - reached)),
  }
  total = sum(getattr(settings, name) * value for name, value in terms.items())
  told = {f"{name}_loss": value for name, value in terms.items()}
  return jnp.asarray(total), {"loss": jnp.asarray(total), **told, "mask_iou": reached.mean()}
