"""Prototypes: what a domain's embeddings at one scale look like, in a few thousand numbers that may leave a site.

Eq. 5 couples domains through mean exponentials ``mean_l exp(z·z_l/τ)`` over other domains' embeddings alone. A prototype holds
the moments from which they follow: the mean, the leading directions of the covariance, what is left of each coordinate's
variance, and within those directions a mixture of a few components. A single Gaussian will not do: slices with and without
bone form separate clusters, above all before the first training steps. Directions take almost all of the numbers, so
components cost next to nothing; each holds as many slices and exams as a prototype must, and so tells no more about a child.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

RANK = 8
"""Directions of a prototype."""
COMPONENTS = 4
"""Components of a prototype, at most."""


@dataclass(frozen=True)
class Prototype:
    """One domain's unit-norm embeddings at one scale; float32, without gradient.

    With E numbers an embedding, r directions and C components (those that are not used have share 0):

    ``slices``, ``exams``: how many it was computed from;
    ``site_slices``: what its domain weighs by where domains weigh by size: its training slices, or ``slices`` where they do not;
    ``mean``: μ, [E];
    ``directions``: leading eigenvectors of the covariance, orthonormal rows, [r, E];
    ``residual``: variance of each coordinate that the directions leave, [E];
    ``shares``: of the components, summing to 1, [C];
    ``centres``: of the components along the directions, measured from μ, [C, r];
    ``covariances``: of the components along the directions, [C, r, r];
    ``log_nu``: logarithm of ν, the mean inverse denominator of Eq. 5 over the slices as anchors, as if there were no other
    domain, []; :func:`mtmd_core.domain_mixture.mix` puts the others in;
    ``weighted_shares``, ``weighted_centres``: as above, every slice weighted by its inverse denominator. What is left of the
    weighted moments within a component is as good as unweighted: sending it too changed no gradient's cosine by 0.001.
    """

    slices: int
    exams: int
    site_slices: int
    mean: Tensor
    directions: Tensor
    residual: Tensor
    shares: Tensor
    centres: Tensor
    covariances: Tensor
    log_nu: Tensor
    weighted_shares: Tensor
    weighted_centres: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Every field but the counts."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.type is Tensor}


def weighing(prototypes: Sequence[Prototype], site_slices: int) -> list[Prototype]:
    """A domain's prototypes, one a scale, that weigh by so many training slices, whichever of them they are of."""
    return [replace(each, site_slices=site_slices) for each in prototypes]


def without_spread(prototype: Prototype) -> Prototype:
    """First order alone: the same mean and weighted mean, every variance and component gone (an ablation)."""
    centre = prototype.weighted_shares @ prototype.weighted_centres
    first = torch.zeros_like(prototype.shares)
    first[0] = 1
    return replace(
        prototype,
        residual=torch.zeros_like(prototype.residual),
        shares=first,
        centres=torch.zeros_like(prototype.centres),
        covariances=torch.zeros_like(prototype.covariances),
        weighted_shares=first,
        weighted_centres=first[:, None] * centre,
    )
