"""From a raw prediction to the one that is scored: largest component, then closing (method section 6)."""

import cc3d
import numpy as np
from numpy.typing import NDArray

from .errors import ConfigurationError, DataError

LabelMap = NDArray[np.uint8]  # [X, Y, Z]; 0 is background, 1..structures are the bones
Box = tuple[slice, slice, slice]

_REACH = 2  # radius of the closing's ball, voxels
_MARGIN = 2 * _REACH  # a dilation grows by one radius and the erosion after it looks one further


def as_label_map(labels: NDArray, structures: int) -> LabelMap:
    """`labels` as a contiguous uint8 array, once it is known to be a volume of 0..`structures`.

    Args:
        labels: bool or integer array [X, Y, Z].
        structures: number of bones, 1 to 255.

    Raises:
        ConfigurationError: `structures` outside 1..255.
        DataError: not three-dimensional, without a voxel, not whole numbers, or a label beyond `structures`.
    """
    if not 1 <= structures <= 255:
        raise ConfigurationError(f"structures is {structures}; a label map has 1 to 255 of them.")
    labels = np.asarray(labels)
    if labels.ndim != 3 or labels.size == 0:
        raise DataError(f"A label map is a volume [X, Y, Z]; this one has shape {labels.shape}.")
    if labels.dtype.kind not in "bui":
        raise DataError(f"A label map holds whole numbers; this one holds {labels.dtype}: round and convert it.")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest > structures:
        raise DataError(
            f"Labels run from {lowest} to {highest}, but there are {structures} structures and background 0: "
            "map foreign labels to background or correct the number of structures."
        )
    return np.ascontiguousarray(labels, dtype=np.uint8)


def bounding_box(mask: NDArray) -> Box | None:
    """The smallest box that holds every non-zero voxel of a volume; None where all are zero.

    >>> volume = np.zeros((4, 5, 6), dtype=bool)
    >>> volume[1, 2:4, 5] = True
    >>> bounding_box(volume)
    (slice(1, 2, None), slice(2, 4, None), slice(5, 6, None))
    """
    shadow = mask.max(axis=0)  # [Y, Z]; a maximum runs through memory in order, `any` over two axes does not
    occupied = [np.flatnonzero(line) for line in (mask.max(axis=(1, 2)), shadow.max(axis=1), shadow.max(axis=0))]
    if occupied[0].size == 0:
        return None
    x, y, z = (slice(int(places[0]), int(places[-1]) + 1) for places in occupied)
    return x, y, z


def largest_components(labels: NDArray, structures: int) -> LabelMap:
    """Keeps, of every structure, the largest 26-connected component (method section 6).

    Of components of one size the one that holds the first voxel in C order (x, then y, then z) stays.

    Args:
        labels: [X, Y, Z], values 0..`structures`.
        structures: number of bones.

    Returns:
        A new label map [X, Y, Z].

    Raises:
        ConfigurationError, DataError: see `as_label_map`.
    """
    labels = as_label_map(labels, structures)
    result = np.zeros_like(labels)
    box = bounding_box(labels)
    if box is None:
        return result
    cropped = np.ascontiguousarray(labels[box])
    components, count = cc3d.connected_components(cropped, connectivity=26, return_N=True)
    flat_labels, flat_components = cropped.ravel(), components.ravel()
    sizes = np.bincount(flat_components, minlength=count + 1)
    structure_of = np.zeros(count + 1, dtype=np.uint8)
    structure_of[flat_components] = flat_labels  # every voxel of a component writes the same value
    kept = np.zeros(count + 1, dtype=np.uint8)  # component -> its structure if it stays, else background
    for structure in range(1, structures + 1):
        own = np.flatnonzero(structure_of == structure)
        if own.size:
            largest = own[sizes[own] == sizes[own].max()]
            kept[_first_met(flat_components, largest)] = structure
    np.take(kept, components, out=result[box])
    return result


def _first_met(flat_components: NDArray, candidates: NDArray) -> int:
    """Which of `candidates` comes first; cc3d does not promise to number components in C order."""
    if candidates.size == 1:
        return int(candidates[0])
    wanted = np.zeros(int(flat_components.max()) + 1, dtype=bool)
    wanted[candidates] = True
    return int(flat_components[np.argmax(wanted[flat_components])])


def close_structures(labels: NDArray, structures: int) -> LabelMap:
    """Closes every structure with the ball x² + y² + z² ≤ 4 voxels (33 voxels, method section 6).

    Border: the volume is taken as a window on an unbounded grid whose other voxels are background. The
    dilated mask may therefore reach beyond the volume and is eroded from there, so that a bone that touches
    the border is not worn off (a closing never removes a voxel) and is not glued to it either, and a larger
    field of view around the same bone gives the same result. A dent in the outermost layer is open to the
    outside and stays.

    Only background is filled, never another structure. Every closing starts from `labels` itself; a
    background voxel that two closings claim goes to the lower number.

    Args:
        labels: [X, Y, Z], values 0..`structures`.
        structures: number of bones.

    Returns:
        A new label map [X, Y, Z].

    Raises:
        ConfigurationError, DataError: see `as_label_map`.
    """
    labels = as_label_map(labels, structures)
    result = labels.copy()
    for structure in range(1, structures + 1):
        mask = labels == structure
        box = bounding_box(mask)
        if box is None:
            continue
        inside = result[box]  # a closing never leaves the box of its mask
        np.putmask(inside, _close(mask[box]) & (inside == 0), structure)
    return result


def _close(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Closing of a mask [X, Y, Z] that is surrounded by background."""
    padded = np.zeros([length + 2 * _MARGIN for length in mask.shape], dtype=bool)
    inner = tuple(slice(_MARGIN, _MARGIN + length) for length in mask.shape)
    padded[inner] = mask
    complement = ~_dilate(padded)
    return ~_dilate(complement)[inner]  # eroding a set is dilating its complement


def _dilate(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Dilation with the ball, made of its slices: a point at x ± 2, a 3×3 square at x ± 1, a diamond at x.

    Steps along y and z are shifts of the flattened array. What wraps from one row into the next comes from
    the margin and lands in the margin, where `_close` has voxels of one value only.
    """
    row = mask.shape[2]
    plane = mask.shape[1] * row
    flat = mask.ravel()
    square = _spread(_spread(flat, 1), row)
    ball = square.copy()
    for step in (2, 2 * row, 2 * plane):
        _or_shifted(ball, flat, step)
    _or_shifted(ball, square, plane)
    return ball.reshape(mask.shape)


def _spread(flat: NDArray[np.bool_], step: int) -> NDArray[np.bool_]:
    """Every voxel and its two neighbours at `step`."""
    spread = flat.copy()
    _or_shifted(spread, flat, step)
    return spread


def _or_shifted(target: NDArray[np.bool_], source: NDArray[np.bool_], step: int) -> None:
    """ORs into `target`, in place, what `source` holds `step` places before and after."""
    target[step:] |= source[:-step]
    target[:-step] |= source[step:]


def postprocess(labels: NDArray, structures: int) -> LabelMap:
    """Largest component of every structure, then closing: what the scores are computed on (method section 6).

    Args:
        labels: raw prediction [X, Y, Z], values 0..`structures`.
        structures: number of bones.

    Returns:
        A new label map [X, Y, Z].

    Raises:
        ConfigurationError, DataError: see `as_label_map`.
    """
    return close_structures(largest_components(labels, structures), structures)
