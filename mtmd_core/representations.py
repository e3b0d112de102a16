"""What embeddings tell of domains: how alike they are (the paper, section 3.5; maps of them: :mod:`mtmd_core.plane_maps`).

Embeddings are rows, [n, E], of one domain and one scale. Everything random is drawn from a generator that is given.
"""

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtmd_core.seeds import derive_seed

SCALES = tuple(f"s{number}" for number in range(1, 10))
"""Five of the encoder, s5 being the bottleneck, and four of the decoder."""
PAIRS = 100_000
"""Random pairs within and between domains (section 3.5)."""

_AT_ONCE = 10_000  # pairs; gathered in one go, 1e5 pairs of 512 numbers would take 800 MB
_GRAM_ENTRIES_A_PAIR = 20  # up to here a product of matrices, all pairs there are, is faster than to gather those drawn

DomainPair = tuple[str, str]
"""Two domains in the order of their names; the same one twice for what lies within it."""


def domain_pairs(domains: Mapping[str, object]) -> list[DomainPair]:
    """Every domain with itself, then every two domains, in the order of their names.

    >>> domain_pairs({"knee": 0, "ankle": 0})
    [('ankle', 'ankle'), ('knee', 'knee'), ('ankle', 'knee')]
    """
    names = sorted(domains)
    return [(name, name) for name in names] + list(itertools.combinations(names, 2))


def pair_similarities(
    embeddings: Mapping[str, NDArray], seed: int, pairs: int = PAIRS
) -> dict[DomainPair, NDArray[np.float64]]:
    """Cosine similarities ``z·z' / (‖z‖ ‖z'‖)`` of random pairs of slices, within each domain and between every two.

    Pairs are drawn with replacement, within a domain of two different slices; a domain pair's draw depends on the seed and
    its names alone.

    Args:
        embeddings: domain → [n, E]; n may differ.
        seed: of the draw.
        pairs: how many of each kind.

    Returns:
        Domain pair → [pairs], between −1 and 1; empty where a domain has no two slices, or none.

    Raises:
        ValueError: for embeddings that are no matrix, or of different lengths.
    """
    unit = {domain: _unit(domain, own) for domain, own in embeddings.items()}
    if len({own.shape[1] for own in unit.values()}) > 1:
        lengths = ", ".join(f"{domain} {own.shape[1]}" for domain, own in unit.items())
        raise ValueError(f"Embeddings have different lengths ({lengths}); compare those of one scale of one network.")
    return {
        (one, other): _similarities(unit[one], unit[other], _draw(unit, one, other, seed, pairs))
        for one, other in domain_pairs(unit)
    }


def expected_similarities(means: Mapping[str, ArrayLike]) -> dict[DomainPair, float]:
    """Between every two domains, the mean cosine similarity of all pairs of their embeddings, from the domains' means alone.

    Over independent draws ``E[z·z'] = E[z]·E[z']``, so it is exact for unit-norm embeddings: what pairs sample, a federation
    knows from its sites' prototypes (:class:`mtmd_core.prototypes.Prototype`) without an embedding leaving a site.

    Args:
        means: domain → mean of its unit-norm embeddings, [E].

    >>> expected_similarities({"ankle": [0.6, 0.0], "knee": [0.5, 0.5]})
    {('ankle', 'knee'): 0.3}
    """
    known = {domain: np.asarray(mean, np.float64) for domain, mean in means.items()}
    return {(one, other): float(known[one] @ known[other]) for one, other in domain_pairs(known) if one != other}


def expected_similarity_within(mean: ArrayLike, slices: int) -> float:
    """Mean cosine similarity of all pairs of two different slices of a domain, ``(n ‖μ‖² − 1) / (n − 1)``.

    ``‖μ‖²`` alone counts every slice's similarity to itself, 1. Unit-norm embeddings; NaN for fewer than two.

    >>> expected_similarity_within([0.5, 0.5], 2)  # of two embeddings at a right angle
    0.0
    """
    if slices < 2:
        return np.nan
    length = np.asarray(mean, np.float64)
    return float((slices * (length @ length) - 1) / (slices - 1))


def _unit(domain: str, embeddings: NDArray) -> NDArray[np.float64]:
    if embeddings.ndim != 2:
        raise ValueError(f"The embeddings of {domain} have shape {embeddings.shape}; expected [slices, numbers].")
    own = np.asarray(embeddings, np.float64)
    return own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _draw(unit: Mapping[str, NDArray], one: str, other: str, seed: int, pairs: int) -> tuple[NDArray, NDArray]:
    """Row numbers of both partners of each pair, [pairs] each."""
    random = np.random.default_rng(derive_seed(seed, "pairs", one, other))
    count, others = len(unit[one]), len(unit[other])
    if min(count, others) < 1 + (one == other):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    first = random.integers(count, size=pairs)
    if one != other:
        return first, random.integers(others, size=pairs)
    return first, (first + random.integers(1, count, size=pairs)) % count  # any row but its own


def _similarities(one: NDArray, other: NDArray, draw: tuple[NDArray, NDArray]) -> NDArray[np.float64]:
    if len(one) * len(other) <= _GRAM_ENTRIES_A_PAIR * len(draw[0]):
        return (one @ other.T)[draw].clip(-1, 1)
    parts = [
        np.einsum("pe,pe->p", one[draw[0][start : start + _AT_ONCE]], other[draw[1][start : start + _AT_ONCE]])
        for start in range(0, len(draw[0]), _AT_ONCE)
    ]
    return np.concatenate([np.empty(0), *parts]).clip(-1, 1)
