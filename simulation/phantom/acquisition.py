"""The scan: orientation, voxels and field of view, partial volume, coil shading, motion and noise."""

from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.spatial.transform import Rotation

from .child import GROWTH_AGE_YEARS, GROWTH_SIZE, Child
from .geometry import Frame, Scene
from .lattice import Grid, Lattice, SliceSampler, empty_lattice, smooth_noise
from .tissue import Contrast, SlicePainter

# Directions of the image axes (i, j, k) as columns, in LPS: the orders that scanners' sagittal and axial series have
# once converted to NIfTI.
SAGITTAL_PSR = np.array([[0, 0, -1], [1, 0, 0], [0, 1, 0]], float)
AXIAL_LAS = np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1]], float)


@dataclass(frozen=True)
class Protocol:
    """One site's geometry of a scan, from section 3.1 of the paper.

    Voxel edges run from `finest_mm` to `coarsest_mm` (in-plane, through-plane). The paper gives one field of view a joint
    and several resolutions; a constant `matrix` makes both ends fit [ours]: 560×576 at 0.25-0.28 mm is 140×144 to
    157×161 mm, 512×512 at 0.47-0.625 mm up to 320 mm, 704×568 at 0.24-0.37 mm up to 260×210 mm. Slice counts are [ours].
    """

    matrix: tuple[int, int, int]
    finest_mm: tuple[float, float]
    coarsest_mm: tuple[float, float]
    directions: np.ndarray


PROTOCOLS = {
    "ankle": Protocol((560, 576, 130), (0.25, 0.50), (0.28, 0.80), SAGITTAL_PSR),
    "knee": Protocol((512, 512, 220), (0.47, 0.50), (0.625, 0.63), SAGITTAL_PSR),
    "shoulder": Protocol((704, 568, 120), (0.24, 0.60), (0.37, 1.00), AXIAL_LAS),
}


@dataclass(frozen=True)
class Acquisition:
    """One exam's grid, where it lies in the scanner (`affine`: voxel indices to RAS+ mm) and in the child (`frame`)."""

    grid: Grid
    affine: np.ndarray
    frame: Frame


