"""Post-processing against scipy's morphology, step by step and without crops."""

import numpy as np
import pytest
from scipy import ndimage

from mtmd_core.errors import ConfigurationError, DataError
from mtmd_core.postprocessing import bounding_box, close_structures, largest_components, postprocess

_OFFSETS = np.indices((5, 5, 5)) - 2
BALL = (_OFFSETS**2).sum(axis=0) <= 4


def blobs(seed: int, shape: tuple[int, int, int], structures: int, level: float = 0.35) -> np.ndarray:
    """Ragged touching structures with islands, reaching the borders of the volume."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.standard_normal((structures, *shape)), (0, 1.2, 1.2, 1.2))
    fields /= fields.std()
    return np.where(fields.max(axis=0) > level, fields.argmax(axis=0) + 1, 0).astype(np.uint8)


def scipy_largest(labels: np.ndarray, structures: int) -> np.ndarray:
    kept = np.zeros_like(labels)
    for structure in range(1, structures + 1):
        components, count = ndimage.label(labels == structure, np.ones((3, 3, 3)))  # numbered in C order
        if count:
            sizes = ndimage.sum_labels(np.ones(labels.shape), components, range(1, count + 1))
            kept[components == 1 + int(np.argmax(sizes))] = structure
    return kept


def scipy_closed(labels: np.ndarray, structures: int) -> np.ndarray:
    closed = labels.copy()
    for structure in range(structures, 0, -1):  # the lower number writes last and so wins
        mask = ndimage.binary_closing(np.pad(labels == structure, 10), BALL)[10:-10, 10:-10, 10:-10]
        closed[mask & (labels == 0)] = structure
    return closed


@pytest.mark.parametrize("shape", [(24, 30, 18), (9, 40, 33), (1, 20, 20), (2, 3, 50)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_scipy_on_random_blobs(shape: tuple[int, int, int], seed: int) -> None:
    labels = blobs(seed, shape, 4)
    largest = scipy_largest(labels, 4)
    assert len(np.unique(labels)) > 2
    assert not np.array_equal(largest, labels)
    np.testing.assert_array_equal(largest_components(labels, 4), largest)
    np.testing.assert_array_equal(close_structures(labels, 4), scipy_closed(labels, 4))
    np.testing.assert_array_equal(postprocess(labels, 4), scipy_closed(largest, 4))


def test_what_is_filled_near_the_border() -> None:
    """The layer below the outermost is filled; the outermost is open to the outside and stays as it is."""
    labels = blobs(0, (40, 40, 40), 2, level=-0.5)
    filled = (close_structures(labels, 2) > 0) & (labels == 0)
    assert filled[1].any()
    assert filled[:, :, -2].any()
    assert filled.sum() == filled[1:-1, 1:-1, 1:-1].sum()


def test_components_touch_at_corners_but_not_across_structures() -> None:
    labels = np.zeros((4, 4, 8), dtype=np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = 1  # three voxels, joined at corners only
    labels[3, 3, 3:5] = 2  # meets structure 1 at a corner
    labels[0, 3, 6:] = 1
    expected = labels.copy()
    expected[0, 3, 6:] = 0
    np.testing.assert_array_equal(largest_components(labels, 2), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_of_equal_components_the_first_in_c_order_stays(axis: int) -> None:
    labels = np.zeros((7, 7, 7), dtype=np.uint8)
    place = [3, 3, 3]
    for position in (5, 1, 3):
        place[axis] = position
        labels[tuple(place)] = 1
    kept = largest_components(labels, 1)
    place[axis] = 1
    assert kept[tuple(place)] == 1
    assert kept.sum() == 1


def test_first_in_c_order_does_not_depend_on_the_memory_order() -> None:
    labels = np.zeros((5, 5, 5), dtype=np.uint8)
    labels[0, 4, 4] = labels[4, 0, 0] = 1
    for order in "CF":
        kept = largest_components(np.asarray(labels, order=order), 1)
        assert (kept[0, 4, 4], kept[4, 0, 0]) == (1, 0)


def test_closing_by_hand() -> None:
    """A slit three voxels wide between two blocks closes, one of six does not, and corners are left alone."""
    labels = np.zeros((20, 9, 9), dtype=np.uint8)
    labels[2:5] = labels[8:11] = labels[17:19] = 1
    closed = close_structures(labels, 1)
    assert (closed[5:8, 4, 4] == 1).all()
    assert (closed[11:17] == 0).all()
    assert (closed[:2] == 0).all()
    assert (closed[19:] == 0).all()


def test_border_neither_wears_off_nor_attracts() -> None:
    """Structures at the border are closed as if the volume were larger."""
    labels = np.zeros((12, 12, 12), dtype=np.uint8)
    labels[0:4, 0:12, 5:8] = 1
    labels[1, 3, 6] = 0
    labels[8:, 1:5, 2:10] = 2  # one voxel short of the border along y: must not be drawn to it
    closed = close_structures(labels, 2)
    larger = close_structures(np.pad(labels, 7), 2)[7:-7, 7:-7, 7:-7]
    np.testing.assert_array_equal(closed, larger)
    assert closed[1, 3, 6] == 1
    assert (closed[8:, 0] == 0).all()
    assert (closed[labels > 0] == labels[labels > 0]).all()


def test_closing_never_overwrites_and_the_lower_number_takes_what_both_claim() -> None:
    labels = (1 + np.indices((11, 11, 11)).sum(axis=0) % 2).astype(np.uint8)  # 1 and 2 as on a chessboard
    labels[5, 5, 5] = 0
    labels[5, 2, 2] = 3
    closed = close_structures(labels, 3)
    for alone in (1, 2):
        assert scipy_closed(np.where(labels == alone, alone, 0), 2)[5, 5, 5] == alone
    assert closed[5, 5, 5] == 1
    assert closed[5, 2, 2] == 3
    assert (closed[labels > 0] == labels[labels > 0]).all()


def test_background_only_and_absent_structures() -> None:
    empty = np.zeros((3, 4, 5), dtype=np.uint8)
    assert postprocess(empty, 3).tolist() == empty.tolist()
    full = np.ones((3, 4, 5), dtype=np.int64)
    done = postprocess(full, 255)
    assert done.dtype == np.uint8
    assert (done == 1).all()
    assert bounding_box(empty) is None


def test_input_is_left_alone() -> None:
    labels = blobs(7, (12, 12, 12), 2)
    before = labels.copy()
    postprocess(labels, 2)
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize("step", [largest_components, close_structures, postprocess])
def test_bad_input_is_refused(step) -> None:
    labels = np.zeros((4, 4, 4), dtype=np.int16)
    for structures in (0, 256):
        with pytest.raises(ConfigurationError, match=str(structures)):
            step(labels, structures)
    for bad, words in (
        (labels[0], r"\(4, 4\)"),
        (labels[:0], r"\(0, 4, 4\)"),
        (labels.astype(np.float32), "float32"),
        (labels + 3, "3 to 3, but there are 2"),
        (labels - 1, "-1"),
    ):
        with pytest.raises(DataError, match=words):
            step(bad, 2)
