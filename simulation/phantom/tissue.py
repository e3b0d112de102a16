"""How tissue looks on each site's scanner, and the painting of one slice.

Signals are relative to subcutaneous fat without suppression at an even coil. They are [ours], set by eye to what the paper's
three sequences give: a T1-weighted gradient echo at TE 2.8 ms (ankle), a gradient echo at TE 4.4 ms (knee), where
trabecular marrow has lost signal to T2*, and eTHRIVE (shoulder), taken with its usual fat suppression, incomplete in places.
"""

from dataclasses import dataclass, replace

import numpy as np

from .geometry import FAR_MM, PlacedBone, Scene
from .lattice import Axes, SliceSampler

SKIN_MM = 1.4
ARTICULAR_MM = 1.6
"""Cartilage over an adult's joint faces; a child's is thicker by its unossified rim."""


@dataclass(frozen=True)
class Contrast:
    """One site's scanner.

    Signals first. `patchiness` is how much marrow and muscle vary from place to place, `fat_return` how much of the fat's
    signal escapes suppression where the field is uneven. `noise` is the standard deviation of each channel of the complex
    signal. `shading` is the amplitude of the smooth part of log bias, `coil_mm` the depth at which a surface coil's
    sensitivity has halved (None for a volume coil, whose ends fall off by `end_loss`). `gain` turns signal into stored
    integers. `ghost_share` is the share of exams with motion ghosts, `spread` the standard deviation between exams of each
    tissue's log signal: fat suppression succeeds better in one child than in the next.
    """

    name: str
    fat: float
    yellow_marrow: float
    red_marrow: float
    muscle: float
    cartilage: float
    physis: float
    fluid: float
    cortex: float
    tendon: float
    vessel: float
    skin: float
    lung: float
    patchiness: float
    fat_return: float
    noise: float
    shading: float
    coil_mm: float | None
    end_loss: float
    gain: float
    ghost_share: float
    spread: float

    def varied(self, rng: np.random.Generator) -> "Contrast":
        """The same scanner on another day: every tissue's signal, the noise and the gain a little different."""
        tissues = (
            "fat",
            "yellow_marrow",
            "red_marrow",
            "muscle",
            "cartilage",
            "physis",
            "fluid",
            "tendon",
            "vessel",
            "skin",
        )
        change = {name: getattr(self, name) * float(np.exp(self.spread * rng.standard_normal())) for name in tissues}
        change["noise"] = self.noise * float(rng.uniform(0.75, 1.3))
        change["gain"] = self.gain * float(np.exp(0.15 * rng.standard_normal()))
        return replace(self, **change)


CONTRASTS = {
    "ankle": Contrast(
        "ankle", fat=1.0, yellow_marrow=0.95, red_marrow=0.60, muscle=0.38, cartilage=0.50, physis=0.40, fluid=0.30,
        cortex=0.10, tendon=0.13, vessel=0.62, skin=0.42, lung=0.05, patchiness=1.0, fat_return=0.0,
        noise=0.035, shading=0.14, coil_mm=None, end_loss=0.35, gain=1100.0, ghost_share=0.0, spread=0.07,
    ),
    "knee": Contrast(
        "knee", fat=0.95, yellow_marrow=0.54, red_marrow=0.40, muscle=0.46, cartilage=0.70, physis=0.62, fluid=0.46,
        cortex=0.08, tendon=0.15, vessel=0.85, skin=0.45, lung=0.05, patchiness=1.2, fat_return=0.0,
        noise=0.030, shading=0.10, coil_mm=None, end_loss=0.50, gain=420.0, ghost_share=0.0, spread=0.07,
    ),
    "shoulder": Contrast(
        "shoulder", fat=0.28, yellow_marrow=0.31, red_marrow=0.44, muscle=0.50, cartilage=0.66, physis=0.58, fluid=0.42,
        cortex=0.09, tendon=0.15, vessel=0.62, skin=0.40, lung=0.05, patchiness=1.3, fat_return=0.30,
        noise=0.054, shading=0.16, coil_mm=75.0, end_loss=0.10, gain=750.0, ghost_share=0.5, spread=0.12,
    ),
}  # fmt: skip


def occupancy(distance: np.ndarray, width_mm: float) -> np.ndarray:
    """Share of a voxel of this width inside a surface at a signed distance (negative inside).

    Exact for a flat face parallel to the voxel's; elsewhere close to what super-sampling gives.
    """
    share = distance * np.float32(-1 / width_mm)
    share += np.float32(0.5)
    return np.clip(share, 0, 1, out=share)


