"""Prototypes of several domains side by side: mean exponentials of Eq. 5 under each of them, for many embeddings at a time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .prototypes import Prototype


@dataclass(frozen=True)
class DomainMixture:
    """Prototypes of M domains at S scales side by side, ready for many embeddings.

    ``log_weights``: log π_m, [M]. ``rows``: a scale's directions, mean μ, and residuals times μ/‖μ‖ of every domain,
    [M · (r + 2), E_s]; ``residuals``: [M, E_s]; ``lengths``: ‖μ‖, and ``radial``: the residual variance towards μ, [S, M]. The
    others are stacked over scales: [S, M, …].
    """

    domains: tuple[str, ...]
    log_weights: Tensor
    rows: tuple[Tensor, ...]
    residuals: tuple[Tensor, ...]
    lengths: Tensor
    radial: Tensor
    log_shares: Tensor
    centres: Tensor
    covariances: Tensor
    log_weighted_shares: Tensor
    weighted_centres: Tensor
    log_nu: Tensor
    log_slices: Tensor

    def to(self, device: torch.device | str) -> "DomainMixture":
        """The same on another device."""
        moved = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                moved[entry.name] = value.to(device)
            elif entry.name != "domains":
                moved[entry.name] = tuple(tensor.to(device) for tensor in value)
        return replace(self, **moved)

    def log_mean_exponentials(self, embeddings: Sequence[Tensor], temperature: float) -> tuple[Tensor, Tensor]:
        """``log E_m(z)`` and ``log Ẽ_m(z)`` of embeddings under every domain, each [S, M, B]; see :func:`log_exponential`.

        Args:
            embeddings: a scale's [B, E_s] each, float32 or wider.
            temperature: τ.
        """
        along, towards, rest = self._project(embeddings)
        inner = along[:, :, None] @ self.covariances.to(along)  # [S, M, C, B, r]
        variance = (inner * along[:, :, None]).sum(dim=4) + rest[:, :, None]  # [S, M, C, B]
        means = []
        for shares, centres in (
            (self.log_shares, self.centres),
            (self.log_weighted_shares, self.weighted_centres),
        ):
            similarity = towards[:, :, None] + centres.to(along) @ along.transpose(2, 3)  # [S, M, C, B]
            means.append(
                (shares.to(along)[..., None] + log_exponential(similarity, variance, temperature)).logsumexp(2)
            )
        return means[0], means[1]

    def similarity_to_mean(self, embeddings: Sequence[Tensor], domain: str) -> Tensor:
        """``z·μ`` with a domain's mean, [S, B]."""
        rank = self.centres.shape[3]
        row = self.domains.index(domain) * (rank + 2) + rank
        return torch.stack([z @ rows[row].to(z) for z, rows in zip(embeddings, self.rows, strict=True)])

    def _project(self, embeddings: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates along the directions [S, M, B, r], similarity to the means and residual variance, [S, M, B].

        With residuals d and the mean's direction u, the residual variance is ``Σ_e d_e (z − (z·u) u)_e²``: on a sphere,
        embeddings hardly vary towards their own mean.
        """
        rank = self.centres.shape[3]
        products = torch.stack([rows.to(z) @ z.T for z, rows in zip(embeddings, self.rows, strict=True)])
        products = products.unflatten(1, (len(self.domains), rank + 2))  # [S, M, r + 2, B]
        along, towards, crossed = products.split([rank, 1, 1], dim=2)
        towards, crossed = towards[:, :, 0], crossed[:, :, 0]
        squares = torch.stack([own.to(z) @ z.square().T for z, own in zip(embeddings, self.residuals, strict=True)])
        length, own = self.lengths.to(towards)[..., None], self.radial.to(towards)[..., None]
        upwards = towards / length
        rest = squares - 2 * upwards * crossed + upwards.square() * own
        return along.transpose(2, 3), towards, rest.clamp(min=0)


def mix(
    prototypes: Mapping[str, Sequence[Prototype]], temperature: float = 0.1, by_size: bool = False
) -> DomainMixture:
    """Put domains side by side, and each domain's share in the others' denominators into their ν and weighted shares.

    A prototype's ν knows its own domain alone. At the centre c of each of its components its inverse denominator becomes
    ``E_k(c) / Σ_m π_m E_m(c)`` times as large, m over all domains here. That follows whichever domains are present. Against a ν
    that each site computes from everybody's prototypes, it cost a gradient's cosine at most 0.01 before training and nothing
    from the first round on.

    Args:
        prototypes: domain → its prototype at each scale; the same scales for all.
        temperature: τ of Eq. 5.
        by_size: whether π_m is a domain's share of all sites' slices; otherwise domains weigh alike.

    Raises:
        ValueError: if there is no domain or no scale, or domains differ in scales or components.
    """
    mixture = side_by_side(prototypes, by_size)
    centres = [
        torch.cat([_weighted_centres(each) for each in scale])  # [M · C, E]
        for scale in zip(*prototypes.values(), strict=True)
    ]
    log_means, _ = mixture.log_mean_exponentials(centres, temperature)  # [S, M, M · C]
    log_means = log_means.unflatten(
        2, (len(mixture.domains), -1)
    )  # [S, M, M, C]: under a domain, the centres of another
    everybody = (mixture.log_weights[:, None, None] + log_means).logsumexp(dim=1)  # [S, M, C]
    corrected = mixture.log_weighted_shares + log_means.diagonal(dim1=1, dim2=2).transpose(1, 2) - everybody
    total = corrected.logsumexp(dim=2, keepdim=True)
    return replace(mixture, log_weighted_shares=corrected - total, log_nu=mixture.log_nu + total[..., 0])


def _weighted_centres(prototype: Prototype) -> Tensor:
    """The components' weighted centres on the sphere, [C, E]."""
    return F.normalize(prototype.mean + prototype.weighted_centres @ prototype.directions, dim=1)


def log_push(prototype: Prototype, temperature: float = 0.1) -> float:
    """``log max_z ν Ẽ(z)`` over the embeddings z where a prototype pushes hardest as a negative, were it the only domain.

    The maximum is over where Ẽ can be largest: the components' centres, plain and weighted, both ways along each direction, and
    along the coordinate of the largest residual variance. Over a domain's own slices ``ν Ẽ(z)`` is 1 in the mean, whatever the
    embeddings, since every D_a is the mean over them of what Ẽ sums.

    Args:
        prototype: of one domain at one scale.
        temperature: τ of Eq. 5.
    """
    centres = F.normalize(prototype.mean + prototype.centres @ prototype.directions, dim=1)
    spike = F.one_hot(prototype.residual.argmax(), len(prototype.residual))[None].to(prototype.directions)
    axes = torch.cat([prototype.directions, spike])
    tried = torch.cat([_weighted_centres(prototype), centres, axes, -axes])  # [2 C + 2 r + 2, E]
    _, weighted = side_by_side({"": [prototype]}).log_mean_exponentials([tried], temperature)
    return float(prototype.log_nu + weighted.max())


def most_log_push(temperature: float) -> float:
    """The most that :func:`log_push` may be: ``1/(4τ) + log 8``.

    Embeddings that all have similarity c to a z between them have at least c² to each other in the mean, so that ν Ẽ(z) is at
    most ``exp((c − c²)/τ) ≤ exp(1/(4τ))``; the eight is for what a mixture of few components gets wrong. At τ = 0.1 this is 4.6:
    prototypes of networks before, in and after training reached 1.3, rings and clusters of drawn embeddings 2.9, noised ones 3.9.
    """
    return 1 / (4 * temperature) + math.log(8)


def side_by_side(prototypes: Mapping[str, Sequence[Prototype]], by_size: bool = False) -> DomainMixture:
    """As :func:`mix`, with ν and weighted shares as the prototypes have them."""
    shapes = {domain: [(len(each.mean), len(each.shares)) for each in own] for domain, own in prototypes.items()}
    if not shapes or any(not own or own != next(iter(shapes.values())) for own in shapes.values()):
        raise ValueError(
            f"prototypes have these sizes and components a scale: {shapes}; expected the same of all domains"
        )
    scales = list(zip(*prototypes.values(), strict=True))  # scale → one of each domain
    rank = max(len(each.directions) for scale in scales for each in scale)
    stacked = {
        name: torch.stack([torch.stack([_padded(each, rank).tensors()[name] for each in scale]) for scale in scales])
        for name in ("shares", "centres", "covariances", "weighted_shares", "weighted_centres", "log_nu")
    }
    slices = torch.tensor([float(each.slices) for each in scales[0]])
    sizes = torch.tensor([float(each.site_slices) for each in scales[0]])
    tiny = torch.finfo(torch.float32).tiny
    return DomainMixture(
        domains=tuple(prototypes),
        log_weights=(sizes / sizes.sum() if by_size else torch.full_like(sizes, 1 / len(sizes))).log(),
        rows=tuple(
            torch.cat(
                [
                    torch.cat(
                        [_padded(each, rank).directions, torch.stack([each.mean, each.residual * _upwards(each)])]
                    )
                    for each in scale
                ]
            )
            for scale in scales
        ),
        residuals=tuple(torch.stack([each.residual for each in scale]) for scale in scales),
        lengths=torch.tensor([[float(each.mean.norm().clamp(min=tiny)) for each in scale] for scale in scales]),
        radial=torch.tensor([[float(each.residual @ _upwards(each).square()) for each in scale] for scale in scales]),
        log_shares=stacked["shares"].clamp(min=tiny).log(),
        centres=stacked["centres"],
        covariances=stacked["covariances"],
        log_weighted_shares=stacked["weighted_shares"].clamp(min=tiny).log(),
        weighted_centres=stacked["weighted_centres"],
        log_nu=stacked["log_nu"],
        log_slices=slices.log(),
    )


def _upwards(prototype: Prototype) -> Tensor:
    """The direction of the mean, [E]."""
    return F.normalize(prototype.mean, dim=0)


def _padded(prototype: Prototype, rank: int) -> Prototype:
    """With directions of zero added, where an embedding has fewer numbers than other scales have directions."""
    missing = rank - len(prototype.directions)
    if missing == 0:
        return prototype
    return replace(
        prototype,
        directions=F.pad(prototype.directions, (0, 0, 0, missing)),
        centres=F.pad(prototype.centres, (0, missing)),
        covariances=F.pad(prototype.covariances, (0, missing, 0, missing)),
        weighted_centres=F.pad(prototype.weighted_centres, (0, missing)),
    )


NEAREST = 1e-6
"""Deficit of similarity below which embeddings count as equal."""
SERIES_BELOW = 0.03
"""Where the series of :func:`log_exponential` takes the place of the logarithm, which loses digits there."""


def log_exponential(similarity: Tensor, variance: Tensor, temperature: float) -> Tensor:
    """``log mean_l exp(z·z_l/τ)`` from the mean and the variance of the similarities z·z_l.

    The second-order expansion ``m/τ + v/(2τ²)`` has no bound, and overshoots where embeddings are spread; the truth is at most
    1/τ. Deficits ``1 − z·z_l = ‖z − z_l‖²/2`` are at least 0, and for Gaussian embeddings sums of squares, which a gamma
    distribution of the same mean d = 1 − m and variance v stands for well (Satterthwaite 1946):

    ``log E = 1/τ − (d²/v) log(1 + v/(dτ))``, which is ``m/τ + v/(2τ²)`` to second order and never above 1/τ.

    Args:
        similarity: m, of any shape.
        variance: v, at least 0, of the same shape.
        temperature: τ, above 0.

    Returns:
        The logarithm, of the same shape.

    Example:
        >>> float(log_exponential(torch.tensor(0.9), torch.tensor(0.0), 0.1))
        9.0
        >>> float(log_exponential(torch.tensor(0.9), torch.tensor(0.01), 0.1))  # 10 − log 2; to second order 9.5
        9.3068...
    """
    deficit = (1 - similarity).clamp(min=NEAREST)
    ratio = variance / (deficit * temperature)
    small = ratio < SERIES_BELOW
    series = torch.where(small, ratio, 0.0)
    series = series * (1 / 2 - series * (1 / 3 - series * (1 / 4 - series * (1 / 5 - series / 6))))
    large = torch.where(small, 1.0, ratio)
    gain = torch.where(small, series, 1 - torch.log1p(large) / large)  # 1 − log(1 + a)/a
    return (similarity + deficit * gain) / temperature
