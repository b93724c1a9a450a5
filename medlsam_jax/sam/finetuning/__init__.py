"""Training on labelled slices: decoder, LoRA, whole model, distillation."""
