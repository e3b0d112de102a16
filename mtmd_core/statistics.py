"""The statistics of the paper's tables: skewed scores in few numbers, and whether two methods differ.

Values that are not finite count as undefined and are left out. What too few values cannot tell is NaN, never an exception
or a warning.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

ALPHA = 0.01
"""Level of significance of the paper's tests (section 4.1)."""
LOWER, UPPER = 16, 84
"""Percentiles that bound the paper's 68 % confidence interval (section 3.4, after Schnider et al. 2020)."""
_FEWEST_FOR_NORMALITY = 8  # the skewness part of the test is not defined below (D'Agostino 1970)


class Spread(NamedTuple):
    """Mean of skewed values, and how far the percentiles lie from it; NaN where there is no value."""

    count: int  # defined values
    mean: float
    up: float  # 84th percentile − mean; negative where more than 84 % of the values lie below the mean
    down: float  # mean − 16th percentile


class Difference(NamedTuple):
    """Mean difference of paired values with its confidence interval; NaN where it is undefined."""

    count: int  # pairs with both values defined
    mean: float
    low: float
    high: float


def spread(values: ArrayLike) -> Spread:
    """Mean, and the distances from it to the 84th and the 16th percentile (Table 4 of the paper).

    Percentiles are NumPy's default, linear between the two nearest values.

    >>> spread([0.0, 0.25, 0.5, 0.75, 1.0])
    Spread(count=5, mean=0.5, up=0.3..., down=0.3...)
    """
    found = _defined(values)
    if not found.size:
        return Spread(0, np.nan, np.nan, np.nan)
    mean = found.mean()
    low, high = np.percentile(found, (LOWER, UPPER))
    return Spread(found.size, float(mean), float(high - mean), float(mean - low))


def mean_and_deviation(values: ArrayLike) -> tuple[float, float]:
    """Mean and sample standard deviation (n − 1 in the denominator), as Tables 2 and 3 of the paper give them over folds.

    Without a value the mean is NaN, with fewer than two values the deviation is.
    """
    found = _defined(values)
    mean = float(found.mean()) if found.size else np.nan
    return mean, float(found.std(ddof=1)) if found.size > 1 else np.nan


def normality_p(values: ArrayLike) -> float:
    """p-value of D'Agostino's and Pearson's (1973) test that values are drawn from a normal distribution.

    NaN for fewer than 8 values, and where all are equal: then the test is not defined.
    """
    found = _defined(values)
    if found.size < _FEWEST_FOR_NORMALITY or np.ptp(found) == 0:
        return np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # values that are nearly equal: the p-value may be NaN, as said
        return float(stats.normaltest(found).pvalue)


def same_distribution_p(values: ArrayLike, reference: ArrayLike) -> float:
    """p-value of the two-sided Kolmogorov–Smirnov test that two samples are drawn from one distribution.

    The samples need not be of one size; the p-value is exact up to 10 000 values and asymptotic beyond (SciPy's default).
    NaN where either sample is empty.
    """
    one, other = _defined(values), _defined(reference)
    if not one.size or not other.size:
        return np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # SciPy falls back to the asymptotic p-value by itself
        return float(stats.ks_2samp(one, other).pvalue)


def significant(p: float) -> bool | None:
    """Whether a p-value lies below :data:`ALPHA`; None where there is no p-value."""
    return None if np.isnan(p) else bool(p < ALPHA)


def paired_difference(
    values: Sequence[float | None], reference: Sequence[float | None], confidence: float = 0.95
) -> Difference:
    """Mean of ``values − reference`` over pairs (folds), with a confidence interval.

    ``d̄ ± t((1 + confidence) / 2; n − 1) · s / √n`` with the sample standard deviation s of the n differences (Student's t).
    A pair with an undefined value is left out. With one pair the interval is NaN, with none the mean is too.

    Args:
        values: one a fold; None or NaN where it is undefined.
        reference: the same, in the same order of folds.
        confidence: between 0 and 1.

    Raises:
        ValueError: if the two are not of one length.

    >>> paired_difference([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    Difference(count=3, mean=2.0, low=-0.48..., high=4.48...)
    """
    if len(values) != len(reference):
        raise ValueError(
            f"{len(values)} values cannot be paired with {len(reference)}: give one of each for every fold."
        )
    differences = _defined(np.asarray(values, float) - np.asarray(reference, float))
    count = differences.size
    mean, deviation = mean_and_deviation(differences)
    if count < 2:
        return Difference(count, mean, np.nan, np.nan)
    reach = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * deviation / np.sqrt(count)
    return Difference(count, mean, float(mean - reach), float(mean + reach))


def _defined(values: ArrayLike) -> NDArray[np.float64]:
    """The finite ones, [n]; None counts as NaN."""
    found = np.asarray(values, dtype=np.float64).ravel()
    return found[np.isfinite(found)]
