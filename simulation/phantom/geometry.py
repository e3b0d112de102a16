"""Where everything is in a child's joint: signed distances on lattices in the frame of the scan."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from .anatomy import Bone, Tube
from .atlas import AtlasBone, load_atlas
from .child import Child, Pose
from .lattice import Lattice, SliceSampler, empty_lattice, smooth_noise

FAR_MM = 12.0
SOFT_LATTICE_POINTS = 600_000
"""Soft tissue is smooth: about this many lattice points serve any field of view."""


@dataclass(frozen=True)
class Frame:
    """From the scan's frame to the atlas's: q = linear·g + offset, then the child's shape variation.

    g is in mm along the image axes (i, j, k), zero at the centre of the field of view; q is in adult mm.
    """

    linear: np.ndarray
    offset: np.ndarray

    def plane(self, i: np.ndarray, j: np.ndarray, k: float) -> np.ndarray:
        """q of a plane of constant k, float32 (3, len(j), len(i))."""
        q = np.empty((3, len(j), len(i)), np.float32)
        for axis in range(3):
            a, b, c = self.linear[axis]
            q[axis] = (b * j)[:, None] + (a * i)[None, :] + (c * k + self.offset[axis])
        return q

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """g of points q (N, 3), shape variation left out."""
        return np.linalg.solve(self.linear, (points - self.offset).T).T


@dataclass(frozen=True)
class PlacedBone:
    """One bone of one child. Distances in the child's mm: `distance` to the adult outline (negative inside), and
    `from_physis` from the growth plate (positive towards the shaft), None where the bone has none."""

    name: str
    label: int
    tissue: Bone
    distance: Lattice
    from_physis: Lattice | None
    physis_mm: float


@dataclass(frozen=True)
class Scene:
    """All that a slice is painted from. Soft-tissue lattices hold distances in the child's mm, negative inside.

    `grain` are textures of unit variance: "broad" (25 mm), "patchy" (7 mm), "medium" (2.5 mm) and "fine" (1 mm).
    """

    child: Child
    bones: tuple[PlacedBone, ...]
    soft: dict[str, Lattice]
    grain: dict[str, Lattice]


def build_scene(child: Child, frame: Frame, extent_mm: np.ndarray, finest_mm: float, rng: np.random.Generator) -> Scene:
    """Compute every lattice over a field of view. `finest_mm` is the image's voxel: nothing finer than needed is made."""
    grain = {
        "broad": smooth_noise(rng, extent_mm, 25.0),
        "patchy": smooth_noise(rng, extent_mm, 7.0),
        "medium": smooth_noise(rng, extent_mm, 2.5),
        "fine": smooth_noise(rng, extent_mm, max(1.0, 0.9 * finest_mm)),
    }
    shape_variation = _displacement_lattices(child, frame, extent_mm)
    bones = tuple(
        _place_bone(bone, child, frame, shape_variation, extent_mm, finest_mm)
        for bone in load_atlas(child.anatomy.name)
    )
    soft = _soft_tissue(child, frame, shape_variation, extent_mm, finest_mm, rng)
    return Scene(child, bones, soft, grain)


def _displacement_lattices(child: Child, frame: Frame, extent_mm: np.ndarray) -> tuple[Lattice, Lattice, Lattice]:
    """The child's shape variation, adult mm, on a coarse lattice: its waves are at least 100 mm long.

    It reaches beyond the field of view, as the other lattices' spare cells do.
    """
    template = empty_lattice(-extent_mm / 2 - 15, extent_mm / 2 + 15, 8.0)
    i, j, k = template.axes()
    q = np.stack([frame.plane(i, j, z) for z in k], axis=1)
    return tuple(Lattice(template.origin_mm, template.step_mm, u) for u in child.displacement(q))


def _place_bone(
    bone: AtlasBone,
    child: Child,
    frame: Frame,
    shape_variation: tuple[Lattice, ...],
    extent_mm: np.ndarray,
    finest_mm: float,
) -> PlacedBone:
    """Warp one bone of the atlas into the scan's frame, over the box that it needs."""
    tissue = child.anatomy.bones[bone.name]
    low, high = _box(bone, tissue, child, frame, extent_mm)
    distance = empty_lattice(low, high, max(child.scale, 0.6 * finest_mm))
    has_physis = tissue.physis is not None
    from_physis = np.zeros_like(distance.values) if has_physis else None
    i, j, k = distance.axes()
    samplers = [SliceSampler.of_all(u, (i, j, k)) for u in shape_variation]
    for n, z in enumerate(k):
        q = frame.plane(i, j, z)
        for axis, sampler in enumerate(samplers):
            q[axis] += sampler.sample(n)
        for pose in reversed(child.poses[bone.name]):
            q = _undo_pose(pose, q)
        if has_physis:
            from_physis[n] = child.scale * _physis_level(tissue, q)
        distance.values[n] = child.scale * _atlas_distance(bone, tissue, q)
    physis = Lattice(distance.origin_mm, distance.step_mm, from_physis) if has_physis else None
    width = child.physis_mm(tissue.physis.closes_at) if has_physis else 0.0
    return PlacedBone(bone.name, bone.label, tissue, distance, physis, width)


