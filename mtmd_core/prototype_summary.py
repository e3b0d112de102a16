"""From a domain's embeddings at one scale to its prototype."""

from bisect import bisect_left
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .domain_mixture import side_by_side
from .minimum import MINIMUM, Minimum
from .prototypes import COMPONENTS, RANK, Prototype

REFINEMENTS = 10
"""Rounds of 2-means after a component was cut in two."""


class DivergedError(ValueError):
    """Embeddings that are NaN or infinite: there is no prototype of a network that has diverged."""


def summarise(
    embeddings: Tensor,
    exams: Tensor,
    temperature: float = 0.1,
    *,
    weights: Tensor | None = None,
    minimum: Minimum = MINIMUM,
    rank: int = RANK,
    components: int = COMPONENTS,
) -> Prototype | None:
    """The prototype of a domain's embeddings at one scale.

    First the moments; then ν and the weighted moments, from ``D_a = mean_l exp(z_a·z_l/τ)`` of every slice a over its own
    domain, the mean being that of the moments of the first step. A slice is among those that D_a runs over, hence
    ``D_a ≥ exp(1/τ)/n``, where it is kept. Nothing depends on other domains: neither on which there are nor on how old their
    prototypes are. What they add to D_a is put in by :func:`mtmd_core.domain_mixture.mix`, in the first round as in the last.

    Args:
        embeddings: [n, E] of unit norm; sums run in float64.
        exams: [n], integers that tell exams apart.
        temperature: τ of Eq. 5.
        weights: [n], at least 0; all alike if not given.
        minimum: what the whole must hold for there to be a prototype at all, and each part for there to be a component.
        rank: directions r, or E where that is less.
        components: C.

    Returns:
        None where there are too few exams or slices.

    Raises:
        ValueError: if embeddings, exams and weights are not of n slices.
        DivergedError: if not all embeddings are finite.
    """
    precise = embeddings.detach().to("cpu", torch.float64)
    exams = torch.as_tensor(exams).cpu()
    weights = torch.ones(len(precise)) if weights is None else weights.detach().cpu()
    if precise.ndim != 2 or exams.shape != precise.shape[:1] or weights.shape != precise.shape[:1]:
        raise ValueError(
            f"embeddings are {list(precise.shape)}, exams {list(exams.shape)} and weights {list(weights.shape)}; "
            "expected [n, E], [n] and [n]"
        )
    if not bool(torch.isfinite(precise).all()):
        raise DivergedError("some embeddings are not finite: there is no prototype of a network that has diverged")
    if not minimum.met_by(weights.double(), exams):
        return None
    kept = weights > 0
    weights = weights[kept].double()
    summary = _Summary(precise[kept], exams[kept], weights / weights.sum(), minimum, rank, components)
    return summary.prototype(temperature)


def limit_exams(exams: Tensor, slices: int) -> Tensor:
    """Weights, [n], under which no exam counts for more than a number of its slices: ``min(1, slices / n_exam)``.

    Bounds what one exam can change in a mean over n slices to 2 · ``slices`` / n, and what a long exam says of its child.

    Args:
        exams: [n], integers that tell exams apart.
        slices: at least 1.

    >>> limit_exams(torch.tensor([7, 7, 7, 7, 9]), 2)
    tensor([0.5000, 0.5000, 0.5000, 0.5000, 1.0000])
    """
    _, members, counts = torch.unique(exams, return_inverse=True, return_counts=True)
    return (slices / counts[members]).clamp(max=1.0)


