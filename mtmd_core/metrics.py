"""Scores of a prediction against ground truth, in 3D and per slice (method section 7).

Surface distances are exact and need no distance transform. Most surface voxels have a surface voxel of the
other mask within a few voxels, so the neighbourhood is searched in order of distance, all structures at once:
the first hit is the nearest. The voxels that find none go to a k-d tree.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .errors import ConfigurationError, DataError
from .postprocessing import LabelMap, as_label_map, bounding_box
from .scores import Scores, SliceScores

_SEARCH_REACH = 8  # voxels along the finest axis; shorter in voxels, not in mm, along the coarser ones


class _Overlap(NamedTuple):
    """Voxel counts per slice and structure, int64 [slices, structures]."""

    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    both: NDArray[np.int64]


class _Surface(NamedTuple):
    """Surface voxels of every structure in a padded volume."""

    volume: LabelMap  # the structure at its surface voxels, 0 elsewhere; [X, Y, Z]
    positions: NDArray[np.int64]  # of the surface voxels in the flattened volume, ascending
    labels: NDArray[np.uint8]  # their structures


class _Neighbourhood(NamedTuple):
    """Every offset that is shorter than some radius, the shortest first."""

    offsets: NDArray[np.int64]  # voxels, [M, 3]
    distances: NDArray[np.float64]  # their lengths in mm, [M]


class _Directed(NamedTuple):
    """Distances in mm from one surface to another per label, 0 unused; float64 [structures + 1]."""

    total: NDArray[np.float64]
    furthest: NDArray[np.float64]


def score_structure(truth: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_mm: Sequence[float]) -> Scores:
    """The six 3D metrics of one structure; `score_exam` says what they are.

    Args:
        truth: ground truth, bool [X, Y, Z].
        prediction: the same of the prediction.
        spacing_mm: size of a voxel along X, Y and Z.

    Raises:
        DataError: see `score_exam`.

    >>> truth, prediction = np.zeros((2, 6, 6, 6), dtype=bool)
    >>> truth[2:4, 2:4, 2:4] = prediction[2:4, 2:4, 2:5] = True
    >>> scores = score_structure(truth, prediction, (1, 1, 2))
    >>> scores.dice, scores.mssd_mm, scores.assd_mm, scores.ravd
    (0.8, 2.0, 0.4, 0.5)
    """
    [scores] = score_exam(truth, prediction, 1, spacing_mm)
    return scores


def score_exam(truth: NDArray, prediction: NDArray, structures: int, spacing_mm: Sequence[float]) -> list[Scores]:
    """The six 3D metrics of every structure of one exam (method section 7).

    With G and P the voxels of a structure in ground truth and prediction, S_G and S_P their surfaces (the
    voxels that one erosion with a 6-connected element removes; outside the volume is background), d the
    distance from a voxel's centre to the nearest voxel centre of a set, in mm:

        dice         2|G∩P| / (|G| + |P|)
        sensitivity  |G∩P| / |G|
        specificity  |Gᶜ∩Pᶜ| / |Gᶜ|
        mssd_mm      max over s∈S_G of d(s, S_P) and s∈S_P of d(s, S_G)
        assd_mm      (Σ over s∈S_G of d(s, S_P) + Σ over s∈S_P of d(s, S_G)) / (|S_G| + |S_P|)
        ravd         ||G| − |P|| / |G|

    Empty cases: G and P empty: 1, 1, 1, 0, 0, 0. Only P empty: both distances are the diagonal of the exam's
    box (number of voxels times spacing along each axis). Only G empty: the same diagonal, sensitivity and
    RAVD NaN. Specificity is NaN if G fills the whole volume.

    Args:
        truth: ground truth labels, bool or integers [X, Y, Z], 0..`structures`.
        prediction: the same of the prediction.
        structures: number of structures.
        spacing_mm: size of a voxel along X, Y and Z.

    Returns:
        One `Scores` per structure, that of label 1 first.

    Raises:
        ConfigurationError: `structures` outside 1..255.
        DataError: not volumes of such labels, unequal shapes, or a spacing other than three positive numbers.
    """
    truth, prediction = _label_maps(truth, prediction, structures)
    spacing = _checked_spacing(spacing_mm)
    box = bounding_box(truth | prediction)
    if box is None:
        return [Scores(1.0, 1.0, 1.0, 0.0, 0.0, 0.0)] * structures
    overlap = _Overlap(*(count.sum(axis=0) for count in _overlap(truth[box], prediction[box], structures)))
    mssd, assd = _surface_distances(truth[box], prediction[box], overlap, spacing)
    diagonal = float(np.linalg.norm(spacing * truth.shape))
    return [
        _scores(*counts, voxels=truth.size, distances=distances, diagonal_mm=diagonal)
        for counts, distances in zip(
            zip(*(count.tolist() for count in overlap), strict=True),
            zip(mssd.tolist(), assd.tolist(), strict=True),
            strict=True,
        )
    ]


def score_slices(truth: NDArray, prediction: NDArray, structures: int, slice_axis: int) -> SliceScores:
    """Dice, sensitivity and specificity per slice (method section 7, 2D metrics).

    Counted are the slices whose ground truth holds at least one structure; a slice's score is the mean over
    the structures that its ground truth or its prediction holds. A structure that is only predicted scores
    Dice 0 and its own specificity; its sensitivity is undefined and left out of the slice's mean, which
    always has at least one other. A structure whose ground truth fills the slice has no specificity and is
    left out likewise, so that a slice's specificity is NaN where that was its only structure.

    Args:
        truth: ground truth labels, bool or integers [X, Y, Z], 0..`structures`.
        prediction: the same of the prediction.
        structures: number of structures.
        slice_axis: 0, 1 or 2, the axis that counts the slices.

    Raises:
        ConfigurationError: `structures` outside 1..255, or no such axis.
        DataError: not volumes of such labels, or of unequal shapes.
    """
    if slice_axis not in (0, 1, 2):
        raise ConfigurationError(f"slice_axis is {slice_axis}; a volume has the axes 0, 1 and 2.")
    truth, prediction = _label_maps(truth, prediction, structures)
    slices = [np.ascontiguousarray(np.moveaxis(labels, slice_axis, 0)) for labels in (truth, prediction)]
    area = truth.size // truth.shape[slice_axis]
    overlap = _overlap(*slices, structures)
    index = np.flatnonzero(overlap.truth.any(axis=1))
    g, p, both = (count[index] for count in overlap)  # [slices, structures]
    present = (g + p) > 0
    return SliceScores(
        index,
        dice=_mean_ratio(2 * both, g + p, present),
        sensitivity=_mean_ratio(both, g, present),
        specificity=_mean_ratio(area - g - p + both, area - g, present),
    )


def _label_maps(truth: NDArray, prediction: NDArray, structures: int) -> tuple[LabelMap, LabelMap]:
    truth, prediction = as_label_map(truth, structures), as_label_map(prediction, structures)
    if truth.shape != prediction.shape:
        raise DataError(
            f"Ground truth has shape {truth.shape} and the prediction {prediction.shape}: "
            "bring the prediction back to the exam's own grid first."
        )
    return truth, prediction


def _checked_spacing(spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (3,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise DataError(f"The spacing is {spacing_mm}; expected three positive numbers of millimetres.")
    return spacing


def _overlap(truth: LabelMap, prediction: LabelMap, structures: int) -> _Overlap:
    """Counts slice by slice along the first axis, so that what is counted stays in the processor's cache."""
    counts = np.empty((3, len(truth), structures), dtype=np.int64)
    for x, (g, p) in enumerate(zip(truth, prediction, strict=True)):
        both = g * (g == p)
        for row, labels in enumerate((g, p, both)):
            for structure in range(structures):
                counts[row, x, structure] = np.count_nonzero(labels == structure + 1)
    return _Overlap(*counts)


