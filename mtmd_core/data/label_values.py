"""What the voxels of a label map hold, and what of it can be no label."""

import numpy as np

ROUNDING = 1e-4
"""From an integer: what a header's slope in float32 makes of labels; what interpolation makes of them mostly lies further off."""


def rounded(values: np.ndarray) -> np.ndarray:
    """Values of any shape, those within :data:`ROUNDING` of an integer made that integer."""
    if values.dtype.kind in "iu":
        return values
    nearest = np.rint(values)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        return np.where(np.abs(values - nearest) <= ROUNDING, nearest, values)


def values_outside(values: np.ndarray, largest: int) -> str:
    """Up to five values that are not an integer from 0 to ``largest``, for people, as they are; empty if all are."""
    if values.dtype.kind in "iu":
        if values.min() >= 0 and values.max() <= largest:
            return ""
        wrong = values[(values < 0) | (values > largest)]
    else:
        wrong = values[~((values >= 0) & (values <= largest) & (values == np.rint(values)))]
    found = np.unique(wrong)
    listed = ", ".join(f"{value:.7g}" for value in found[:5])  # 255.0002 too
    return f"{listed}, ..." if len(found) > 5 else listed
