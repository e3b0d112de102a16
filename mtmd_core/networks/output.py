"""What every network returns."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mtmd_core.precision import float32_or_wider


@dataclass(frozen=True)
class NetworkOutput:
    """Logits by domain, [B_k, N_k, H, W], and the embeddings of the batch at the nine scales, each [B, E_s]."""

    logits: dict[str, Tensor]
    embeddings: list[Tensor]


NOISE = 1e-3
"""Pooled features of a smaller norm than this are rounding, and are not stretched to a unit norm."""


def embed(features: Tensor) -> Tensor:
    """Embedding of a feature map, ``GAP(u) / ‖GAP(u)‖₂`` (the paper, section 2.2).

    Args:
        features: [B, C, H, W].

    Returns:
        [B, C], in float32 or wider whatever the features' dtype: of unit norm, or ``GAP(u) / 0.001`` where ‖GAP(u)‖ is
        smaller than that. Features that end in a normalisation average to its shift over a domain's images; with one
        image a domain and a shift of 0 nothing is left but rounding.
    """
    return _normalised(_pooled(features), features)


class Embedder:
    """Takes the embeddings of feature maps as they pass: ``features = embedder(features)``, then go on with those.

    The same as :func:`embed` on each map, at less cost: autograd would add an embedding's gradient to its map's in a new
    map, where it is now added in place. The map must not be used otherwise than through what is returned, by layers whose
    gradients are their own, as those of convolutions and pooling are.

    Args:
        wanted: False leaves feature maps alone and finds nothing.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.found: list[Tensor] = []

    def __call__(self, features: Tensor) -> Tensor:
        """[B, C, H, W] → the same; its embedding [B, C] is appended to ``found``."""
        if self.wanted:
            if torch.compiler.is_compiling() or not torch.is_grad_enabled():
                pooled = _pooled(features)
            else:
                features, pooled = _PooledInPassing.apply(features)
            self.found.append(_normalised(pooled, features))
        return features


class _PooledInPassing(torch.autograd.Function):
    """features → (features, sums over the pixels)."""

    @staticmethod
    def forward(ctx, features):
        return features.view_as(features), _pooled(features)

    @staticmethod
    @once_differentiable
    def backward(ctx, to_features, to_pooled):
        to_pooled = to_pooled[:, :, None, None].to(to_features.dtype)
        # A part of another tensor, or one that is not written out, is not ours to change.
        is_own = to_features._base is None and to_features.stride()[-1] * to_features.stride()[-2] != 0
        return to_features.add_(to_pooled) if is_own else to_features + to_pooled


def _pooled(features: Tensor) -> Tensor:
    # A sum's gradient is the same at every pixel and takes no memory, a mean's is written out; normalised they are one.
    dtype = float32_or_wider(features.dtype)
    if features.dtype != dtype and features.device.type == "cpu" and not torch.is_grad_enabled():
        # Widened image by image: of a whole large batch at once it takes ten times as long.
        return torch.stack([image.to(dtype).sum(dim=(1, 2)) for image in features])
    return features.sum(dim=(2, 3), dtype=dtype)


def _normalised(pooled: Tensor, features: Tensor) -> Tensor:
    return F.normalize(pooled, dim=1, eps=NOISE * features.shape[2] * features.shape[3])
