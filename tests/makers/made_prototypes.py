"""Prototypes of embeddings drawn from a seed, as a site of a narrow network would send them."""

import numpy as np
import torch
from torch.nn import functional as F

from mtmd_core.prototype_arrays import to_arrays
from mtmd_core.prototype_summary import summarise

SIZES = [4, 8, 16, 32, 64, 32, 16, 8, 4]
"""Of embeddings of Att-UNet with width 4, at its nine scales."""


def prototype_arrays(seed: int = 0, sizes: list[int] = SIZES, slices: int = 60) -> dict[str, np.ndarray]:
    """Of ``slices`` slices of four exams."""
    random = torch.Generator().manual_seed(seed)
    scales = [F.normalize(1 + torch.randn(slices, size, generator=random), dim=1) for size in sizes]
    return to_arrays([summarise(scale, torch.arange(slices) % 4) for scale in scales])