def _box(
    bone: AtlasBone, tissue: Bone, child: Child, frame: Frame, extent_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the field of view (with a margin) where a bone may be or is near."""
    low, high = bone.bounds_mm()
    if tissue.shaft:
        z = 2 if tissue.shaft.direction > 0 else -2
        (high if z > 0 else low)[2] += np.sign(z) * 2 * extent_mm.max()
    if tissue.ends_mm:
        high = np.maximum(high, tissue.ends_mm)
    corners = np.array([[(low, high)[b][a] for a, b in enumerate(bits)] for bits in np.ndindex(2, 2, 2)])
    for pose in child.poses[bone.name]:
        corners = pose.apply(corners)
    margin = (FAR_MM + 5) * child.scale
    placed = frame.inverse(corners)
    half = extent_mm / 2
    # A box that misses the field of view collapses to its border and is never sampled there.
    return np.clip(placed.min(0) - margin, -half, half), np.clip(placed.max(0) + margin, -half, half)


def _undo_pose(pose: Pose, q: np.ndarray) -> np.ndarray:
    """`Pose.undo` for a plane (3, ny, nx), in float32 and without BLAS, whose sums differ between machines."""
    q = q - (pose.about + pose.shift).astype(np.float32)[:, None, None]
    turn = pose.turn.astype(np.float32)
    return np.stack(
        [q[0] * turn[0, a] + q[1] * turn[1, a] + (q[2] * turn[2, a] + np.float32(pose.about[a])) for a in range(3)]
    )


def _physis_level(tissue: Bone, q: np.ndarray) -> np.ndarray:
    physis = tissue.physis
    p = q - np.array(physis.point, np.float32)[:, None, None]
    normal = np.array(physis.normal, np.float32) / np.linalg.norm(physis.normal)
    along = normal[0] * p[0] + normal[1] * p[1] + normal[2] * p[2]
    if physis.bend:
        along += np.float32(physis.bend) * np.minimum((p * p).sum(0) - along * along, 900)
    return along


def _atlas_distance(bone: AtlasBone, tissue: Bone, q: np.ndarray) -> np.ndarray:
    """Distance to a bone of the atlas at q (3, ...), its shaft drawn out beyond the atlas's box."""
    factor = np.float32(1)
    overrun = None
    if tissue.ends_mm:
        overrun = np.max([q[axis] - end for axis, end in enumerate(tissue.ends_mm)], axis=0)
    if tissue.shaft:
        shaft = tissue.shaft
        beyond = np.maximum(shaft.direction * (q[2] - shaft.cut_z), 0)
        factor = np.maximum(1 - np.float32(shaft.taper) * beyond, np.float32(shaft.smallest))
        q = q.copy()
        for axis in range(2):
            q[axis] = (q[axis] - shaft.axis[axis]) / factor + shaft.axis[axis]
    index = (q - bone.origin_mm[:, None, None])[::-1]
    distance = ndimage.map_coordinates(bone.distance_mm, index, order=1, mode="nearest") * factor
    return distance if overrun is None else np.maximum(distance, overrun)


def _soft_tissue(
    child: Child,
    frame: Frame,
    shape_variation: tuple[Lattice, ...],
    extent_mm: np.ndarray,
    finest_mm: float,
    rng: np.random.Generator,
) -> dict[str, Lattice]:
    """Skin, muscles, tendons, vessels, unlabelled bones and lung."""
    anatomy, scale = child.anatomy, child.scale
    step = max(1.2, 0.8 * finest_mm, float(np.cbrt(np.prod(extent_mm) / SOFT_LATTICE_POINTS)))
    template = empty_lattice(-extent_mm / 2, extent_mm / 2, step)
    i, j, k = template.axes()
    names = ["body", "muscle", "tendon", "vessel"]
    names += ["context"] if anatomy.context_bones else []
    names += ["lung"] if anatomy.lung else []
    soft = {name: np.empty_like(template.values) for name in names}
    samplers = [SliceSampler.of_all(u, (i, j, k)) for u in shape_variation]
    # Limbs are no tubes: bend the coordinates of soft tissue by a few millimetres.
    bends = [SliceSampler.of_all(smooth_noise(rng, extent_mm, 22.0), (i, j, k)) for _ in range(3)]
    fat = SliceSampler.of_all(smooth_noise(rng, extent_mm, 30.0), (i, j, k))
    for n, z in enumerate(k):
        q = frame.plane(i, j, z)
        for axis in range(3):
            q[axis] += samplers[axis].sample(n)
        plain = q.copy()
        for axis in range(3):
            q[axis] += 1.6 * bends[axis].sample(n)
        body = _smooth_union([tube_distance(tube, q) for tube in anatomy.envelope], blend=12.0)
        fat_mm = anatomy.fat_mm * child.adiposity * np.clip(1 + 0.5 * fat.sample(n), 0.25, 2.5)
        muscle = _muscle_distance(anatomy.muscles, q, anatomy.swelling_mm)
        if anatomy.lung:
            lung = _smooth_union([tube_distance(tube, plain) for tube in anatomy.lung], blend=5.0)
            soft["lung"][n] = scale * np.maximum(lung, plain[0] - np.float32(anatomy.lung_end_mm))
            # Intercostal muscle fills what the ribs leave of a shell around the lung.
            muscle = np.minimum(muscle, np.abs(lung - 8) - 6)
        soft["muscle"][n] = scale * np.maximum(muscle, body + fat_mm)
        soft["body"][n] = scale * body
        soft["tendon"][n] = scale * _union(anatomy.tendons, plain)
        soft["vessel"][n] = scale * _union(anatomy.vessels, q)
        if anatomy.context_bones:
            context = _union(anatomy.context_bones, plain)
            if anatomy.lung:
                context = np.minimum(context, _ribs(lung, plain))
            soft["context"][n] = scale * context
    return {name: Lattice(template.origin_mm, step, values) for name, values in soft.items()}


def tube_distance(tube: Tube, q: np.ndarray) -> np.ndarray:
    """Distance (about) from points q (3, ...) to a tapered tube, negative inside."""
    distance = None
    for start, end in pairwise(tube):
        axis = np.subtract(end[:3], start[:3])
        p = [q[n] - np.float32(start[n]) for n in range(3)]
        along = p[0] * np.float32(axis[0]) + p[1] * np.float32(axis[1]) + p[2] * np.float32(axis[2])
        along *= np.float32(1 / (axis @ axis))
        np.clip(along, 0, 1, out=along)
        square = np.zeros_like(along)
        for n in range(3):
            p[n] -= along * np.float32(axis[n])
            square += p[n] * p[n]
        piece = np.sqrt(square, out=square)
        piece -= np.float32(start[3]) + np.float32(end[3] - start[3]) * along
        distance = piece if distance is None else np.minimum(distance, piece, out=distance)
    return distance


def _union(tubes: tuple[Tube, ...], q: np.ndarray) -> np.ndarray:
    distance = tube_distance(tubes[0], q)
    for tube in tubes[1:]:
        np.minimum(distance, tube_distance(tube, q), out=distance)
    return distance


def _smooth_union(distances: list[np.ndarray], blend: float) -> np.ndarray:
    """Union with the creases filled over a width of `blend` mm."""
    union = distances[0]
    for distance in distances[1:]:
        overlap = np.maximum(blend - np.abs(union - distance), 0)
        union = np.minimum(union, distance) - overlap * overlap * np.float32(0.25 / blend)
    return union


def _muscle_distance(muscles: tuple[Tube, ...], q: np.ndarray, swelling_mm: float) -> np.ndarray:
    """Bellies swollen until they meet, parted by thin sheets of fat where two are equally near."""
    nearest = tube_distance(muscles[0], q)
    second = np.full_like(nearest, 100)
    for tube in muscles[1:]:
        distance = tube_distance(tube, q)
        second = np.minimum(second, np.maximum(nearest, distance))
        np.minimum(nearest, distance, out=nearest)
    return np.maximum(nearest - swelling_mm, 0.7 * (1.0 - (second - nearest)))


def _ribs(lung: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Slanting bands in a shell around the lung."""
    turns = (q[2] + 0.5 * q[1]) / 26.0
    band = (np.abs(turns - np.round(turns)) - 0.2) * 22.0
    shell = np.abs(lung - 8) - 3.5
    return np.maximum(band, shell)