def plan_acquisition(
    joint: str, child: Child, scale: float, shape: tuple[int, int, int] | None, rng: np.random.Generator
) -> Acquisition:
    """Draw a field of view (wider for larger children), a slightly oblique slab and the child's place in it.

    `scale` multiplies the matrix and divides the voxels, so that the field of view stays; `shape` gives the matrix
    (i, j, k) itself instead.
    """
    protocol = PROTOCOLS[joint]
    youngest, oldest = np.interp(child.anatomy.age_years[:2], GROWTH_AGE_YEARS, GROWTH_SIZE)
    share = np.clip((child.scale - youngest) / (oldest - youngest) + 0.15 * rng.standard_normal(), 0, 1)
    low, high = np.array(protocol.finest_mm), np.array(protocol.coarsest_mm)
    in_plane, through = low + share * (high - low)
    extent = np.array([in_plane, in_plane, through]) * protocol.matrix
    shape = shape or tuple(max(8, round(n * scale)) for n in protocol.matrix)
    grid = Grid(shape, tuple(float(h) for h in extent / shape))

    slab = Rotation.from_rotvec(np.clip(rng.standard_normal(3), -2, 2) * (3, 3, 5), degrees=True).as_matrix()
    directions = slab @ protocol.directions  # LPS
    centre = np.array([60.0 if child.side == "left" else -60.0, 0, 0]) + rng.uniform(-25, 25, 3)
    to_ras = np.diag([-1.0, -1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = to_ras @ directions * grid.spacing_mm
    affine[:3, 3] = to_ras @ centre - affine[:3, :3] @ (np.subtract(grid.shape, 1) / 2)

    lying = Rotation.from_rotvec(np.clip(rng.standard_normal(3), -2, 2) * (4, 4, 6), degrees=True).as_matrix()
    mirror = np.diag([-1.0 if child.side == "left" else 1.0, 1, 1])
    off_centre = np.clip(rng.standard_normal(3), -2, 2) * (5, 4, 5)
    linear = np.diag(1 / child.size) @ mirror @ lying.T @ directions
    frame = Frame(linear, np.array(child.anatomy.focus) + linear @ off_centre)
    return Acquisition(grid, affine, frame)


def acquire(
    scene: Scene, acquisition: Acquisition, contrast: Contrast, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Scan a scene: image (int16) and labels (uint8), axes (i, j, k)."""
    grid = acquisition.grid
    ghosted = rng.random() < contrast.ghost_share
    shift = int(grid.shape[1] * rng.uniform(0.08, 0.3))
    strength = float(rng.uniform(0.15, 0.45)) if ghosted else 0.0
    bias = SliceSampler(coil_bias(acquisition, scene.child, contrast, rng), grid.axes())
    factors = supersampling(grid.spacing_mm)
    fine = grid.refined(factors)
    painter = SlicePainter(scene, fine.axes(), contrast, float(np.mean(fine.spacing_mm)))
    values = [0] + sorted(set(scene.child.anatomy.labels.values()))
    images = np.empty(grid.shape[::-1], np.int16)
    labels = np.empty(grid.shape[::-1], np.uint8)
    for k in range(grid.shape[2]):
        signal, labels[k] = paint_thick_slice(painter, k, factors, values)
        signal = signal * bias.sample(k)
        if strength:
            signal = ghost(signal, shift, strength)
        stored = np.rint(np.float32(contrast.gain) * rician(signal, contrast.noise, rng))
        images[k] = np.minimum(stored, np.iinfo(np.int16).max)
    # Stored (k, j, i) in C order is (i, j, k) in Fortran order: a NIfTI file's own.
    return images.transpose(2, 1, 0), labels.transpose(2, 1, 0)


def supersampling(spacing_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """Parts to cut each voxel edge into before painting: sub-voxels nearly cubic and at most about 1.25 mm."""
    target = min(1.5 * min(spacing_mm), 1.25)
    i, j, k = (max(1, int(np.ceil(h / target - 0.25))) for h in spacing_mm)
    return i, j, k


def paint_thick_slice(
    painter: SlicePainter, k: int, factors: tuple[int, int, int], values: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean signal over a slice's sub-voxels, and the label that most of them bear."""
    if factors == (1, 1, 1):
        return painter.paint(k)
    fi, fj, fk = factors
    signal, votes = None, None
    for part in range(fk):
        sub_signal, sub_labels = painter.paint(k * fk + part)
        blocks = (sub_labels.shape[0] // fj, fj, sub_labels.shape[1] // fi, fi)
        mean = sub_signal.reshape(blocks).mean((1, 3))
        count = np.stack([(sub_labels == value).reshape(blocks).sum((1, 3), dtype=np.uint8) for value in values])
        signal = mean if signal is None else signal + mean
        votes = count if votes is None else votes + count
    return signal / np.float32(fk), np.array(values, np.uint8)[votes.argmax(0)]


def coil_bias(acquisition: Acquisition, child: Child, contrast: Contrast, rng: np.random.Generator) -> Lattice:
    """Receive sensitivity over the field of view: smooth shading, a surface coil's reach, the ends of a volume coil."""
    extent = acquisition.grid.extent_mm()
    bias = empty_lattice(-extent / 2, extent / 2, 12.0)
    i, j, k = bias.axes()
    shading = SliceSampler(smooth_noise(rng, extent, 70.0), (i, j, k))
    coil = acquisition.frame.inverse(np.array([child.anatomy.coil]))[0]
    half_length_mm = extent.max() / 2
    for n, z in enumerate(k):
        up = acquisition.frame.plane(i, j, z)[2] - child.anatomy.focus[2]
        value = 1 - contrast.end_loss * np.clip(up * child.scale / half_length_mm, -1, 1) ** 2
        if contrast.coil_mm:
            square = (i[None, :] - coil[0]) ** 2 + (j[:, None] - coil[1]) ** 2 + (z - coil[2]) ** 2
            value = value * 1.6 / (1 + square / contrast.coil_mm**2) ** 0.8
        bias.values[n] = value * np.exp(contrast.shading * shading.sample(n))
    return bias


def ghost(signal: np.ndarray, shift: int, strength: float) -> np.ndarray:
    """Periodic motion along the phase axis (rows): a phase error that swings from line to line of k-space.

    A swing of `strength` radians leaves J₀(strength) of the signal in place and sends J₁(strength) to each of
    ±`shift` rows (higher orders further), wrapped around the field of view: the expansion of Jacobi and Anger.
    """
    n = signal.shape[0]
    swing = strength * np.sin(2 * np.pi * shift * np.arange(n) / n)
    spectrum = fft.fft(signal, axis=0) * np.exp(1j * swing)[:, None].astype(np.complex64)
    return np.abs(fft.ifft(spectrum, axis=0))


def rician(signal: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of a signal with Gaussian noise in both channels, sqrt((s + n₁)² + n₂²), float32."""
    real = rng.standard_normal(signal.shape, np.float32)
    real *= np.float32(noise)
    real += signal
    imaginary = rng.standard_normal(signal.shape, np.float32)
    imaginary *= np.float32(noise)
    return np.hypot(real, imaginary)
