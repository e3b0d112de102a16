"""Similarities and maps of embeddings whose answer is known: points on a sphere, and clusters of them."""

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mtmd_core import plane_maps as maps
from mtmd_core.minimum import LOCAL
from mtmd_core.plane_maps import PERPLEXITY, plane_map, plane_maps
from mtmd_core.prototype_summary import summarise
from mtmd_core.representations import PAIRS as PAIRS_OF_THE_PAPER
from mtmd_core.representations import (
    expected_similarities,
    expected_similarity_within,
    pair_similarities,
)

PAIRS = 20_000
ANGLES = {"ankle": 0.2, "knee": 0.5}
"""Half the opening of each domain's cone, in radians."""
BETWEEN_AXES = 1.1
"""Angle between the axes of both cones."""


def cone(axis: float, opening: float, count: int, seed: int) -> NDArray:
    """Points at one angle from an axis in the x-y plane, all around it, [count, 3]."""
    turn = np.random.default_rng(seed).uniform(0, 2 * np.pi, count)
    along, left = np.array([np.cos(axis), np.sin(axis), 0]), np.array([-np.sin(axis), np.cos(axis), 0])
    up = np.array([0, 0, 1])
    around = np.cos(turn)[:, None] * left + np.sin(turn)[:, None] * up
    return np.cos(opening) * along + np.sin(opening) * around


@pytest.fixture(scope="module")
def cones() -> dict[str, NDArray]:
    return {
        "knee": cone(BETWEEN_AXES, ANGLES["knee"], 4000, 1),
        "ankle": cone(0.0, ANGLES["ankle"], 3000, 0),
    }


def test_similarities_within_and_between_cones(cones: dict[str, NDArray]) -> None:
    """Around the axis points lie evenly: ``cos²a`` within, ``cos a · cos b · cos(angle)`` between; deviations likewise."""
    found = pair_similarities(cones, seed=3, pairs=PAIRS)
    assert list(found) == [("ankle", "ankle"), ("knee", "knee"), ("ankle", "knee")]
    for domain, angle in ANGLES.items():
        own = found[domain, domain]
        assert own.mean() == pytest.approx(np.cos(angle) ** 2, abs=0.01)
        assert own.std() == pytest.approx(
            np.sin(angle) ** 2 / np.sqrt(2), rel=0.03
        )  # sin²a · cos(a difference of turns)
    between = found["ankle", "knee"]
    a, b = ANGLES.values()
    assert between.mean() == pytest.approx(np.cos(a) * np.cos(b) * np.cos(BETWEEN_AXES), abs=0.01)
    tilted = np.sin(BETWEEN_AXES) ** 2 * (np.sin(a) ** 2 * np.cos(b) ** 2 + np.cos(a) ** 2 * np.sin(b) ** 2) / 2
    around = np.sin(a) ** 2 * np.sin(b) ** 2 * (1 + np.cos(BETWEEN_AXES) ** 2) / 4
    assert between.std() == pytest.approx(np.sqrt(tilted + around), rel=0.03)


def test_lengths_do_not_count(cones: dict[str, NDArray]) -> None:
    longer = {domain: 7 * own for domain, own in cones.items()}
    one, other = (pair_similarities(each, seed=3, pairs=50) for each in (cones, longer))
    for pair, values in one.items():
        np.testing.assert_allclose(values, other[pair], atol=1e-12)


def test_pairs_within_are_of_two_different_slices() -> None:
    """Of two opposite points every pair has −1, and none has a point's similarity to itself."""
    opposite = {"ankle": np.array([[1.0, 0.0], [-1.0, 0.0]]), "knee": np.array([[0.0, 2.0]])}
    found = pair_similarities(opposite, seed=0, pairs=200)
    assert set(found["ankle", "ankle"]) == {-1.0}
    assert found["knee", "knee"].size == 0
    assert set(found["ankle", "knee"]) == {0.0}


def test_a_pairs_draw_depends_on_its_names_alone(cones: dict[str, NDArray]) -> None:
    more = cones | {"shoulder": cone(2.0, 0.1, 10, 2)}
    np.testing.assert_array_equal(
        pair_similarities(cones, 3, 100)["ankle", "knee"], pair_similarities(more, 3, 100)["ankle", "knee"]
    )
    assert (
        pair_similarities(cones, 3, 100)["ankle", "knee"] != pair_similarities(cones, 4, 100)["ankle", "knee"]
    ).any()


def test_features_of_nothing_are_like_nothing() -> None:
    found = pair_similarities({"ankle": np.zeros((3, 2)), "knee": np.ones((3, 2))}, seed=0, pairs=10)
    assert set(found["ankle", "knee"]) == {0.0}
    assert found["knee", "knee"].max() == pytest.approx(1)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"different lengths \(ankle 3, knee 4\)"):
        pair_similarities({"ankle": np.ones((5, 3)), "knee": np.ones((5, 4))}, seed=0)
    with pytest.raises(ValueError, match=r"shape \(5,\); expected \[slices, numbers\]"):
        pair_similarities({"ankle": np.ones(5)}, seed=0)


