"""Eq. 5 of the paper: multi-scale (and single-scale) contrastive regularisation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtmd_core.precision import in_float32_or_wider


def contrastive_loss(embeddings: Sequence[Tensor], domains: Tensor, temperature: float = 0.1) -> Tensor:
    """Contrastive loss of Eq. 5 over one or several scales, in its mini-batch form.

    ``L = −1/(|S| n) Σ_s Σ_i 1/|P_i| Σ_{j∈P_i} log[ exp(z_i·z_j/τ) / Σ_{l≠i} exp(z_i·z_l/τ) ]``, where P_i are the other
    images of i's domain and l runs over all images but i (Khosla et al. 2020: positives outside the logarithm). An image
    that is alone in its domain has no positive and adds nothing to the sum; n counts it all the same.

    Args:
        embeddings: one [B, E_s] of unit norm a scale; nine for MSC, the bottleneck's alone for SSC.
        domains: [B], integers that tell domains apart.
        temperature: τ, above 0.

    Returns:
        A scalar of at least 0, in float32 or wider whatever the embeddings' dtype.

    Raises:
        ValueError: if there is no scale, or a scale has not one embedding an image.

    Example:
        >>> apart = torch.eye(2)[[0, 0, 1, 1]]  # two domains, orthogonal, each of two equal images
        >>> float(contrastive_loss([apart], torch.tensor([0, 0, 1, 1]), temperature=1.0))  # log(1 + 2 / e)
        0.5514...
    """
    count = len(domains)
    shapes = [tuple(scale.shape) for scale in embeddings]
    if not shapes or any(len(shape) != 2 or shape[0] != count for shape in shapes):
        raise ValueError(f"embeddings are {shapes or 'missing'}; expected [{count}, E] at one scale or more")
    precise = map(in_float32_or_wider, embeddings)
    similarity = torch.stack([scale @ scale.T for scale in precise]) / temperature  # [S, B, B]
    itself = torch.eye(count, dtype=torch.bool, device=similarity.device)
    # Not −∞: an image alone in its batch has an empty denominator, whose gradient would be NaN.
    others = similarity.masked_fill(itself, torch.finfo(similarity.dtype).min)
    log_share = similarity - others.logsumexp(dim=2, keepdim=True)
    positives = (domains[:, None] == domains) & ~itself  # [B, B]
    counts = positives.sum(dim=1, keepdim=True).clamp(min=1)  # |P_i|
    return -(torch.where(positives, log_share, 0.0) / counts).sum() / (len(shapes) * count)
