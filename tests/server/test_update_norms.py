"""How long an update is, and what is usual in a run."""

import math

import numpy as np
import pytest

from mtmd_core.wire import GRADIENT, SHARED, UPDATE
from server.update_norms import ROUNDS, RecentNorms, update_norm

BEFORE = {"w": np.float32([[1, 2], [3, 4]]), "var": np.float32([9])}
AFTER = {"w": np.float32([[4, 2], [3, 0]]), "var": np.float32([900])}


def test_the_norm_is_of_the_change_of_all_that_is_trained() -> None:
    assert update_norm(AFTER, BEFORE, SHARED, {"var"}) == 5.0
    assert update_norm(AFTER, BEFORE, SHARED) == pytest.approx(math.hypot(3, 4, 891))
    assert update_norm({"w": np.float32([3, -4])}, BEFORE, UPDATE) == 5.0
    assert update_norm({"w": np.float32([3, -4])}, {}, GRADIENT) == 5.0
    assert update_norm({}, {}, SHARED) == 0.0


def test_what_is_not_finite_has_no_finite_norm() -> None:
    assert math.isnan(update_norm({"w": np.float32([np.nan, 1])}, {}, UPDATE))
    assert math.isinf(update_norm({"w": np.float32([np.inf, 1])}, {}, UPDATE))


def test_a_length_that_float64_cannot_square_is_infinite() -> None:
    assert update_norm({"w": np.float64([1e200])}, {}, UPDATE) == math.inf
    assert update_norm({"w": np.float64([-1e200])}, {"w": np.float64([1e200])}, SHARED) == math.inf
    assert update_norm({"w": np.float64([3e150]), "v": np.float64([4e150])}, {}, UPDATE) == pytest.approx(5e150)


def test_without_a_history_there_is_no_limit() -> None:
    recent = RecentNorms(factor=10)
    assert recent.limit() == math.inf
    recent.add([1.0, 1.0])
    assert recent.limit() == math.inf
    recent.add([1.0, 1.0])
    assert recent.limit() == 10.0


def test_one_site_that_went_astray_in_a_round_does_not_move_the_limit() -> None:
    recent = RecentNorms(factor=10)
    for _ in range(ROUNDS):
        recent.add([1.0, 1.2, 1e6])
    assert recent.limit() == 12.0


def test_what_is_usual_may_change_as_training_goes_on() -> None:
    recent = RecentNorms(factor=10)
    recent.add([100.0] * 3)
    for _ in range(ROUNDS):
        recent.add([1.0] * 3)
    assert recent.limit() == 10.0


@pytest.mark.parametrize("recent", [RecentNorms(None), RecentNorms(10, GRADIENT)])
def test_there_may_be_no_limit_and_in_lockstep_there_is_none(recent: RecentNorms) -> None:
    recent.add([1.0] * 9)
    assert recent.limit() == math.inf


def test_updates_that_change_nothing_set_no_limit() -> None:
    recent = RecentNorms(factor=10)
    recent.add([0.0] * 9)
    assert recent.limit() == math.inf
