"""Prototypes as named float32 arrays for a message, and what is wrong with those that came in one."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from .domain_mixture import log_push, most_log_push
from .minimum import MINIMUM, Minimum
from .prototypes import COMPONENTS, RANK, Prototype
from .wire import array_shape, misfit

COUNTS = "counts"
"""Name of the array of slices, exams and slices of the site, [3]; others are ``s<scale>/<field>``, scales counted from 1."""
TOLERANCE = 1e-3
"""Of sums that are 1 or 0 in exact arithmetic."""
MOST_SLICES = 1_000_000
"""More than any site trains on; how hard a prototype may push, and its weight by size, grow with what it counts."""


class Fault(StrEnum):
    """Why a prototype is none."""

    WRONG_SHAPE = "arrays of another name, type or shape"
    NOT_FINITE = "not finite"
    NOT_COUNTS = "counts that are no whole numbers"
    TOO_FEW = "too few exams or slices"
    TOO_MANY = "more slices than its site can have"
    MEAN_TOO_LONG = "a mean longer than any embedding"
    NEGATIVE_VARIANCE = "a negative variance"
    TOO_SPREAD = "a component wider than the sphere"
    NOT_ORTHONORMAL = "directions that are not orthonormal"
    NOT_SHARES = "shares that are negative or do not sum to 1"
    NOT_UNIT_NORM = "moments of embeddings that are not of unit norm"
    IMPOSSIBLE_NU = "an inverse denominator outside its bounds"
    CONTRADICTED_NU = "an inverse denominator that the moments contradict"


def array_shapes(
    sizes: Sequence[int], rank: int = RANK, components: int = COMPONENTS
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name → dtype and shape of every array of a message.

    >>> sum(int(np.prod(shape)) for _, shape in array_shapes([32, 64, 128, 256, 512, 256, 128, 64, 32]).values())
    16676
    """
    shapes = {COUNTS: ("float32", (3,))}
    for number, size in enumerate(sizes, start=1):
        directions = min(rank, size)
        for field, shape in {
            "mean": (size,),
            "directions": (directions, size),
            "residual": (size,),
            "shares": (components,),
            "centres": (components, directions),
            "covariances": (components, directions * (directions + 1) // 2),  # their upper triangles, row by row
            "log_nu": (),
            "weighted_shares": (components,),
            "weighted_centres": (components, directions),
        }.items():
            shapes[f"s{number}/{field}"] = ("float32", shape)
    return shapes


def to_arrays(prototypes: Sequence[Prototype]) -> dict[str, np.ndarray]:
    """A domain's prototypes, one a scale, as :func:`array_shapes` describes."""
    arrays = {COUNTS: np.array([prototypes[0].slices, prototypes[0].exams, prototypes[0].site_slices], np.float32)}
    for number, prototype in enumerate(prototypes, start=1):
        for field, tensor in prototype.tensors().items():
            flat = _triangles(tensor) if field == "covariances" else tensor
            arrays[f"s{number}/{field}"] = flat.numpy().astype(np.float32)
    return arrays


def from_arrays(
    arrays: Mapping[str, np.ndarray], sizes: Sequence[int], rank: int = RANK, components: int = COMPONENTS
) -> list[Prototype]:
    """What :func:`to_arrays` was given.

    Raises:
        ValueError: if names, dtypes or shapes are not those of :func:`array_shapes`, or a count is no whole number; the
            text begins with a :class:`Fault`. What the numbers mean is for :func:`fault_of`.
    """
    given = {name: array_shape(array) for name, array in arrays.items()}
    reason = misfit(array_shapes(sizes, rank, components), given)
    if reason is not None:
        raise ValueError(f"{Fault.WRONG_SHAPE}: {reason}")
    slices, exams, site_slices = _counts(arrays[COUNTS])
    prototypes = []
    for number, size in enumerate(sizes, start=1):
        prefix = f"s{number}/"
        tensors = {
            name.removeprefix(prefix): torch.from_numpy(np.array(array))
            for name, array in arrays.items()
            if name.startswith(prefix)
        }
        tensors["covariances"] = _squares(tensors["covariances"], min(rank, size))
        prototypes.append(Prototype(slices, exams, site_slices, **tensors))
    return prototypes


def refusal(
    arrays: Mapping[str, np.ndarray],
    sizes: Sequence[int],
    temperature: float = 0.1,
    minimum: Minimum = MINIMUM,
    most_slices: int = MOST_SLICES,
) -> str | None:
    """Why a message holds no prototypes, with the scale; None if it does. Arguments as for :func:`fault_of`."""
    try:
        prototypes = from_arrays(arrays, sizes)
    except ValueError as error:
        return str(error)
    for number, prototype in enumerate(prototypes, start=1):
        fault = fault_of(prototype, temperature, minimum, most_slices)
        if fault is not None:
            return f"{fault}: s{number}"
    return None


def fault_of(
    prototype: Prototype, temperature: float = 0.1, minimum: Minimum = MINIMUM, most_slices: int = MOST_SLICES
) -> Fault | None:
    """The first thing that is wrong with a prototype of the right shapes; None if it can be one.

    Args:
        prototype: from whomever.
        temperature: τ of Eq. 5.
        minimum: exams and slices that it must count.
        most_slices: that it and its site may count: those of the site, where they are known.
    """
    if not all(bool(torch.isfinite(tensor).all()) for tensor in prototype.tensors().values()):
        return Fault.NOT_FINITE
    if prototype.exams < minimum.exams or prototype.slices < max(minimum.slices, prototype.exams):
        return Fault.TOO_FEW
    exact = {name: tensor.double() for name, tensor in prototype.tensors().items()}
    if not prototype.slices <= prototype.site_slices <= min(most_slices, MOST_SLICES):
        return Fault.TOO_MANY
    if float(exact["mean"].norm()) > 1 + TOLERANCE:
        return Fault.MEAN_TOO_LONG
    variances = torch.linalg.eigvalsh(exact["covariances"])
    if float(variances.min()) < -TOLERANCE or float(exact["residual"].min()) < -TOLERANCE:
        return Fault.NEGATIVE_VARIANCE
    reach = max(float(exact[name].norm(dim=1).max()) for name in ("centres", "weighted_centres"))
    if reach > 2 + TOLERANCE or float(variances.sum(dim=1).max()) > 1 + TOLERANCE:
        return Fault.TOO_SPREAD
    products = exact["directions"] @ exact["directions"].T
    if float((products - torch.eye(len(products))).abs().max()) > TOLERANCE:
        return Fault.NOT_ORTHONORMAL
    if any(
        float(exact[name].min()) < 0 or abs(float(exact[name].sum()) - 1) > TOLERANCE
        for name in ("shares", "weighted_shares")
    ):
        return Fault.NOT_SHARES
    if abs(_mean_square(exact) - 1) > 10 * TOLERANCE:
        return Fault.NOT_UNIT_NORM
    excess = (
        float(exact["log_nu"]) + 1 / temperature
    )  # a slice is in its own denominator: D lies in exp(1/τ) · [1/n, 1]
    if not -TOLERANCE <= excess <= np.log(prototype.slices) + TOLERANCE:
        return Fault.IMPOSSIBLE_NU
    if log_push(prototype, temperature) > most_log_push(temperature) + TOLERANCE:
        return Fault.CONTRADICTED_NU
    return None


def _counts(counts: np.ndarray) -> tuple[int, int, int]:
    """Slices, exams and the site's slices, from [3]."""
    if not np.isfinite(counts).all():
        raise ValueError(f"{Fault.NOT_FINITE}: {COUNTS}")
    if not ((counts >= 0) & (counts == np.floor(counts))).all():
        raise ValueError(f"{Fault.NOT_COUNTS}: {COUNTS}")
    slices, exams, site_slices = counts
    return int(slices), int(exams), int(site_slices)


def _mean_square(exact: Mapping[str, Tensor]) -> float:
    """``tr Σ + ‖μ‖²``, the embeddings' mean squared norm."""
    within = exact["covariances"].diagonal(dim1=1, dim2=2).sum(dim=1)
    along = exact["shares"] @ (within + exact["centres"].square().sum(dim=1))
    return float(exact["mean"].square().sum() + along + exact["residual"].sum())


def _triangles(covariances: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(*covariances.shape[1:])
    return covariances[:, rows, columns]


def _squares(triangles: Tensor, rank: int) -> Tensor:
    rows, columns = torch.triu_indices(rank, rank)
    squares = torch.zeros(len(triangles), rank, rank)
    squares[:, rows, columns] = triangles
    squares[:, columns, rows] = triangles
    return squares
