"""Where an exam's voxels lie: the order in which they are stored, and the canonical one (closest to RAS)."""

from dataclasses import dataclass, replace
from itertools import permutations, product

import nibabel as nib
import numpy as np

# One rule for "the same grid", everywhere: spacing to a thousandth, corners to a tenth of the finest voxel.
# Rounding to float32 or decimals moves a corner by 1e-5 voxels, a grid off by one voxel by 1.
SPACING_TOLERANCE = 1e-3
CORNER_TOLERANCE_VOXELS = 0.1
# Cosine between two axes of an upright grid. Rounding gives 1e-7, a tilted CT gantry 0.1 and more.
SHEAR_TOLERANCE = 1e-3
# Outside of this range a length was lost or is in another unit than the file says.
SPACING_RANGE_MM = (0.01, 50.0)

# DICOM and ITK count positions to the left and to the back, NIfTI to the right and to the front.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_MILLIMETRES = {"meter": 1e3, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}


@dataclass(frozen=True, eq=False)
class ExamGrid:
    """The voxel grid of one exam as stored in its file, and its way to canonical order and back.

    stored_shape: as in the file, trailing axes of length 1 included.
    affine: float64 [4, 4], stored voxel index → RAS position in the unit of the header.
    header: the NIfTI header of the file.
    axes: canonical axis i is the stored axis ``axes[i]``.
    flips: whether canonical axis i runs against its stored axis.
    """

    stored_shape: tuple[int, ...]
    affine: np.ndarray
    header: nib.Nifti1Header
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, stored_shape: tuple[int, ...], affine: np.ndarray, header: nib.Nifti1Header) -> "ExamGrid":
        """The grid of a volume; ``affine`` must be invertible."""
        orientation = nib.io_orientation(affine)  # row: stored axis → (canonical axis, direction)
        axes = tuple(int(axis) for axis in np.argsort(orientation[:, 0]))
        flips = tuple(bool(orientation[axis, 1] < 0) for axis in axes)
        return cls(tuple(stored_shape), np.asarray(affine, dtype=np.float64), header, axes, flips)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Canonical shape [X, Y, Z]."""
        return tuple(self.stored_shape[axis] for axis in self.axes)

    @property
    def canonical_affine(self) -> np.ndarray:
        """float64 [4, 4], canonical voxel index → RAS position in mm."""
        to_stored = np.zeros((4, 4))
        to_stored[3, 3] = 1
        for canonical, (stored, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            to_stored[stored, canonical] = -1 if flip else 1
            to_stored[stored, 3] = self.stored_shape[stored] - 1 if flip else 0
        affine = self.affine @ to_stored
        affine[:3] *= millimetres_per_unit(self.header)
        return affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distances between voxel centres along the canonical axes, from the affine."""
        return tuple(float(length) for length in np.linalg.norm(self.canonical_affine[:3, :3], axis=0))

    def to_canonical(self, volume: np.ndarray) -> np.ndarray:
        """A volume of `stored_shape` as a view [X, Y, Z] in canonical order."""
        spatial = volume.reshape(volume.shape[:3])
        return spatial.transpose(self.axes)[self._steps()]

    def to_stored(self, volume: np.ndarray) -> np.ndarray:
        """The inverse of `to_canonical`: a volume [X, Y, Z] in the file's own order and shape."""
        stored = volume[self._steps()].transpose(np.argsort(self.axes))
        return stored.reshape(self.stored_shape)

    def lying_as(self, other: "ExamGrid") -> "ExamGrid":
        """This grid in the canonical order in which its voxels lie as the other's do; as it is, if there is none.

        Which order is closest to RAS can be ambiguous: at 45° rounding alone decides which axis is called Y and which Z.
        """
        if self.difference_from(other) is None:
            return self
        orders = product(permutations(range(3)), product((False, True), repeat=3))
        turned = (replace(self, axes=axes, flips=flips) for axes, flips in orders)
        return next((grid for grid in turned if grid.difference_from(other) is None), self)

    def difference_from(self, other: "ExamGrid") -> str | None:
        """What sets two grids apart, in canonical order, for people; None if they are the same."""
        if self.shape != other.shape:
            return f"{_by(self.shape)} voxels against {_by(other.shape)}"
        if not np.allclose(self.spacing_mm, other.spacing_mm, rtol=SPACING_TOLERANCE, atol=0):
            return f"voxels of {_by(self.spacing_mm)} mm against {_by(other.spacing_mm)} mm"
        apart = corner_distance(self.canonical_affine, other.canonical_affine, self.shape)
        if apart > CORNER_TOLERANCE_VOXELS * min(self.spacing_mm):
            return f"their places in the patient are up to {apart:.3g} mm apart"
        return None

    def _steps(self) -> tuple[slice, slice, slice]:
        return tuple(slice(None, None, -1 if flip else None) for flip in self.flips)


def millimetres_per_unit(header: nib.Nifti1Header) -> float:
    """Length of the header's spatial unit; one that is not stated counts as mm."""
    return _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)


def corner_distance(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance that a corner voxel of the grid moves between two affines, in their unit."""
    corners = np.array([(*corner, 1) for corner in product(*((0, length - 1) for length in shape[:3]))])
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())


def largest_cosine(affine: np.ndarray) -> float:
    """Largest |cosine| between two axes of a grid: 0 for rotation × spacing, more for a sheared one."""
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(columns.T @ columns - np.eye(3)).max())


def _by(values: tuple[float, ...]) -> str:
    return "×".join(f"{value:.5g}" for value in values)