def _mean_ratio(numerator: NDArray, denominator: NDArray, present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean over the last axis of the `present` ratios that have a denominator; NaN where none has."""
    defined = present & (denominator > 0)
    ratio = np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=defined)
    number = defined.sum(axis=-1)
    return np.divide(ratio.sum(axis=-1), number, out=np.full(number.shape, np.nan), where=number > 0)


def _scores(g: int, p: int, both: int, *, voxels: int, distances: tuple[float, float], diagonal_mm: float) -> Scores:
    """The formulas of `score_exam` from the sizes of G, P and G∩P, and `distances` (MSSD, ASSD) in mm."""
    if g == 0 and p == 0:
        return Scores(1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    mssd, assd = distances if g and p else (diagonal_mm, diagonal_mm)
    return Scores(
        dice=2 * both / (g + p),
        sensitivity=both / g if g else math.nan,
        specificity=(voxels - g - p + both) / (voxels - g) if g < voxels else math.nan,
        mssd_mm=mssd,
        assd_mm=assd,
        ravd=abs(g - p) / g if g else math.nan,
    )


def _surface_distances(
    truth: LabelMap, prediction: LabelMap, overlap: _Overlap, spacing: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """MSSD and ASSD in mm, each [structures]; meaningless where one of the maps lacks the structure."""
    shared = np.concatenate([[False], (overlap.truth > 0) & (overlap.prediction > 0)])  # [structures + 1]
    near = _neighbourhood(spacing)
    margin = np.maximum(np.abs(near.offsets).max(axis=0), 1)  # background all round shows where a mask ends
    g, p = (_surface(_padded(labels, margin)) for labels in (truth, prediction))
    there, back = (_directed(*pair, shared, near, spacing) for pair in ((g, p), (p, g)))
    voxels = sum(np.bincount(surface.labels, minlength=len(shared)) for surface in (g, p))
    mssd = np.maximum(there.furthest, back.furthest)
    assd = (there.total + back.total) / np.maximum(voxels, 1)
    return mssd[1:], assd[1:]


def _neighbourhood(spacing: NDArray[np.float64]) -> _Neighbourhood:
    axis = np.arange(-_SEARCH_REACH, _SEARCH_REACH + 1)
    offsets = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    distances = np.sqrt(((offsets * spacing) ** 2).sum(axis=1))
    order = np.argsort(distances, kind="stable")
    # Whatever is nearer than the first step out of this cube is in it, along with all at the same distance.
    complete = order[: np.searchsorted(distances[order], (_SEARCH_REACH + 1) * spacing.min())]
    return _Neighbourhood(offsets[complete], distances[complete])


def _padded(labels: LabelMap, margin: NDArray[np.int64]) -> LabelMap:
    padded = np.zeros(labels.shape + 2 * margin, dtype=np.uint8)
    inner = tuple(slice(m, m + length) for m, length in zip(margin, labels.shape, strict=True))
    padded[inner] = labels
    return padded


def _surface(labels: LabelMap) -> _Surface:
    """The voxels with another label or background among their six neighbours: one pass for all structures.

    Neighbours are shifts of the flattened slice, which is safe because the volume's border is background.
    """
    volume = np.zeros_like(labels)
    for x in range(1, len(labels) - 1):
        here = labels[x].ravel()
        edge = here != labels[x - 1].ravel()
        edge |= here != labels[x + 1].ravel()
        for step in (1, labels.shape[2]):
            changes = here[step:] != here[:-step]
            edge[step:] |= changes
            edge[:-step] |= changes
        np.multiply(here, edge, out=volume[x].ravel())
    positions = np.flatnonzero(volume != 0)
    return _Surface(volume, positions, volume.ravel()[positions])


def _directed(
    source: _Surface,
    target: _Surface,
    shared: NDArray[np.bool_],
    near: _Neighbourhood,
    spacing: NDArray[np.float64],
) -> _Directed:
    """Distances from the source's surface voxels to the target's surface, of the `shared` structures."""
    total, furthest = np.zeros(len(shared)), np.zeros(len(shared))
    asked = shared[source.labels]
    positions, labels = source.positions[asked], source.labels[asked]
    steps = near.offsets @ np.array(source.volume.strides)  # in the flattened volume: a voxel is one byte
    lowest = int(steps.min())
    positions = positions + lowest  # count from the lowest step, so that no view of the target starts below 0
    flat_target = target.volume.ravel()
    shells = np.flatnonzero(np.diff(near.distances, prepend=-1, append=np.inf))
    for first, after in pairwise(shells):
        if len(positions) == 0 or _tree_is_cheaper(int(first), len(positions), len(target.positions)):
            break
        found = np.zeros(len(positions), dtype=bool)
        for step in steps[first:after]:
            found |= flat_target[step - lowest :].take(positions) == labels
        counts = np.bincount(labels.take(np.flatnonzero(found)), minlength=len(shared))
        total += near.distances[first] * counts
        furthest[counts > 0] = near.distances[first]
        rest = np.flatnonzero(~found)  # taking by index is several times as fast as by a random mask
        positions, labels = positions.take(rest), labels.take(rest)
    for structure in np.unique(labels):
        far = _tree_distances(
            positions[labels == structure] - lowest,
            target.positions[target.labels == structure],
            source.volume.shape,
            spacing,
        )
        total[structure] += far.sum()
        furthest[structure] = far.max()
    return _Directed(total, furthest)


def _tree_is_cheaper(tried: int, asked: int, targets: int) -> bool:
    """Whether `asked` voxels, each looked round at `tried` offsets in vain, had better go to a k-d tree.

    In units of one look (some 2 ns): an offset costs 3000 besides its looks, a tree 60 a target to build and
    a query in it 600 to 2000. Giving up at half the lower price wastes no more than that, whatever the masks.
    """
    return tried * (asked + 3000) > 60 * targets + 300 * asked


def _tree_distances(
    positions: NDArray[np.int64],
    targets: NDArray[np.int64],
    shape: tuple[int, ...],
    spacing: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Distances in mm to the nearest of `targets`; both are positions in a flattened volume of that shape."""
    here, there = (np.stack(np.unravel_index(flat, shape), axis=1) * spacing for flat in (positions, targets))
    # Built for a single batch of queries: a tree of large leaves and loose boxes is ready and walked sooner.
    return cKDTree(there, leafsize=64, balanced_tree=False, compact_nodes=False).query(here)[0]
