"""One child: age, size, side, how the joint is held and how its shape departs from the atlas."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .anatomy import JointAnatomy
from .atlas import AtlasBone, load_atlas

SMALLEST_GAP_MM = 1.0
"""Bones keep this distance (adult mm) in every pose; the atlas itself keeps 1.5 mm."""

# Stature relative to an adult's, after the median of common growth charts (both sexes together, rounded) [ours].
GROWTH_AGE_YEARS = (5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 18.0)
GROWTH_SIZE = (0.63, 0.70, 0.77, 0.835, 0.905, 0.965, 1.0)

# Thickness of the rim that is still cartilage, adult mm [ours].
RIM_AGE_YEARS = (5.0, 8.0, 12.0, 16.0, 18.0)
RIM_MM = (2.2, 1.6, 0.8, 0.2, 0.0)

MODES = np.array(
    [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2)]
)
"""Half waves per 130 mm of the shape modes along x, y and z: a displacement has rank 10 per component."""

HALF_WAVE_MM = 130.0
MODE_MM = 2.0 / np.linalg.norm(MODES, axis=1) ** 1.7


@dataclass(frozen=True)
class Pose:
    """A rigid motion of a bone: a ↦ turn (a − about) + about + shift, in the atlas's millimetres."""

    turn: np.ndarray
    about: np.ndarray
    shift: np.ndarray

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Where points (N, 3) of the atlas go."""
        return (points - self.about) @ self.turn.T + self.about + self.shift

    def undo(self, points: np.ndarray) -> np.ndarray:
        """The points of the atlas that come to rest at `points` (N, 3)."""
        return (points - self.about - self.shift) @ self.turn + self.about


@dataclass(frozen=True)
class Child:
    """A child's joint.

    `size` scales the adult atlas along x, y, z. `poses` lists each bone's motions in order. `mode_mm` (10, 3) are the
    coefficients of the shape modes. `adiposity` multiplies the fat's thickness, `cortex` the cortical shell's.
    """

    anatomy: JointAnatomy
    age_years: float
    side: str
    size: np.ndarray
    poses: dict[str, tuple[Pose, ...]]
    mode_mm: np.ndarray
    adiposity: float
    cortex: float

    @property
    def scale(self) -> float:
        """Child's millimetres per adult millimetre, mean of the three directions."""
        return float(self.size.mean())

    def rim_mm(self) -> float:
        """Thickness of bone not yet ossified at the epiphyses, in adult mm."""
        return float(np.interp(self.age_years, RIM_AGE_YEARS, RIM_MM))

    def physis_mm(self, closes_at: float) -> float:
        """Width of a growth plate in the child's mm: about 3 at five years, 0.4 (a scar) once closed."""
        return float(np.clip(0.5 + 0.25 * (closes_at - self.age_years), 0.4, 3.0))

    def displacement(self, points: np.ndarray) -> np.ndarray:
        """Smooth shape variation u at points (3, ...) in adult mm: where to look in the atlas for what is seen here."""
        u = np.zeros_like(points)
        for mode, coefficients in zip(MODES, self.mode_mm, strict=True):
            phase = sum(f * points[axis] for axis, f in enumerate(mode)) * (np.pi / HALF_WAVE_MM)
            # a quarter wave apart, so that the joint's centre is neither a node nor an extremum of every mode
            wave = np.cos(phase + np.pi / 4)
            for axis in range(3):
                u[axis] += coefficients[axis] * wave
        return u


def make_child(anatomy: JointAnatomy, rng: np.random.Generator) -> Child:
    """Draw a child from the paper's age range for the joint."""
    youngest, oldest, mean, deviation = anatomy.age_years
    age = truncated_normal(rng, mean, deviation, youngest, oldest)
    size = np.interp(age, GROWTH_AGE_YEARS, GROWTH_SIZE) * (1 + 0.05 * truncated_normal(rng, 0, 1, -2, 2))
    proportions = 1 + 0.025 * np.array([truncated_normal(rng, 0, 1, -2, 2) for _ in range(3)])
    side = "left" if rng.random() < 0.5 else "right"
    mode_mm = np.clip(rng.standard_normal((len(MODES), 3)), -2, 2) * MODE_MM[:, None]
    adiposity = float(np.exp(truncated_normal(rng, 0, 0.4, -0.7, 0.8)))
    cortex = float(np.exp(truncated_normal(rng, 0, 0.2, -0.4, 0.4)))
    return Child(anatomy, age, side, size * proportions, draw_poses(anatomy, rng), mode_mm, adiposity, cortex)


def truncated_normal(rng: np.random.Generator, mean: float, deviation: float, low: float, high: float) -> float:
    """A normal draw, repeated until it lies in [low, high]."""
    while True:
        value = rng.normal(mean, deviation)
        if low <= value <= high:
            return float(value)


def draw_poses(anatomy: JointAnatomy, rng: np.random.Generator) -> dict[str, tuple[Pose, ...]]:
    """Random poses within the joint's play, drawn back towards the atlas until no two bones are too close."""
    draws = [
        (motion, np.clip(rng.standard_normal(3), -2, 2), np.clip(rng.standard_normal(3), -2, 2))
        for motion in anatomy.motions
    ]
    bones = load_atlas(anatomy.name)
    amplitude = 1.0
    while True:
        poses: dict[str, tuple[Pose, ...]] = {bone.name: () for bone in bones}
        for motion, turn, shift in draws:
            matrix = Rotation.from_rotvec(amplitude * turn * motion.turn_degrees, degrees=True).as_matrix()
            pose = Pose(matrix, np.array(motion.about), amplitude * shift * motion.shift_mm)
            for name in motion.bones:
                poses[name] += (pose,)
        if amplitude == 0 or smallest_gap_mm(bones, poses) >= SMALLEST_GAP_MM:
            return poses
        amplitude = amplitude * 0.75 if amplitude > 0.2 else 0.0


def smallest_gap_mm(bones: tuple[AtlasBone, ...], poses: dict[str, tuple[Pose, ...]]) -> float:
    """Smallest distance between any two bones in a pose, in adult mm (negative where they would overlap)."""
    gap = np.inf
    for bone in bones:
        placed = _surface_points(bone)
        for pose in poses[bone.name]:
            placed = pose.apply(placed)
        for other in bones:
            if other is bone:
                continue
            points = placed
            for pose in reversed(poses[other.name]):
                points = pose.undo(points)
            index = (points - other.origin_mm)[:, ::-1].T
            gap = min(gap, ndimage.map_coordinates(other.distance_mm, index, order=1, cval=12.0).min())
    return float(gap)


@cache
def _surface_points(bone: AtlasBone) -> np.ndarray:
    """Voxels in the bone's outermost layer, pushed onto the surface along the gradient (N, 3)."""
    shell = np.argwhere(np.abs(bone.distance_mm) < 0.6)
    gradient = np.stack([g[tuple(shell.T)] for g in np.gradient(bone.distance_mm)], axis=1)
    length = np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 0.5)
    onto = shell - bone.distance_mm[tuple(shell.T)][:, None] * gradient / length**2
    return onto[:, ::-1] + bone.origin_mm
