"""3D and 2D scores against MONAI, medpy, brute force over all pairs of voxels, and hand-computed values."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist

from mtmd_core.errors import ConfigurationError, DataError
from mtmd_core.metrics import score_exam, score_slices, score_structure
from mtmd_core.scores import Scores

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # notices of the references about their own insides
    from medpy.metric import binary as medpy
    from monai.metrics import compute_hausdorff_distance
    from monai.metrics.utils import get_edge_surface_distance

SPACINGS = [(0.8, 0.3, 0.3), (1.0, 1.0, 1.0), (0.25, 0.6, 3.1)]


def smooth_labels(seed: int, shape: tuple[int, int, int], structures: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.standard_normal((structures, *shape)), (0, 3, 3, 3))
    fields /= fields.std()
    return np.where(fields.max(axis=0) > 1.0, fields.argmax(axis=0) + 1, 0).astype(np.uint8)


def rough_labels(seed: int, shape: tuple[int, int, int], structures: int) -> np.ndarray:
    """Islands everywhere, down to single voxels and up to the borders."""
    rng = np.random.default_rng(seed + 1000)
    labels = smooth_labels(seed, shape, structures)
    islands = rng.random(shape) < 0.02
    labels[islands] = rng.integers(0, structures + 1, islands.sum())
    return labels


def sparse_labels(seed: int, shape: tuple[int, int, int], structures: int) -> np.ndarray:
    """A few voxels far apart: no surface in the near neighbourhood."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype=np.uint8)
    places = rng.choice(labels.size, 3 * structures, replace=False)
    labels.ravel()[places] = np.arange(3 * structures) % structures + 1
    return labels


MAKERS = [smooth_labels, rough_labels, sparse_labels]


