import numpy as np
import pytest
import torch

from mtmd_core.arrays import all_finite
from server.aggregation import average


def contributions(dtype: type = np.float32, count: int = 3) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [
        {"a": random.normal(0, 10.0**k, (4, 5)).astype(dtype), "b": random.normal(size=()).astype(dtype)}
        for k in range(count)
    ]


def test_a_mean_by_hand():
    """(1·1 + 3·5) / 4 = 4 and (1·(−2) + 3·2) / 4 = 1."""
    result = average([{"a": np.float32([1, -2])}, {"a": np.float32([5, 2])}], [1, 3])
    assert result["a"].tolist() == [4.0, 1.0]
    assert result["a"].dtype == np.float32


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-15), (np.float32, 1e-7), (np.float16, 1e-3)])
@pytest.mark.parametrize("weights", [[1, 1, 1], [0.2, 5.0, 3.3], [0, 1, 2]])
def test_it_is_numpys_mean_in_float64_cast_back(dtype, tolerance, weights):
    given = contributions(dtype)
    result = average(given, weights)
    for name in ("a", "b"):
        stack = np.stack([arrays[name].astype(np.float64) for arrays in given])
        expected = np.average(stack, axis=0, weights=weights)
        assert result[name].dtype == dtype
        assert result[name].shape == given[0][name].shape
        np.testing.assert_allclose(result[name], expected, rtol=tolerance, atol=tolerance)
        if dtype is np.float32:
            np.testing.assert_array_equal(result[name], expected.astype(np.float32))


def test_limit_cases():
    given = contributions()
    np.testing.assert_array_equal(average(given[:1], [7.0])["a"], given[0]["a"])
    np.testing.assert_array_equal(average([given[0]] * 3, [1, 2, 3])["a"], given[0]["a"])
    large = {"a": np.float32([3e38])}
    np.testing.assert_array_equal(average([large, large], [1, 1])["a"], large["a"])  # the sum alone would overflow


def test_the_order_of_sites_decides_the_last_bit_and_nothing_else_does():
    """1e16 + 1 − 1e16 in float64: what comes last is what survives."""
    big, one, minus = ({"a": np.array([value])} for value in (1e16, 1.0, -1e16))
    assert average([big, one, minus], [1, 1, 1])["a"] != average([big, minus, one], [1, 1, 1])["a"]

    random = np.random.default_rng(0)
    given = [{"a": random.normal(size=200_000).astype(np.float32), "b": np.float32([k])} for k in range(3)]
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(average([dict(reversed(arrays.items())) for arrays in given], [1, 1, 1])["a"])
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], average(given, [1, 1, 1])["a"])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_contributions_are_only_read(dtype):
    given = contributions(dtype)
    kept = [arrays["a"].copy() for arrays in given]
    for arrays in given:
        arrays["a"].flags.writeable = False  # as they come from messages
    result = average(given, [1, 1, 1])
    result["a"] += 1
    assert all(np.array_equal(arrays["a"], copy) for arrays, copy in zip(given, kept, strict=True))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_whole_numbers_are_not_averaged(dtype):
    with pytest.raises(ValueError, match="only floating-point parameters can"):
        average([{"a": np.ones(2, dtype)}] * 2, [1, 1])


@pytest.mark.parametrize(
    "weights", [[0, 0, 0], [1, 1], [1, 1, -1], [-1, -1, -1], [float("nan"), 1, 1], [float("inf"), 1, 1]]
)
def test_weights_that_make_no_mean_are_refused(weights):
    with pytest.raises(ValueError, match="cannot be averaged with weights"):
        average(contributions(), weights)


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="0 contributions"):
        average([], [])


@pytest.mark.parametrize(
    ("array", "finite"),
    [
        (np.float32([1, -2]), True),
        (np.full(9, 3e38, np.float32), True),
        (np.full(9, 6e4, np.float16), True),
        (np.float32([1, np.nan]), False),
        (np.float32([np.inf, 1]), False),
        (np.float32([np.inf, -np.inf]), False),
        (np.float64(np.nan).reshape(()), False),
        (np.zeros((0, 3)), True),
        (np.array([2**62, 2**62]), True),
    ],
)
def test_what_counts_as_finite(array, finite):
    assert all_finite(array) is finite
