"""Prototypes under differential privacy: two noised moments a scale, and everything else computed from these.

A prototype's directions, components and inverse denominators have no useful bound on what one exam can change in them. So the
data are asked for two moments alone, the mean embedding and the mean of its outer products, with Gaussian noise (Dwork et al.
2014, "Analyze Gauss"); embeddings are then drawn from the distribution that these describe, and summarised as if they were
the site's. What is computed from noised numbers costs no more privacy.

What the guarantee is of: neighbouring sites differ in one exam, which is replaced by any other; the numbers of exams and slices
are public; and the network is taken as it is. It was trained on the exams, and its parameters are sent without noise.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .domain_mixture import log_push, most_log_push
from .minimum import LOCAL, MINIMUM, Minimum
from .prototype_summary import summarise
from .prototypes import COMPONENTS, Prototype

DRAWN = 4096
"""Embeddings that are drawn from the noised moments."""


def sensitivity(exams: int, scales: int) -> float:
    """The L2 distance by which replacing one exam can move the moments of all scales together: ``√(4.5 S) / exams``.

    Every exam counts as one, by the means over its slices of z and z zᵀ. With ``k(z, z') = z·z' + (z·z')²``, their inner
    product, which is at most 2 and never below −1/4, two exams are at most ``√(2 + 2 + 2/4)`` apart at one scale.

    >>> round(sensitivity(15, 9), 3)
    0.424
    """
    return math.sqrt(4.5 * scales) / exams


def noised_prototypes(
    scales: Sequence[Tensor],
    exams: Tensor,
    noise_multiplier: float,
    generator: torch.Generator,
    temperature: float = 0.1,
    minimum: Minimum = MINIMUM,
) -> list[Prototype] | None:
    """A domain's prototypes from moments with Gaussian noise of ``noise_multiplier`` times their sensitivity.

    The Gaussian mechanism once, over all scales together; how (ε, δ) follows from the noise multiplier is for an accountant.

    Args:
        scales: [n, E_s] of unit norm each. The guarantee holds if an embedding depends on its own slice alone: of a network in
            evaluation mode, not normalised by its batch.
        exams: [n], integers that tell exams apart.
        noise_multiplier: above 0.
        generator: of noise and drawn embeddings, on the CPU.
        temperature: τ of Eq. 5.
        minimum: exams and slices that there must be.

    Returns:
        One a scale, each of one component; None where there are too few exams or slices.
    """
    if not minimum.met_by(torch.ones(len(exams), dtype=torch.float64), exams):
        return None
    _, members, counts = torch.unique(exams, return_inverse=True, return_counts=True)
    weights = 1 / (len(counts) * counts[members].double())  # [n]: every exam counts as one
    deviation = noise_multiplier * sensitivity(len(counts), len(scales))
    made = []
    for scale in scales:
        embeddings = F.normalize(
            scale.detach().to("cpu", torch.float64), dim=1
        )  # clipped to what the sensitivity is of
        mean = weights @ embeddings
        products = (embeddings * weights[:, None]).T @ embeddings
        mean = mean + deviation * _gaussian(mean.shape, generator)
        products = products + deviation * _symmetric_gaussian(len(mean), generator)
        drawn = _drawn(*feasible(mean, products - torch.outer(mean, mean)), generator)
        prototype = summarise(drawn, torch.zeros(len(drawn)), temperature, minimum=LOCAL, components=1)
        made.append(_counted(prototype, len(exams), len(counts), temperature))
    return made


def feasible(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest moments that embeddings of unit norm can have: ``‖μ‖ ≤ 1``, ``Σ ⪰ 0`` and ``tr Σ = 1 − ‖μ‖²``.

    Args:
        mean: [E].
        covariance: [E, E], symmetric.

    Returns:
        The mean cut to the ball, and the covariance with its eigenvalues moved by the same amount and cut at 0 (the Euclidean
        projection onto the simplex), which takes away most of what noise adds to them.
    """
    mean = mean / max(1.0, float(mean.norm()))
    values, vectors = torch.linalg.eigh(covariance)
    trace = max(1 - float(mean.square().sum()), 0.0)
    descending = values.flip(0)
    moves = (descending.cumsum(0) - trace) / torch.arange(1, len(values) + 1, dtype=values.dtype)
    kept = int((descending > moves).sum()) or 1
    values = (values - moves[kept - 1]).clamp(min=0)
    return mean, (vectors * values) @ vectors.T


def _drawn(mean: Tensor, covariance: Tensor, generator: torch.Generator) -> Tensor:
    """Embeddings on the sphere from a Gaussian, [DRAWN, E]."""
    values, vectors = torch.linalg.eigh(covariance)
    noise = _gaussian((DRAWN, len(mean)), generator) * values.clamp(min=0).sqrt()
    return F.normalize(mean + noise @ vectors.T, dim=1)


def _counted(prototype: Prototype, slices: int, exams: int, temperature: float) -> Prototype:
    """With the site's own counts, with ν at most as large as they and the moments allow, and with room for others' components."""
    room = most_log_push(temperature) - log_push(prototype, temperature)
    most = min(math.log(slices) - 1 / temperature, float(prototype.log_nu) + room)

    def padded(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, torch.zeros(COMPONENTS - 1, *tensor.shape[1:])])

    names = ("shares", "centres", "covariances", "weighted_shares", "weighted_centres")
    more = {name: padded(getattr(prototype, name)) for name in names}
    nu = prototype.log_nu.clamp(max=most)
    return replace(prototype, slices=slices, exams=exams, site_slices=slices, log_nu=nu, **more)


def _gaussian(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _symmetric_gaussian(size: int, generator: torch.Generator) -> Tensor:
    """Independent numbers on and above the diagonal; their L2 distance is at most the Frobenius one, [size, size]."""
    upper = _gaussian((size, size), generator).triu()
    return upper + upper.triu(1).T
