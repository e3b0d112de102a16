"""Eq. 1 of the paper: cross-entropy over several tasks and domains."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from mtmd_core.precision import in_float32_or_wider


def domain_cross_entropy(logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of Eq. 1, averaged over pixels.

    ``L_CE = −(1/K) Σ_k 1/(n_k |C_k|) Σ_i Σ_{c∈C_k} y_{i,c} log ŷ_{i,c}``

    Args:
        logits: domain → [B_k, N_k, H, W], before the softmax; any real values.
        labels: domain → [B_k, H, W], integers in 0 … N_k − 1.

    Returns:
        A scalar of at least 0, in float32 or wider whatever the logits' dtype.

    Raises:
        ValueError: if the two do not name the same domains, or there is none.

    Example:
        >>> uniform = {"ankle": torch.zeros(2, 4, 8, 8)}
        >>> float(domain_cross_entropy(uniform, {"ankle": torch.zeros(2, 8, 8, dtype=torch.long)}))  # log(4) / 4
        0.3465...
    """
    if not logits or logits.keys() != labels.keys():
        raise ValueError(
            f"logits are of domains {sorted(logits)} and labels of {sorted(labels)}; both must name the same, at least one"
        )
    terms = []
    for domain, scores in logits.items():
        terms.append(_mean_over_pixels(in_float32_or_wider(scores), labels[domain].long()) / scores.shape[1])
    return torch.stack(terms).mean()


def _mean_over_pixels(scores: Tensor, labels: Tensor) -> Tensor:
    if scores.is_cuda and torch.are_deterministic_algorithms_enabled():  # over planes CUDA adds up in any order
        scores, labels = scores.movedim(1, -1).flatten(0, 2), labels.flatten()
    return F.cross_entropy(scores, labels)
