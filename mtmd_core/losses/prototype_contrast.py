"""Eq. 5 of the paper without other domains' embeddings: against their prototypes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mtmd_core.domain_mixture import DomainMixture
from mtmd_core.precision import in_float32_or_wider


class ContrastParts(NamedTuple):
    """The three terms of the loss, each [S, B]: as a positive and its mirror, as an anchor, as a negative of all anchors."""

    attraction: Tensor
    anchor: Tensor
    negative: Tensor


def prototype_contrast(
    embeddings: Sequence[Tensor], mixture: DomainMixture, domain: str, temperature: float = 0.1
) -> Tensor:
    """Contrastive loss of Eq. 5 for slices of one domain, every mean over a domain taken from its prototype.

    The gradient is that of the mean over scales and slices of

    ``L(z) = −2 z·μ_k/τ + log Σ_m π_m E_m(z) + Σ_m π_m ν_m Ẽ_m(z)``

    with z as an anchor and as a positive of others (hence 2), as an anchor, and as a negative of all anchors; m runs over all
    domains, k included. For :func:`mtmd_core.domain_mixture.log_exponential` it is the gradient of Eq. 5 over all slices of all
    domains, up to what a mixture of a few components cannot say. The value is that of Eq. 5, which is not L's: the mean of
    ``−z·μ_k/τ + log Σ_m π_m E_m(z)``.

    Args:
        embeddings: one [B, E_s] of unit norm a scale, all of the domain.
        mixture: prototypes of all domains present at these scales, the own one included; constants.
        domain: k.
        temperature: τ, above 0.

    Returns:
        A scalar in float32 or wider whatever the embeddings' dtype; zero as long as there is no other domain.

    Raises:
        ValueError: if the mixture lacks the domain, or was made for other scales.
    """
    precise = _precise(embeddings, mixture, domain)
    if len(mixture.domains) < 2:
        return torch.stack([z.sum() for z in precise]).sum() * 0
    parts = contrast_parts(precise, mixture, domain, temperature)
    loss = (parts.attraction + parts.anchor + parts.negative).mean()
    return (parts.attraction / 2 + parts.anchor).mean().detach() + (loss - loss.detach())


def contrast_parts(
    embeddings: Sequence[Tensor], mixture: DomainMixture, domain: str, temperature: float
) -> ContrastParts:
    """The terms of :func:`prototype_contrast` slice by slice.

    The third is kept below ``Σ_m n_m``, its bound: a slice is among those of its own denominator, so 1/D_a is at most
    ``n_m/π_m exp(−1/τ)``. Prototypes that are a round old, or not what they should be, know no such bound by themselves.
    """
    plain, weighted = mixture.log_mean_exponentials(embeddings, temperature)  # [S, M, B]
    log_weights = mixture.log_weights.to(plain)[:, None]
    exponent = mixture.log_nu.to(plain)[..., None] + weighted + log_weights
    return ContrastParts(
        attraction=-2 * mixture.similarity_to_mean(embeddings, domain) / temperature,
        anchor=(log_weights + plain).logsumexp(dim=1),
        negative=torch.minimum(exponent, mixture.log_slices.to(plain)[:, None]).exp().sum(dim=1),
    )


def own_batch_contrast(
    embeddings: Sequence[Tensor], mixture: DomainMixture, domain: str, temperature: float = 0.1
) -> Tensor:
    """An ablation of :func:`prototype_contrast`: the own domain's terms from the batch, the other domains' from prototypes.

    The batch's slices are each other's anchors, positives and negatives, as in the mini-batch form of Eq. 5. One slice alone
    has no positive and contributes nothing. Arguments, value and errors as there.
    """
    precise = _precise(embeddings, mixture, domain)
    count, own = len(precise[0]), mixture.domains.index(domain)
    if len(mixture.domains) < 2 or count < 2:
        return torch.stack([z.sum() for z in precise]).sum() * 0
    similarity = torch.stack([z @ z.T for z in precise]) / temperature  # [S, B, B]
    itself = torch.eye(count, dtype=torch.bool, device=similarity.device)
    within = similarity.masked_fill(itself, torch.finfo(similarity.dtype).min).logsumexp(dim=2)
    within = within - torch.tensor(count - 1.0).log()
    positives = similarity.masked_fill(itself, 0.0).sum(dim=2) / (count - 1)

    plain, weighted = mixture.log_mean_exponentials(precise, temperature)
    log_weights = mixture.log_weights.to(plain)[:, None]
    means = torch.cat([plain[:, :own], within[:, None], plain[:, own + 1 :]], dim=1)
    value = (-positives + (log_weights + means).logsumexp(dim=1)).mean()
    exponent = torch.minimum(
        mixture.log_nu.to(plain)[..., None] + weighted + log_weights, mixture.log_slices.to(plain)[:, None]
    ).exp()
    negative = (exponent.sum(dim=1) - exponent[:, own]).mean()
    return value + (negative - negative.detach())


def _precise(embeddings: Sequence[Tensor], mixture: DomainMixture, domain: str) -> list[Tensor]:
    if domain not in mixture.domains:
        raise ValueError(f"there is no prototype of {domain}; there are those of {', '.join(mixture.domains)}")
    sizes, expected = [z.shape[-1] for z in embeddings], [rows.shape[1] for rows in mixture.rows]
    if sizes != expected:
        raise ValueError(f"embeddings have {sizes} numbers a scale, the prototypes {expected}")
    return [in_float32_or_wider(z) for z in embeddings]
