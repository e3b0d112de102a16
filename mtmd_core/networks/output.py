"""What every network returns."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class NetworkOutput:
    """Logits by domain, [B_k, N_k, H, W], and the embeddings of the batch at the nine scales, each [B, E_s]."""

    logits: dict[str, Tensor]
    embeddings: list[Tensor]


def embed(features: Tensor) -> Tensor:
    """Embedding of a feature map, ``GAP(u) / ‖GAP(u)‖₂`` (the paper, section 2.2).

    Args:
        features: [B, C, H, W].

    Returns:
        [B, C] of unit norm, in float32 or wider whatever the features' dtype.
    """
    # A sum's gradient is the same at every pixel and takes no memory, a mean's is written out; normalised they are one.
    pooled = features.sum(dim=(2, 3), dtype=torch.promote_types(features.dtype, torch.float32))
    return F.normalize(pooled, dim=1)
