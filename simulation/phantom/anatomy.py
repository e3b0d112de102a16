"""What a table of a joint's anatomy holds. The tables are in `anatomy_ankle.py`, `anatomy_knee.py`, `anatomy_shoulder.py`.

Coordinates are the atlas's: millimetres of a right-sided adult, x from lateral to medial, y from anterior to posterior,
z upwards. Soft tissue is drawn with tapered tubes placed by hand around the atlas's bones: [ours], schematic, after
common anatomical knowledge and no one's images.
"""

from dataclasses import dataclass
from math import cos, radians, sin

Point = tuple[float, float, float]
Tube = tuple[tuple[float, float, float, float], ...]
"""A polyline of (x, y, z, radius), radius interpolated linearly between its points."""


@dataclass(frozen=True)
class Physis:
    """A growth plate: the surface where (a - point)·normal + bend·r² = 0, r the distance from the axis through `point`.

    `normal` points from the epiphysis into the metaphysis. The plate is closed at `closes_at` years (two years of
    spread between children), and thin before.
    """

    point: Point
    normal: Point
    closes_at: float
    bend: float = 0.0


@dataclass(frozen=True)
class Shaft:
    """A bone that the atlas cuts: it goes on beyond the plane z = `cut_z`, tapering around `axis` (x, y).

    `direction` is +1 upwards and -1 downwards; the section shrinks by `taper` per mm down to `smallest`.
    """

    cut_z: float
    direction: int
    axis: tuple[float, float]
    taper: float = 0.006
    smallest: float = 0.72


@dataclass(frozen=True)
class Bone:
    """How one bone of the atlas lives in a child.

    `cartilage` says where a young bone is still cartilage at its rim: "epiphysis" (beyond the growth plate), "all" or
    "none". `red_marrow` is the share of red marrow in a young child. `cortex_mm` is the thickness of the cortical shell away
    from any shaft. `ends_mm` closes a bone that the atlas's box cuts without a shaft: largest (x, y, z).
    """

    cartilage: str
    red_marrow: float
    cortex_mm: float = 0.7
    physis: Physis | None = None
    shaft: Shaft | None = None
    ends_mm: Point | None = None


@dataclass(frozen=True)
class Motion:
    """Joint play: these bones turn together about a point. Ranges are standard deviations, cut at two."""

    bones: tuple[str, ...]
    about: Point
    turn_degrees: Point
    shift_mm: Point


@dataclass(frozen=True)
class JointAnatomy:
    """Everything about a joint that is not in the atlas.

    `age_years` is (youngest, oldest, mean, standard deviation), section 3.1 of the paper. `focus` is what the scan is centred
    on, `coil` where a surface coil would lie. `envelope` are the tubes whose smooth union is the skin, `fat_mm` the adult's
    subcutaneous fat. Muscle tubes swell by `swelling_mm` until they meet: what they leave is fat.
    The lung ends at x = `lung_end_mm`.
    """

    name: str
    labels: dict[str, int]
    age_years: tuple[float, float, float, float]
    focus: Point
    coil: Point
    envelope: tuple[Tube, ...]
    fat_mm: float
    bones: dict[str, Bone]
    motions: tuple[Motion, ...]
    swelling_mm: float
    muscles: tuple[Tube, ...]
    tendons: tuple[Tube, ...]
    vessels: tuple[Tube, ...]
    context_bones: tuple[Tube, ...] = ()
    lung: tuple[Tube, ...] = ()
    lung_end_mm: float = 0.0


def ring(centre: Point, across: Point, up: Point, degrees: tuple[float, float], radius: float, pieces: int) -> Tube:
    """An arc as a tube: centre + cos·across + sin·up over an angle range (menisci, glenoid labrum)."""
    points = []
    for n in range(pieces + 1):
        angle = radians(degrees[0] + (degrees[1] - degrees[0]) * n / pieces)
        points.append(
            (*(c + cos(angle) * a + sin(angle) * u for c, a, u in zip(centre, across, up, strict=True)), radius)
        )
    return tuple(points)


def band(tube: Tube, across: Point, count: int) -> tuple[Tube, ...]:
    """A flat tendon: `count` copies of a tube, side by side from -`across` to +`across`."""
    shifts = [2 * n / (count - 1) - 1 for n in range(count)]
    return tuple(
        tuple((x + s * across[0], y + s * across[1], z + s * across[2], r) for x, y, z, r in tube) for s in shifts
    )
