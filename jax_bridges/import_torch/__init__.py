"""Published PyTorch checkpoints: read without torch."""

from jax_bridges.io.torch_file import read_torch

__all__ = ["read_torch"]
