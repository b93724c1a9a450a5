"""Weights: published checkpoints read without PyTorch, our own files, downloads."""
