"""From an exam to 2D slices of one size, and back to the exam's own grid.

Geometry is that of pixel areas: a plane's extent in millimetres maps onto the extent of the content of a slice, both
ways with the same two numbers, so that going there and back moves nothing.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SPACING_TOLERANCE = 1e-3
"""Relative difference below which two spacings count as equal."""


def slice_axis(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> int:
    """The axis to cut an exam along: the coarsest spacing, ties broken by fewest slices, then the lowest axis.

    >>> slice_axis((256, 256, 100), (0.25, 0.25, 0.5))
    2
    """
    coarsest = max(spacing_mm)
    tied = [axis for axis in range(3) if spacing_mm[axis] > coarsest * (1 - SPACING_TOLERANCE)]
    return min(tied, key=lambda axis: (shape[axis], axis))


def common_slice_axis(
    geometries: Iterable[tuple[tuple[int, int, int], tuple[float, float, float]]],
) -> int:
    """The axis that most exams of a site ask for, so that all of a site's slices show the same plane.

    Nearly cubic exams would otherwise be cut along different axes within one site. Ties go to the lowest axis.
    """
    votes = Counter(slice_axis(shape, spacing) for shape, spacing in geometries)
    return min(votes, key=lambda axis: (-votes[axis], axis))


@dataclass(frozen=True)
class SliceGrid:
    """How an exam's planes lie in its slices.

    ``axis``: cut along it; ``shape``: of the exam, canonical; ``size``: slices are size × size; ``content``: rows and
    columns that the plane fills, centred, the rest is padding.
    """

    axis: int
    shape: tuple[int, int, int]
    size: int
    content: tuple[int, int]

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns of a plane of the exam."""
        rows, columns = (length for axis, length in enumerate(self.shape) if axis != self.axis)
        return rows, columns

    @property
    def window(self) -> tuple[slice, slice]:
        """Where the content lies in a slice."""
        top, left = ((self.size - length) // 2 for length in self.content)
        return slice(top, top + self.content[0]), slice(left, left + self.content[1])


def slice_grid(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], axis: int, size: int) -> SliceGrid:
    """Fit an exam's planes into slices of ``size × size`` pixels, keeping their aspect ratio in millimetres."""
    extents = [shape[other] * spacing_mm[other] for other in range(3) if other != axis]
    pixel_mm = max(extents) / size
    rows, columns = (min(size, max(1, round(extent / pixel_mm))) for extent in extents)
    return SliceGrid(axis, tuple(shape), size, (rows, columns))


def normalise(image: np.ndarray) -> np.ndarray:
    """An exam's intensities with zero mean and unit variance over the exam, float32 (the paper, section 3.1)."""
    mean, deviation = image.mean(dtype=np.float64), image.std(dtype=np.float64)
    return ((image - mean) / deviation).astype(np.float32)


def cut_image(image: np.ndarray, grid: SliceGrid) -> np.ndarray:
    """Canonical volume [X, Y, Z] → slices [S, size, size], linear with anti-aliasing, padded with the exam's minimum."""
    planes = _planes(image, grid)
    content = F.interpolate(planes[:, None], size=grid.content, mode="bilinear", antialias=True, align_corners=False)[
        :, 0
    ]
    slices = planes.new_full((len(planes), grid.size, grid.size), float(image.min()))
    slices[(slice(None), *grid.window)] = content
    return slices.numpy()


def cut_labels(labels: np.ndarray, grid: SliceGrid) -> np.ndarray:
    """Canonical label volume [X, Y, Z] → label slices [S, size, size] uint8, nearest, padded with background."""
    planes = _planes(labels.astype(np.uint8), grid)
    content = F.interpolate(planes[:, None], size=grid.content, mode="nearest-exact")[:, 0]
    slices = torch.zeros((len(planes), grid.size, grid.size), dtype=torch.uint8)
    slices[(slice(None), *grid.window)] = content
    return slices.numpy()


def planes_of_probabilities(probabilities: Tensor, grid: SliceGrid) -> Tensor:
    """Class probabilities of slices [S, N, size, size] → of the exam's own planes [S, N, rows, columns]."""
    content = probabilities[(slice(None), slice(None), *grid.window)]
    if grid.content == grid.plane:
        return content
    return F.interpolate(content, size=grid.plane, mode="bilinear", antialias=True, align_corners=False)


def stack_planes(planes: np.ndarray, grid: SliceGrid) -> np.ndarray:
    """Planes [S, rows, columns] → volume [X, Y, Z] in canonical orientation."""
    return np.ascontiguousarray(np.moveaxis(planes, 0, grid.axis))


def _planes(volume: np.ndarray, grid: SliceGrid) -> Tensor:
    if volume.shape != grid.shape:
        raise ValueError(f"the volume has shape {volume.shape}, but the slice grid is of {grid.shape}")
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(volume, grid.axis, 0)))