class SlicePainter:
    """Paints noise-free slices of a scene on a grid: `paint(k)` → (signal, labels)."""

    def __init__(self, scene: Scene, axes: Axes, contrast: Contrast, width_mm: float):
        self._child = scene.child
        self._contrast = contrast
        self._width = width_mm
        self._shape = (len(axes[1]), len(axes[0]))
        self._soft = {name: SliceSampler(lattice, axes) for name, lattice in scene.soft.items()}
        self._grain = {name: SliceSampler(lattice, axes) for name, lattice in scene.grain.items()}
        self._bones = [
            (
                bone,
                SliceSampler(bone.distance, axes),
                SliceSampler(bone.from_physis, axes) if bone.from_physis else None,
            )
            for bone in scene.bones
        ]

    def paint(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Signal (float32) and labels (uint8) of slice `k`, axes (j, i)."""
        soft = {name: sampler.sample(k) for name, sampler in self._soft.items()}
        grain = {name: sampler.sample(k) for name, sampler in self._grain.items()}
        signal = self._soft_signal(soft, grain)
        nearest = self._nearest_bones(k, soft.get("context"))
        near = nearest.distance < FAR_MM / 2
        rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        if len(rows):
            part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            self._paint_bones(signal[part], nearest.cropped(part), {name: g[part] for name, g in grain.items()})
        return signal, np.where(nearest.distance < 0, nearest.label, 0).astype(np.uint8)

    def _soft_signal(self, soft: dict[str, np.ndarray], grain: dict[str, np.ndarray]) -> np.ndarray:
        c, w = self._contrast, self._width
        fat = np.float32(c.fat) * (1 + 0.05 * grain["patchy"])
        if c.fat_return:
            fat *= 1 + np.float32(c.fat_return / c.fat) * np.clip(grain["broad"], 0, 2)
        # Thin septa run through the fat where a texture crosses zero.
        fat *= 1 - 0.11 * np.clip(1 - np.abs(grain["medium"] + 0.6 * grain["patchy"]) * 3, 0, 1)
        muscle = np.float32(c.muscle) * (1 + 0.05 * c.patchiness * grain["patchy"] + 0.05 * grain["fine"])
        # Streaks of fat between the fascicles.
        streaks = np.clip(grain["medium"] * 0.4 + grain["patchy"] * 0.4 - 0.55, 0, 0.6)
        muscle += streaks * (fat - muscle)
        signal = fat
        _lay(signal, muscle, occupancy(soft["muscle"] + 0.25 * grain["medium"], w))
        if "lung" in soft:
            _lay(signal, np.float32(c.lung) * (1 + 0.5 * grain["fine"]), occupancy(soft["lung"], w))
        vessel = np.float32(c.vessel) * (1 + 0.15 * grain["patchy"])
        _lay(signal, vessel, occupancy(soft["vessel"], w))
        _lay(signal, np.float32(c.tendon) * (1 + 0.25 * grain["patchy"]), occupancy(soft["tendon"], w))
        body = soft["body"]
        _lay(signal, np.float32(c.skin), occupancy(-body - np.float32(SKIN_MM), w))
        signal *= occupancy(body, w)
        return np.maximum(signal, 0, out=signal)

    def _nearest_bones(self, k: int, context: np.ndarray | None) -> "NearestBone":
        """At every voxel the nearest bone, the next nearest's distance and what the nearest one is made of."""
        scale = self._child.scale
        nearest = NearestBone.nothing(self._shape, FAR_MM * scale)
        rim = np.float32(self._child.rim_mm() * scale)
        for bone, distance_sampler, physis_sampler in self._bones:
            if k not in distance_sampler.slices:
                continue
            here = nearest.cropped(distance_sampler.window)
            distance = distance_sampler.sample(k)
            level = physis_sampler.sample(k) if physis_sampler else np.full_like(distance, FAR_MM)
            young = _share_of_rim(bone, level)
            here.take(distance + rim * young, bone, level, rim * young)
        if context is not None:
            # Schematic bones give way to the atlas's.
            distance = np.maximum(context, np.float32(2.2 * scale) - nearest.distance)
            nearest.take(distance, None, np.full_like(distance, FAR_MM), np.zeros_like(distance))
        # Should two bones come closer than half a millimetre, each gives way: labels never meet.
        np.maximum(nearest.distance, (nearest.distance - nearest.second + np.float32(0.5)) / 2, out=nearest.distance)
        return nearest

    def _paint_bones(self, signal: np.ndarray, bone: "NearestBone", grain: dict[str, np.ndarray]) -> None:
        """Joint space, cartilage, cortical shell, marrow and growth plates, in that order, over the soft tissue."""
        c, w, scale = self._contrast, self._width, np.float32(self._child.scale)
        outline = bone.distance
        # Between two bones that face each other: fluid, and cartilage on both faces.
        facing = np.clip((8.5 * scale - outline - bone.second) / (2.5 * scale), 0, 1)
        _lay(signal, np.float32(c.fluid), facing * occupancy(outline - 5 * scale, w))
        thickness = bone.rim + np.float32(ARTICULAR_MM) * scale * facing
        covered = occupancy(outline - thickness, w) * np.clip(thickness / (0.5 * w), 0, 1)
        _lay(signal, np.float32(c.cartilage) * (1 + 0.06 * grain["patchy"]), covered)
        # The cortical shell thickens along the shaft and is nearly lost in places.
        shaft = np.clip((bone.level - 14) / 50, 0, 1) * bone.tubular
        uneven = np.clip(1 + 0.7 * grain["patchy"], 0.1, 1.8)
        shell = np.float32(self._child.cortex) * scale * (bone.cortex * uneven + 2.2 * shaft)
        _lay(signal, np.float32(c.cortex), occupancy(outline, w))
        _lay(signal, self._marrow(bone, grain), occupancy(outline + shell, w))
        # A growth plate, and the dark line of calcified cartilage on its shaft side.
        inside = occupancy(outline + 0.3, w)
        level = bone.level + 0.8 * scale * grain["patchy"] + 1.6 * scale * grain["broad"]
        plate = np.abs(level) - bone.physis / 2
        share = np.minimum(occupancy(plate, w), np.clip(bone.physis / w, 0, 1)) * inside
        line = np.abs(level - bone.physis / 2 - 0.4) - 0.4
        _lay(signal, np.float32(c.physis) * (1 + 0.1 * grain["medium"]), share)
        _lay(signal, np.float32(c.cortex * 2), np.minimum(occupancy(line, w), 0.8 / w) * inside * (bone.physis > 0))

    def _marrow(self, bone: "NearestBone", grain: dict[str, np.ndarray]) -> np.ndarray:
        """Yellow marrow, red near the growth plates of the young and in patches, with trabeculae."""
        c = self._contrast
        young = np.float32(np.clip((19 - self._child.age_years) / 12, 0, 1))
        metaphysis = np.clip(bone.level / 4, 0, 1) * np.clip(1.3 - bone.level / 90, 0.3, 1)
        red = bone.red * young * (0.35 + 0.65 * metaphysis)
        red += np.float32(0.22 * c.patchiness) * np.clip(grain["patchy"] - 0.3, 0, 2) * young
        red += 0.12 * grain["broad"]
        marrow = c.yellow_marrow + np.clip(red, 0, 1) * np.float32(c.red_marrow - c.yellow_marrow)
        if c.fat_return:
            marrow += np.float32(0.45 * c.fat_return) * np.clip(grain["broad"], 0, 2)
        marrow *= 1 + 0.07 * grain["fine"] + 0.05 * grain["medium"]
        # Vessels and coarse trabeculae: dark strands where a texture crosses zero.
        marrow *= 1 - 0.12 * np.clip(1 - np.abs(grain["medium"]) * 4, 0, 1)
        return marrow


@dataclass
class NearestBone:
    """Per voxel of a slice: what the nearest bone is and how far. Arrays of one shape; distances in the child's mm."""

    distance: np.ndarray
    second: np.ndarray
    label: np.ndarray
    level: np.ndarray
    rim: np.ndarray
    red: np.ndarray
    cortex: np.ndarray
    physis: np.ndarray
    tubular: np.ndarray

    @staticmethod
    def nothing(shape: tuple[int, int], far_mm: float) -> "NearestBone":
        """A slice without bones."""
        far = [np.full(shape, far_mm, np.float32) for _ in range(2)]
        return NearestBone(*far, np.zeros(shape, np.uint8), *(np.zeros(shape, np.float32) for _ in range(6)))

    def cropped(self, part: tuple[slice, slice]) -> "NearestBone":
        """Views of a part of the slice."""
        return NearestBone(*(getattr(self, name)[part] for name in self.__dataclass_fields__))

    def take(self, distance: np.ndarray, bone: PlacedBone | None, level: np.ndarray, rim: np.ndarray) -> None:
        """Enter one more bone; None is a schematic one without label, growth plate or rim."""
        closer = distance < self.distance
        np.copyto(self.second, np.where(closer, self.distance, np.minimum(self.second, distance)))
        np.copyto(self.distance, distance, where=closer)
        np.copyto(self.level, level, where=closer)
        np.copyto(self.rim, rim, where=closer)
        self.label[closer] = bone.label if bone else 0
        self.red[closer] = bone.tissue.red_marrow if bone else 0.4
        self.cortex[closer] = bone.tissue.cortex_mm if bone else 0.6
        self.physis[closer] = bone.physis_mm if bone else 0.0
        self.tubular[closer] = 1.0 if bone and bone.tissue.shaft else 0.0


def _share_of_rim(bone: PlacedBone, level: np.ndarray) -> np.ndarray:
    """1 where the bone's rim is still cartilage, 0 where it is bone as in an adult."""
    if bone.tissue.cartilage == "none":
        return np.zeros_like(level)
    if bone.tissue.cartilage == "all":
        return np.ones_like(level)
    return np.clip(0.5 - level / 6, 0, 1)


def _lay(signal: np.ndarray, tissue: np.ndarray | np.float32, share: np.ndarray) -> None:
    """Replace a share of each voxel's signal by a tissue's, in place."""
    signal += share * (tissue - signal)