def monai_distances(truth: np.ndarray, prediction: np.ndarray, spacing) -> tuple[float, float]:
    """MSSD by its own function, ASSD as the mean over both sets of its surface distances."""
    t, p = torch.from_numpy(truth), torch.from_numpy(prediction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        mssd = compute_hausdorff_distance(p[None, None], t[None, None], include_background=True, spacing=spacing)
        _, distances, _ = get_edge_surface_distance(p, t, spacing=spacing, symmetric=True)
    return mssd.item(), torch.cat(distances).double().mean().item()


def brute_force_distances(truth: np.ndarray, prediction: np.ndarray, spacing) -> tuple[float, float]:
    cross = ndimage.generate_binary_structure(3, 1)
    g, p = (np.argwhere(mask & ~ndimage.binary_erosion(mask, cross)) * spacing for mask in (truth, prediction))
    between = cdist(g, p)
    both = np.concatenate([between.min(axis=0), between.min(axis=1)])
    return both.max(), both.mean()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("seed", range(2))
def test_equals_monai_and_medpy(make, spacing, seed: int) -> None:
    shape, structures = (26, 44, 37), 4
    truth, prediction = make(seed, shape, structures), make(seed + 50, shape, structures)
    prediction[:13] = truth[:13] if make is not sparse_labels else prediction[:13]
    for label, scores in enumerate(score_exam(truth, prediction, structures, spacing), start=1):
        g, p = truth == label, prediction == label
        assert g.any()
        assert p.any()
        mssd, assd = monai_distances(g, p, spacing)
        assert scores.mssd_mm == pytest.approx(mssd, abs=1e-5)
        assert scores.assd_mm == pytest.approx(assd, abs=1e-5)
        assert scores.mssd_mm == pytest.approx(medpy.hd(p, g, spacing, 1), rel=1e-12)
        assert scores.assd_mm == pytest.approx(medpy.assd(p, g, spacing, 1), rel=1e-12)
        assert scores.dice == pytest.approx(medpy.dc(p, g), rel=1e-12)
        assert scores.sensitivity == pytest.approx(medpy.sensitivity(p, g), rel=1e-12)
        assert scores.specificity == pytest.approx(medpy.specificity(p, g), rel=1e-12)
        assert scores.ravd == pytest.approx(abs(medpy.ravd(p, g)), rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_distances_equal_brute_force_on_shapes_of_every_kind(seed: int) -> None:
    """Noise that touches the borders, volumes thinner than the search, random spacing."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 14, 3)
    spacing = rng.uniform(0.2, 4, 3)
    truth, prediction = (rng.random(shape) < rng.uniform(0.02, 0.9) for _ in range(2))
    truth.flat[0] = prediction.flat[-1] = True
    scores = score_structure(truth, prediction, spacing)
    mssd, assd = brute_force_distances(truth, prediction, spacing)
    assert scores.mssd_mm == pytest.approx(mssd, rel=1e-12, abs=1e-12)
    assert scores.assd_mm == pytest.approx(assd, rel=1e-12, abs=1e-12)


def test_a_near_and_a_far_part_are_both_exact() -> None:
    """The near search finds one part of the surface, the tree the other."""
    truth, prediction = np.zeros((2, 60, 30, 30), dtype=bool)
    truth[2:20, 4:26, 4:26] = True
    prediction[3:20, 5:26, 4:25] = True
    prediction[50:58, 2:9, 20:29] = True
    for spacing in ((0.5, 0.5, 0.5), (0.1, 1.3, 0.7), (5.0, 0.3, 0.3)):
        scores = score_structure(truth, prediction, spacing)
        mssd, assd = brute_force_distances(truth, prediction, spacing)
        assert scores.mssd_mm == pytest.approx(mssd, rel=1e-12)
        assert scores.assd_mm == pytest.approx(assd, rel=1e-12)


def test_by_hand() -> None:
    """A 2×2×2 cube and the same two voxels longer along an axis of 1.5 mm: every value on paper."""
    truth, prediction = np.zeros((2, 8, 8, 8), dtype=bool)
    truth[2:4, 2:4, 2:4] = prediction[2:4, 2:4, 2:6] = True
    scores = score_structure(truth, prediction, (1.0, 1.0, 1.5))
    # All 8 and all 16 voxels are surface; 4 voxels lie 1.5 mm and 4 lie 3 mm from the cube.
    assert scores == Scores(
        dice=16 / 24, sensitivity=1.0, specificity=496 / 504, mssd_mm=3.0, assd_mm=18 / 24, ravd=1.0
    )


def test_not_symmetric_where_it_must_not_be() -> None:
    truth, prediction = np.zeros((2, 5, 6, 7), dtype=bool)
    truth[1:4, 1:5, 1:6] = True
    prediction[1:3, 1:5, 1:4] = True
    forth, back = score_structure(truth, prediction, (1, 2, 3)), score_structure(prediction, truth, (1, 2, 3))
    assert (forth.dice, forth.mssd_mm, forth.assd_mm) == (back.dice, back.mssd_mm, back.assd_mm)
    assert (forth.sensitivity, back.sensitivity) == (24 / 60, 1.0)
    assert (forth.specificity, back.specificity) == (1.0, 150 / 186)
    assert (forth.ravd, back.ravd) == (36 / 60, 36 / 24)


def test_touching_structures_have_a_surface_between_them() -> None:
    truth = np.ones((4, 6, 6), dtype=np.uint8)
    truth[:, 3:] = 2
    prediction = np.ones_like(truth)
    prediction[:, 4:] = 2
    for label, scores in enumerate(score_exam(truth, prediction, 2, (1, 1, 1)), start=1):
        assert scores == score_structure(truth == label, prediction == label, (1, 1, 1))
        assert scores.mssd_mm == 1.0


def test_empty_cases() -> None:
    shape, spacing = (4, 5, 6), (0.5, 2.0, 1.0)
    diagonal = math.sqrt(2.0**2 + 10.0**2 + 6.0**2)
    empty, some = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    some[1:3, 2, 2] = True
    assert score_structure(empty, empty, spacing) == Scores(1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    only_truth = score_structure(some, empty, spacing)
    assert only_truth == pytest.approx(Scores(0.0, 0.0, 1.0, diagonal, diagonal, 1.0))
    only_prediction = score_structure(empty, some, spacing)
    assert only_prediction == pytest.approx(Scores(0.0, math.nan, 118 / 120, diagonal, diagonal, math.nan), nan_ok=True)


def test_empty_cases_beside_a_structure_that_both_hold() -> None:
    truth, prediction = np.zeros((2, 5, 5, 5), dtype=np.uint8)
    truth[1, 1, 1] = prediction[1, 1, 2] = 1
    truth[3, 3, 3] = 2
    prediction[4, 4, 4] = 3
    diagonal = pytest.approx(5 * math.sqrt(3))
    both, only_truth, only_prediction, neither = score_exam(truth, prediction, 4, (1, 1, 1))
    assert (both.dice, both.mssd_mm, both.assd_mm) == (0.0, 1.0, 1.0)
    assert (only_truth.dice, only_truth.assd_mm, only_truth.ravd) == (0.0, diagonal, 1.0)
    assert (only_prediction.dice, only_prediction.mssd_mm) == (0.0, diagonal)
    assert math.isnan(only_prediction.sensitivity)
    assert neither == Scores(1.0, 1.0, 1.0, 0.0, 0.0, 0.0)


def test_limits() -> None:
    full = np.ones((3, 4, 5), dtype=bool)
    scores = score_structure(full, full, (1, 1, 1))
    assert scores == pytest.approx(Scores(1.0, 1.0, math.nan, 0.0, 0.0, 0.0), nan_ok=True)
    corners = np.zeros((3, 4, 5), dtype=bool), np.zeros((3, 4, 5), dtype=bool)
    corners[0][0, 0, 0] = corners[1][2, 3, 4] = True
    apart = score_structure(*corners, (1, 1, 1))
    assert apart.mssd_mm == apart.assd_mm == pytest.approx(math.sqrt(4 + 9 + 16))


def test_specificity_keeps_its_digits_in_a_large_volume() -> None:
    truth = np.zeros((300, 300, 300), dtype=bool)
    prediction = truth.copy()
    truth[0, 0, 0] = prediction[0, 0, 0] = prediction[0, 0, 1] = True
    assert 1 - score_structure(truth, prediction, (1, 1, 1)).specificity == pytest.approx(1 / (27e6 - 1), rel=1e-6)


def test_slices_equal_medpy_slice_by_slice_with_one_structure() -> None:
    for axis in range(3):
        truth, prediction = (smooth_labels(seed, (15, 18, 21), 1) for seed in (3, 4))
        scores = score_slices(truth, prediction, 1, axis)
        with_truth = [x for x in range(truth.shape[axis]) if np.take(truth, x, axis).any()]
        assert scores.index.tolist() == with_truth
        for place, x in enumerate(with_truth):
            g, p = np.take(truth, x, axis), np.take(prediction, x, axis)
            assert scores.dice[place] == pytest.approx(medpy.dc(p, g))
            assert scores.sensitivity[place] == pytest.approx(medpy.sensitivity(p, g))
            assert scores.specificity[place] == pytest.approx(medpy.specificity(p, g))


def test_slices_by_hand() -> None:
    """Slices of 10 pixels: two bones; one bone and a false one; only a false one; one bone that fills all."""
    truth, prediction = np.zeros((2, 4, 2, 5), dtype=np.uint8)
    truth[0, 0], prediction[0, 0] = [1, 1, 2, 2, 0], [1, 0, 2, 2, 2]
    truth[1, 0], prediction[1, 0] = [1, 1, 0, 0, 0], [1, 1, 2, 0, 0]
    prediction[2, 0] = [0, 0, 0, 1, 1]
    truth[3], prediction[3] = 2, 2
    scores = score_slices(truth, prediction, 3, 0)
    assert scores.index.tolist() == [0, 1, 3]
    assert scores.dice == pytest.approx([(2 / 3 + 4 / 5) / 2, (1 + 0) / 2, 1])
    assert scores.sensitivity == pytest.approx([(1 / 2 + 1) / 2, 1, 1])  # the false bone has none
    assert scores.specificity == pytest.approx([(1 + 7 / 8) / 2, (1 + 9 / 10) / 2, math.nan], nan_ok=True)


def test_slices_of_an_exam_without_ground_truth() -> None:
    empty = np.zeros((3, 4, 5), dtype=np.uint8)
    assert [len(values) for values in score_slices(empty, empty + 1, 2, 1)] == [0, 0, 0, 0]


def test_bad_input_is_refused() -> None:
    labels = np.zeros((4, 4, 4), dtype=np.uint8)
    for structures in (0, 256):
        with pytest.raises(ConfigurationError, match=str(structures)):
            score_exam(labels, labels, structures, (1, 1, 1))
    with pytest.raises(ConfigurationError, match="slice_axis is 3"):
        score_slices(labels, labels, 2, 3)
    for other, words in (
        (labels[:3], r"\(4, 4, 4\).*\(3, 4, 4\)"),
        (labels[0], r"\(4, 4\)"),
        (labels.astype(float), "float64"),
        (labels + 3, "3 to 3"),
    ):
        with pytest.raises(DataError, match=words):
            score_exam(labels, other, 2, (1, 1, 1))
        with pytest.raises(DataError, match=words):
            score_slices(labels, other, 2, 0)
    for spacing in ((1, 1), (1, 1, 0), (1, -1, 1), (1, math.nan, 1), (1, 1, math.inf)):
        with pytest.raises(DataError, match="spacing"):
            score_exam(labels, labels, 2, spacing)