def test_prototypes_tell_the_similarity_of_pooled_pairs(cones: dict[str, NDArray]) -> None:
    """What a federation knows without any embedding, against all pairs there are and a sample of them."""
    few = {domain: own[:60].astype(np.float32) for domain, own in cones.items()}
    exams = torch.arange(60) % 4
    prototypes = {domain: summarise(torch.from_numpy(own), exams, minimum=LOCAL) for domain, own in few.items()}
    expected = expected_similarities({domain: each.mean for domain, each in prototypes.items()})
    assert expected["ankle", "knee"] == pytest.approx((few["ankle"] @ few["knee"].T).mean(), abs=1e-6)
    sampled = pair_similarities(few, seed=0, pairs=PAIRS)
    assert expected["ankle", "knee"] == pytest.approx(sampled["ankle", "knee"].mean(), abs=0.01)
    for domain, own in few.items():
        truth = np.mean([one @ other for one, other in itertools.combinations(own, 2)])
        within = expected_similarity_within(prototypes[domain].mean, prototypes[domain].slices)
        assert within == pytest.approx(truth, abs=1e-6)
        assert within == pytest.approx(sampled[domain, domain].mean(), abs=0.01)
    assert np.isnan(expected_similarity_within([1.0], 1))


def clusters(count: int, length: int) -> tuple[NDArray, NDArray]:
    """Three tight clusters on the unit sphere, ``count`` points each, and whose point is whose."""
    random = np.random.default_rng(0)
    own = np.repeat(np.arange(3), count)
    points = np.eye(length)[own] + 0.02 * random.normal(size=(3 * count, length))
    return points / np.linalg.norm(points, axis=1, keepdims=True), own


@pytest.mark.parametrize("length", [8, 64])
def test_a_map_keeps_clusters_apart(length: int) -> None:
    """Every point's nearest neighbour is of its own cluster, with and without principal components first."""
    points, own = clusters(35, length)
    found = plane_map(points, seed=0)
    assert found.perplexity == PERPLEXITY
    distances = np.linalg.norm(found.places[:, None] - found.places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert found.places.shape == (105, 2)
    assert (own[distances.argmin(axis=1)] == own).all()


def test_a_map_of_few_points_says_its_perplexity() -> None:
    points, _ = clusters(5, 64)
    found = plane_map(points, seed=0)
    assert found.perplexity == pytest.approx(14 / 3)
    assert np.isfinite(found.places).all()
    np.testing.assert_array_equal(found.places, plane_map(points, seed=0).places)
    with pytest.raises(ValueError, match="3 embeddings make no map; expected 4 or more"):
        plane_map(points[:3], seed=0)


def test_maps_are_the_same_however_many_processes_make_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "_WORTH_PROCESSES", 1)
    many = [clusters(count, length)[0] for count, length in ((5, 8), (12, 64))]
    for alone, together in zip(plane_maps(many, 1), plane_maps(many, 1, processes=2), strict=True):
        np.testing.assert_array_equal(alone.places, together.places)
        assert alone.perplexity == together.perplexity
    assert plane_maps([], seed=0, processes=2) == []


def test_clusters_on_a_sphere_have_the_similarities_they_were_made_with() -> None:
    """Axes at right angles, noise of deviation 0.02 in 64 directions: ``1 / (1 + 64 · 0.02²)`` within, 0 between."""
    points, own = clusters(400, 64)
    found = pair_similarities({site: points[own == place] for place, site in enumerate("abc")}, seed=0)
    for (one, other), values in found.items():
        expected = 1 / (1 + 64 * 0.02**2) if one == other else 0
        assert values.mean() == pytest.approx(expected, abs=0.004)
        assert values.size == PAIRS_OF_THE_PAPER


def test_all_pairs_multiplied_and_pairs_gathered_are_both_pairs_there_are(cones: dict[str, NDArray]) -> None:
    """Few rows are multiplied as matrices, many are gathered: of 200 · 100 products few are worth more than 50 pairs."""
    own = {domain: points[:count] for (domain, points), count in zip(cones.items(), (200, 100), strict=True)}
    exact = (own["ankle"] @ own["knee"].T).ravel()
    for pairs in (50, 5000):
        found = pair_similarities(own, 1, pairs)["ankle", "knee"]
        assert found.size == pairs
        assert np.abs(exact[:, None] - found[None, :50]).min(axis=0).max() < 1e-12


def test_embeddings_that_are_all_the_same_lie_in_one_place() -> None:
    assert (plane_map(np.full((10, 60), 0.25), seed=0).places == 0).all()
