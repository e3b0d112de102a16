"""Averages of what sites send; pure functions of arrays."""

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch


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
    tensors = [_tensor(array) for array in arrays]
    total = tensors[0].to(torch.float64, copy=True).mul_(fractions[0])  # double() would hand back a site's own array
    for tensor, fraction in zip(tensors[1:], fractions[1:], strict=True):
        total.add_(tensor, alpha=fraction)
    return total.to(tensors[0].dtype).numpy()


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A view of an array that is only read, though PyTorch cannot promise it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def all_finite(array: np.ndarray) -> bool:
    """Whether an array holds no NaN and no infinity.

    A sum is finite where all its terms are, unless it overflows; only then each element is looked at.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(array, axis=None)
    return bool(np.isfinite(total)) or bool(np.isfinite(array).all())
