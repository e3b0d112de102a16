"""How exactly sums are computed, whatever the dtype that a network works in."""

import torch
from torch import Tensor


def in_float32_or_wider(tensor: Tensor) -> Tensor:
    """A tensor in float32, or in float64 if it is that already."""
    return tensor.to(float32_or_wider(tensor.dtype))


def float32_or_wider(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for that."""
    return torch.promote_types(dtype, torch.float32)
