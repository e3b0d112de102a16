"""Coarse lattices of smooth quantities, and their interpolation to the slices of an image grid.

Distances, textures and coil shading vary slowly against a voxel. They are computed on lattices of about a millimetre
and brought to each slice by separable cubic interpolation: this is what makes an exam take seconds.

All coordinates here are millimetres along the image axes (i, j, k), zero at the centre of the field of view.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

Axes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Sorted coordinates along (i, j, k): a regular grid of any place."""


@dataclass(frozen=True)
class Grid:
    """A regular image grid centred on zero: `shape` and `spacing_mm` along (i, j, k)."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    def axes(self) -> Axes:
        """Voxel centres along (i, j, k)."""
        i, j, k = ((np.arange(n) - (n - 1) / 2) * h for n, h in zip(self.shape, self.spacing_mm, strict=True))
        return i, j, k

    def extent_mm(self) -> np.ndarray:
        """Edge-to-edge size along (i, j, k)."""
        return np.multiply(self.shape, self.spacing_mm)

    def refined(self, factors: tuple[int, int, int]) -> "Grid":
        """The grid with every voxel cut into `factors` parts along (i, j, k)."""
        shape = tuple(n * f for n, f in zip(self.shape, factors, strict=True))
        spacing = tuple(h / f for h, f in zip(self.spacing_mm, factors, strict=True))
        return Grid(shape, spacing)


@dataclass(frozen=True)
class Lattice:
    """Samples on a cubic lattice. `values` has axes (k, j, i); `origin_mm` (i, j, k) is where [0, 0, 0] lies."""

    origin_mm: np.ndarray
    step_mm: float
    values: np.ndarray

    def axes(self) -> Axes:
        """Coordinates along (i, j, k)."""
        i, j, k = (
            o + self.step_mm * np.arange(n) for o, n in zip(self.origin_mm, self.values.shape[::-1], strict=True)
        )
        return i, j, k


def empty_lattice(low_mm: np.ndarray, high_mm: np.ndarray, step_mm: float) -> Lattice:
    """A lattice of zeros (float32) that covers a box with two cells to spare for the interpolation."""
    count = np.ceil((np.asarray(high_mm) - low_mm) / step_mm).astype(int) + 5
    return Lattice(np.asarray(low_mm) - 2 * step_mm, step_mm, np.zeros(count[::-1], np.float32))


def smooth_noise(rng: np.random.Generator, extent_mm: np.ndarray, cell_mm: float) -> Lattice:
    """White noise of unit variance on a lattice over the field of view: a smooth texture of grain `cell_mm`."""
    noise = empty_lattice(-extent_mm / 2, extent_mm / 2, cell_mm)
    rng.standard_normal(dtype=np.float32, out=noise.values)
    return noise


def cubic_weights(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Catmull-Rom weights at fractional lattice positions: first index of four (N,) and weights (N, 4).

    Keys, "Cubic convolution interpolation for digital image processing" (1981), a = -1/2. Quadratics are
    reproduced exactly.
    """
    first = np.floor(positions).astype(int)
    t = positions - first
    weights = np.stack(
        [
            t * (-0.5 + t * (1 - 0.5 * t)),
            1 + t * t * (1.5 * t - 2.5),
            t * (0.5 + t * (2 - 1.5 * t)),
            t * t * (0.5 * t - 0.5),
        ],
        axis=1,
    )
    return first - 1, weights


class SliceSampler:
    """Interpolates a lattice to slices of constant k of a grid given by its axes.

    `window` (rows j, columns i) is the part of a slice that the lattice covers and `slices` the range of k; the sampler
    knows nothing outside. A lattice over the whole field of view covers everything.
    """

    def __init__(self, lattice: Lattice, axes: Axes):
        self._values = lattice.values
        covered, matrices = [], []
        for axis, size in enumerate(lattice.values.shape[::-1]):
            positions = (axes[axis] - lattice.origin_mm[axis]) / lattice.step_mm
            inside = np.flatnonzero((positions >= 1) & (positions < size - 2))
            start, stop = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
            covered.append(slice(start, stop))
            first, weights = cubic_weights(positions[start:stop])
            weights = weights.astype(np.float32)
            if axis == 2:
                self._first, self._taps = first, weights
            else:
                columns = (first[:, None] + np.arange(4)).ravel()
                rows = np.arange(0, columns.size + 1, 4)
                matrices.append(sparse.csr_matrix((weights.ravel(), columns, rows), shape=(stop - start, size)))
        self._along_i, self._along_j = matrices
        self.window = (covered[1], covered[0])
        empty = any(part.start == part.stop for part in covered)
        self.slices = range(0) if empty else range(covered[2].start, covered[2].stop)

    @classmethod
    def of_all(cls, lattice: Lattice, axes: Axes) -> "SliceSampler":
        """A sampler that covers all of a grid: what lies beyond the lattice takes its border's value.

        Spare cells of a coarse grid, outside the field of view, reach further than those of a finer lattice.
        """
        reach = zip(axes, lattice.origin_mm, lattice.values.shape[::-1], strict=True)
        i, j, k = (np.clip(a, o + lattice.step_mm, o + lattice.step_mm * (n - 2 - 1e-6)) for a, o, n in reach)
        return cls(lattice, (i, j, k))

    def sample(self, k: int) -> np.ndarray:
        """Values on slice `k`, float32 with axes (j, i), over the window."""
        n = k - self.slices.start
        first, taps = self._first[n], self._taps[n]
        plane = taps[0] * self._values[first]  # (j, i) of the lattice
        for tap in range(1, 4):
            plane += taps[tap] * self._values[first + tap]
        rows = self._along_i @ np.ascontiguousarray(plane.T)  # (i of the slice, j of the lattice)
        return self._along_j @ np.ascontiguousarray(rows.T)
