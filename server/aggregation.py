"""Averages of what sites send; pure functions of arrays."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mtmd_core.arrays import as_tensor

PIECE = 1 << 17
"""Elements added up at a time: their float64 sums stay in the processor's cache."""


def average(contributions: Sequence[Mapping[str, np.ndarray]], weights: Sequence[float]) -> dict[str, np.ndarray]:
    """Weighted mean of arrays by name: ``Σ_k w_k Θ_k / Σ_k w_k``.

    Sums run in float64 in the order given and are cast back, so the result depends on that order and on nothing else.

    Args:
        contributions: one mapping a site, all of the same names, shapes and floating dtypes.
        weights: one a site, at least 0, not all 0.

    Raises:
        ValueError: if there is nothing to average, or the weights cannot be used.

    Example:
        >>> average([{"a": np.float32([1, 2])}, {"a": np.float32([3, 6])}], [1, 1])
        {'a': array([2., 4.], dtype=float32)}
    """
    total = float(sum(weights))
    if len(weights) != len(contributions) or min(weights, default=-1.0) < 0 or not 0 < total < math.inf:
        raise ValueError(f"{len(contributions)} contributions cannot be averaged with weights {list(weights)}")
    fractions = [weight / total for weight in weights]
    return {name: _average_arrays([arrays[name] for arrays in contributions], fractions) for name in contributions[0]}


def _average_arrays(arrays: Sequence[np.ndarray], fractions: Sequence[float]) -> np.ndarray:
    if arrays[0].dtype.kind != "f":
        raise ValueError(f"an array of {arrays[0].dtype} cannot be averaged: only floating-point parameters can")
    flats = [as_tensor(array).reshape(-1) for array in arrays]
    mean = torch.empty_like(flats[0])
    sums, terms = torch.empty(2, min(PIECE, mean.numel()), dtype=torch.float64)
    for start in range(0, mean.numel(), PIECE):
        pieces = [flat[start : start + PIECE] for flat in flats]
        total, term = sums[: len(pieces[0])], terms[: len(pieces[0])]
        total.copy_(pieces[0]).mul_(fractions[0])
        for piece, fraction in zip(pieces[1:], fractions[1:], strict=True):
            total.add_(term.copy_(piece), alpha=fraction)  # converting first is faster than adding mixed types
        mean[start : start + PIECE] = total
    return mean.reshape(arrays[0].shape).numpy()
