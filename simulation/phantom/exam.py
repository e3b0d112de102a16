"""One phantom exam from a seed."""

from dataclasses import dataclass

import numpy as np

from mtmd_core.errors import ConfigurationError

from .acquisition import PROTOCOLS, acquire, plan_acquisition
from .anatomy import JointAnatomy
from .anatomy_ankle import ANKLE
from .anatomy_knee import KNEE
from .anatomy_shoulder import SHOULDER
from .child import make_child
from .geometry import build_scene
from .tissue import CONTRASTS

GENERATOR_VERSION = "1.1"
"""Changes whenever the same seed gives other bytes."""

ANATOMIES: dict[str, JointAnatomy] = {joint.name: joint for joint in (ANKLE, KNEE, SHOULDER)}
JOINT_NAMES = tuple(ANATOMIES)


@dataclass(frozen=True)
class PhantomExam:
    """An image and its labels with what is known of the child.

    `image` int16 and `labels` uint8 have axes (i, j, k); `affine` takes voxel indices to RAS+ mm. `contrast` is the site
    whose scanner made the image.
    """

    joint: str
    contrast: str
    image: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    age_years: float
    laterality: str


def make_exam(
    joint: str,
    seed: int,
    index: int,
    scale: float = 0.5,
    *,
    shape: tuple[int, int, int] | None = None,
    site_contrast: str | None = None,
) -> PhantomExam:
    """Make exam number `index` of a joint ("ankle", "knee" or "shoulder").

    The exam depends on these arguments alone, not on which others are made. `scale` (0.05 to 1) multiplies the paper's
    matrix at the same field of view; `shape` (i, j, k) replaces the matrix. `site_contrast` renders the same child on the
    same grid with another site's scanner.

    Raises ConfigurationError for an unknown joint or site, a negative seed or index, or a scale or shape out of range.

    >>> make_exam("knee", seed=0, index=3, shape=(32, 32, 16)).labels.max()
    np.uint8(4)
    """
    for what, name in (("joint", joint), ("site_contrast", site_contrast or joint)):
        if name not in PROTOCOLS:
            raise ConfigurationError(f"{what} is {name!r}; choose one of {', '.join(PROTOCOLS)}")
    if seed < 0 or index < 0:
        raise ConfigurationError(f"seed is {seed} and index {index}; both must be 0 or more")
    if not 0.05 <= scale <= 1:
        raise ConfigurationError(f"scale is {scale}; it must lie between 0.05 and 1 (the paper's resolution)")
    if shape is not None and (len(shape) != 3 or min(shape) < 8):
        raise ConfigurationError(f"shape is {shape}; give three voxel counts of 8 or more")
    # One stream a purpose, so that a change of contrast leaves child and grid as they are.
    child_rng, scan_rng, tissue_rng, signal_rng = (
        np.random.default_rng([seed, JOINT_NAMES.index(joint), index, purpose]) for purpose in range(4)
    )
    child = make_child(ANATOMIES[joint], child_rng)
    acquisition = plan_acquisition(joint, child, scale, shape, scan_rng)
    grid = acquisition.grid
    scene = build_scene(child, acquisition.frame, grid.extent_mm(), min(grid.spacing_mm), tissue_rng)
    contrast = CONTRASTS[site_contrast or joint].varied(signal_rng)
    image, labels = acquire(scene, acquisition, contrast, signal_rng)
    return PhantomExam(
        joint=joint,
        contrast=contrast.name,
        image=image,
        labels=labels,
        affine=acquisition.affine,
        spacing_mm=grid.spacing_mm,
        age_years=child.age_years,
        laterality=child.side,
    )