class _Summary:
    """Embeddings [n, E] along their leading directions, and which component each belongs to; weights sum to 1."""

    def __init__(
        self, embeddings: Tensor, exams: Tensor, weights: Tensor, minimum: Minimum, rank: int, components: int
    ) -> None:
        self.embeddings, self.exams, self.weights = embeddings, exams, weights
        self.mean = weights @ embeddings
        offsets = embeddings - self.mean
        self.directions = _leading_directions(offsets, weights, min(rank, offsets.shape[1]))  # [r, E]
        self.along = offsets @ self.directions.T  # [n, r]
        self.residual = weights @ (offsets - self.along @ self.directions).square()
        self.labels = _cut(self.along, exams, weights, minimum, components)
        self.components = components

    def prototype(self, temperature: float) -> Prototype:
        shares, centres = self._centres(self.weights)
        spread = self.along - centres[self.labels]
        member = F.one_hot(self.labels, self.components).double() * self.weights[:, None]  # [n, C]
        covariances = torch.einsum("nc,nr,nq->crq", member, spread, spread) / shares.clamp(min=1e-300)[:, None, None]
        moments = Prototype(
            len(self.embeddings), len(self.exams.unique()), len(self.embeddings),
            *(tensor.float() for tensor in (
                self.mean, self.directions, self.residual, shares, centres, covariances,
                torch.tensor(0.0), shares, centres,
            )),
        )  # fmt: skip
        log_inverse = -self._log_denominators(moments, temperature)
        largest = log_inverse.max()
        inverse = self.weights * (log_inverse - largest).exp()
        weighted_shares, weighted_centres = self._centres(inverse / inverse.sum())
        return replace(
            moments,
            log_nu=(inverse.sum().log() + largest).float(),
            weighted_shares=weighted_shares.float(),
            weighted_centres=weighted_centres.float(),
        )

    def _centres(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        shares = torch.zeros(self.components, dtype=torch.float64).index_add(0, self.labels, weights)
        sums = torch.zeros(self.components, self.along.shape[1], dtype=torch.float64)
        sums = sums.index_add(0, self.labels, weights[:, None] * self.along)
        return shares, sums / shares.clamp(min=1e-300)[:, None]

    def _log_denominators(self, own: Prototype, temperature: float) -> Tensor:
        """log D_a of every slice, [n]."""
        log_means, _ = side_by_side({"": [own]}).log_mean_exponentials([self.embeddings], temperature)  # [1, 1, n]
        return torch.maximum(log_means[0, 0], 1 / temperature + self.weights.log())


def _leading_directions(offsets: Tensor, weights: Tensor, rank: int) -> Tensor:
    """Leading eigenvectors of the covariance of offsets [n, E] from the mean, [rank, E].

    Fewer embeddings than they have numbers are decomposed themselves: their covariance, [E, E], would take far longer.
    """
    count, size = offsets.shape
    if count >= size:
        covariance = (offsets * weights[:, None]).T @ offsets
        return torch.linalg.eigh(covariance).eigenvectors[:, -rank:].flip(1).T.contiguous()
    directions = torch.linalg.svd(offsets * weights.sqrt()[:, None], full_matrices=False).Vh[:rank]
    if count < rank:  # any others that complete an orthonormal set: nothing varies along them
        spare = torch.eye(size, dtype=offsets.dtype)[:, :rank]
        directions = torch.linalg.qr(torch.cat([directions.T, spare], dim=1)).Q[:, :rank].T
    return directions.contiguous()


def _cut(along: Tensor, exams: Tensor, weights: Tensor, minimum: Minimum, components: int) -> Tensor:
    """Which component each slice belongs to, [n]: the most spread one is cut in two as long as both halves hold the minimum.

    In NumPy, whose calls on so few numbers cost a fraction of PyTorch's: a site does this every few steps.
    """
    points, mass, exams = along.numpy(), weights.numpy(), exams.numpy()  # [n, r], [n], [n]
    labels = np.zeros(len(points), dtype=np.int64)
    spreads = {0: _spread(points, mass)}
    count = 1
    while spreads and count < components:
        widest = max(spreads, key=spreads.get)
        places = (labels == widest).nonzero()[0]
        halves = _cut_in_two(places, points, exams, mass, minimum)
        if halves is None:
            del spreads[widest]  # it stays whole
            continue
        labels[halves[1]] = count
        spreads |= {
            label: _spread(points[half], mass[half]) for label, half in zip((widest, count), halves, strict=True)
        }
        count += 1
    return torch.from_numpy(labels)


def _cut_in_two(
    places: np.ndarray, points: np.ndarray, exams: np.ndarray, weights: np.ndarray, minimum: Minimum
) -> tuple[np.ndarray, np.ndarray] | None:
    """The places of both halves; None where no cut leaves the minimum on both sides.

    Where 2-means makes one half too small, as a cluster of few slices is, it gets those of the other half that are nearest to it
    until it holds the minimum: a cut that is not quite between two clusters still describes them better than none.
    """
    side = _halve(points[places], weights[places])
    if side.all() or not side.any():
        return None

    def fits(half: np.ndarray) -> bool:
        return minimum.met_by(weights[half], exams[half])

    halves = places[~side], places[side]
    fit = [fits(half) for half in halves]
    if all(fit) or not any(fit):
        return halves if all(fit) else None
    small, large = halves if fit[1] else halves[::-1]
    centre = weights[small] @ points[small] / weights[small].sum()
    nearest = large[np.square(points[large] - centre).sum(axis=1).argsort(kind="stable")]
    taken = bisect_left(range(len(nearest)), True, key=lambda count: fits(np.r_[small, nearest[:count]]))
    halves = nearest[taken:], np.r_[small, nearest[:taken]]
    return halves if all(map(fits, halves)) else None


def _spread(points: np.ndarray, weights: np.ndarray) -> float:
    return float(weights @ np.square(points - weights @ points / weights.sum()).sum(axis=1))


def _halve(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """2-means from a cut across the widest direction: whether each point is in the second half, [n]."""
    offsets = points - weights @ points / weights.sum()
    axis = np.linalg.eigh((weights[:, None] * offsets).T @ offsets).eigenvectors[:, -1]
    side = offsets @ axis > 0
    for _ in range(REFINEMENTS):
        if side.all() or not side.any():
            break
        first, second = (weights[half] @ points[half] / weights[half].sum() for half in (~side, side))
        moved = np.square(points - second).sum(axis=1) < np.square(points - first).sum(axis=1)
        if np.array_equal(moved, side):
            break
        side = moved
    return side
