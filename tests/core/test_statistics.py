import numpy as np
import pytest
from scipy import stats

from mtmd_core.statistics import (
    ALPHA,
    mean_and_deviation,
    normality_p,
    paired_difference,
    same_distribution_p,
    significant,
    spread,
)

UNDEFINED = [np.nan, None, np.inf]


@pytest.fixture
def skewed() -> np.ndarray:
    return np.random.default_rng(0).beta(6, 1, 500)


def test_the_spread_of_eleven_values_by_hand():
    """0, 1, …, 9 and 45: the mean is 90/11; the 16th percentile stands at place 1.6, the 84th at 8.4."""
    count, mean, up, down = spread([45, *range(10)])
    assert (count, mean) == (11, pytest.approx(90 / 11))
    assert up == pytest.approx(8.4 - 90 / 11)
    assert down == pytest.approx(90 / 11 - 1.6)


def test_the_spread_is_the_mean_and_numpys_percentiles(skewed):
    _, mean, up, down = spread(skewed)
    assert (mean + up, mean - down) == pytest.approx((np.percentile(skewed, 84), np.percentile(skewed, 16)))


def test_what_a_single_value_and_none_can_tell():
    assert spread([0.25]) == (1, 0.25, 0, 0)
    assert spread([])[0] == 0
    assert np.isnan(spread(UNDEFINED)[1:]).all()
    assert mean_and_deviation([0.25]) == (0.25, pytest.approx(np.nan, nan_ok=True))
    assert np.isnan(mean_and_deviation([])).all()


def test_the_deviation_is_that_of_a_sample():
    assert mean_and_deviation([1, 2, 3, 6]) == pytest.approx((3, np.sqrt(14 / 3)))


def test_undefined_values_are_left_out_everywhere(skewed):
    more = [*UNDEFINED, *skewed]
    assert spread(more) == spread(skewed)
    assert mean_and_deviation(more) == mean_and_deviation(skewed)
    assert normality_p(more) == normality_p(skewed)
    assert same_distribution_p(more, skewed[:100]) == same_distribution_p(skewed, [*skewed[:100], None])


def test_normality_is_told_from_skew(skewed):
    normal = stats.norm.ppf((np.arange(200) + 0.5) / 200)
    assert normality_p(normal) > 0.9
    assert normality_p(skewed) == stats.normaltest(skewed).pvalue < ALPHA


@pytest.mark.parametrize("values", [[], [1.0], range(7), [0.998] * 50, [1.0, np.nan] * 7])
def test_normality_of_too_few_or_equal_values_is_undefined(values):
    assert np.isnan(normality_p(values))


def test_nearly_equal_values_raise_nothing():
    assert 0 <= np.nan_to_num(normality_p(1 + np.finfo(float).eps * np.arange(20) % 3)) <= 1


def test_distributions_are_compared_as_by_scipy(skewed):
    other = np.random.default_rng(1).beta(4, 1, 333)
    assert same_distribution_p(skewed, other) == stats.ks_2samp(skewed, other).pvalue < ALPHA
    assert same_distribution_p(skewed, skewed) == 1


def test_two_samples_by_hand():
    """Of the 20 orders of three and three values, two keep them apart entirely (the largest distance, 1)."""
    assert same_distribution_p([1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 20)


@pytest.mark.parametrize(("one", "other"), [([], [1.0]), ([1.0], []), ([None], [1.0]), ([], [])])
def test_an_empty_sample_cannot_be_compared(one, other):
    assert np.isnan(same_distribution_p(one, other))


def test_many_ties_and_unequal_sizes_raise_nothing():
    ties = np.repeat([0.0, 1.0], 3000)
    assert same_distribution_p(ties, [*ties, *ties, 1.0] * 2) > 0.9
    assert same_distribution_p(ties, ties + 2) == 0


def test_significance_is_below_one_in_a_hundred():
    assert [significant(p) for p in (0.0099, 0.01, 0.5)] == [True, False, False]
    assert significant(np.nan) is None


def test_paired_differences_by_hand():
    """Differences 2, 3, 1: mean 2, deviation 1; Student's t for 2 degrees of freedom is 4.3027 (tables)."""
    count, mean, low, high = paired_difference([3, 5, 4], [1, 2, 3])
    assert (count, mean) == (3, 2)
    assert (low, high) == pytest.approx((2 - 4.3027 / np.sqrt(3), 2 + 4.3027 / np.sqrt(3)), abs=1e-4)


def test_paired_differences_are_scipys_one_sample_interval():
    random = np.random.default_rng(2)
    one, other = random.normal(0.8, 0.1, 9), random.normal(0.7, 0.1, 9)
    expected = stats.ttest_1samp(one - other, 0).confidence_interval(0.9)
    assert paired_difference(one, other, 0.9)[2:] == pytest.approx((expected.low, expected.high))


def test_the_interval_of_equal_differences_is_a_point():
    assert paired_difference([0.5, 0.75], [0.25, 0.5]) == (2, 0.25, 0.25, 0.25)


def test_pairs_with_an_undefined_value_are_left_out():
    assert paired_difference([1, None, 5, 7], [0, 2, np.nan, 4]) == paired_difference([1, 7], [0, 4])


def test_one_pair_has_no_interval_and_none_no_difference():
    count, mean, low, high = paired_difference([0.75, None], [0.5, 0.5])
    assert (count, mean) == (1, 0.25)
    assert np.isnan([low, high]).all()
    assert paired_difference([], [])[0] == 0
    assert np.isnan(paired_difference([None], [1.0])[1:]).all()


def test_lists_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="2 values cannot be paired with 1"):
        paired_difference([1, 2], [1])
