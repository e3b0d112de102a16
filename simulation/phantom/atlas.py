"""The joint atlas: signed distances of adult bones, arranged as ankle, knee and shoulder.

The data and their licence are in this folder (`joint_atlas.npz`, `atlas.json`, `NOTICE.txt`).
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

STEP_MM = 0.1  # one unit of the stored int8 volumes


@dataclass(frozen=True, eq=False)
class AtlasBone:
    """One bone of the adult right-sided atlas, LPS axes.

    `distance_mm` is float32 with axes (z, y, x), negative inside, clipped to ±12 mm; `origin_mm` (x, y, z) is the
    centre of its first voxel; the grid's step is 1 mm. `label` is 0 for a context bone, which is seen but not a label.
    """

    name: str
    label: int
    distance_mm: np.ndarray
    origin_mm: np.ndarray

    def bounds_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest (x, y, z) of the bone's voxels."""
        inside = np.argwhere(self.distance_mm < 0)[:, ::-1]
        return inside.min(0) + self.origin_mm, inside.max(0) + self.origin_mm


@cache
def load_atlas(joint: str) -> tuple[AtlasBone, ...]:
    """All bones of one joint: "ankle", "knee" or "shoulder"."""
    with resources.files(__package__).joinpath("joint_atlas.npz").open("rb") as file, np.load(file) as data:
        if not np.array_equal(data[f"{joint}_spacing_mm"], np.ones(3)):
            raise RuntimeError(f"joint_atlas.npz: the grid of {joint} is not 1 mm; the generator counts on it")
        origin = data[f"{joint}_origin_mm"].astype(np.float32)
        return tuple(
            AtlasBone(str(name), int(label), volume.astype(np.float32) * STEP_MM, origin)
            for name, label, volume in zip(
                data[f"{joint}_names"], data[f"{joint}_labels"], data[f"{joint}_sdf"], strict=True
            )
        )
