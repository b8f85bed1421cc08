"""Published PyTorch checkpoints: read without torch."""

from jax_bridges.import_torch.reader import read_torch

__all__ = ["read_torch"]
