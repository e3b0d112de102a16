"""How far a threshold alone gets: the measure that keeps the phantoms honest."""

import numpy as np

BINS = 256


def best_window_dice(image: np.ndarray, structure: np.ndarray) -> tuple[float, float]:
    """Best Dice of any single threshold (either side kept), and of any window low ≤ intensity < high.

    `image` and the boolean mask `structure` have one shape. The thresholds tried are 256 quantiles of the intensities
    inside and outside the structure, so that the search is exhaustive at a resolution finer than the noise. Raises
    ValueError for an empty structure.
    """
    inside = image[structure]
    if inside.size == 0:
        raise ValueError("the structure has no voxel; give a mask that is not empty")
    levels = np.linspace(0, 1, BINS)
    edges = np.unique(np.concatenate([np.quantile(inside, levels), np.quantile(image, levels)]))
    edges = np.append(edges, np.nextafter(edges[-1], np.inf))
    true = np.concatenate([[0], np.cumsum(np.histogram(inside, edges)[0])])
    kept = np.concatenate([[0], np.cumsum(np.histogram(image, edges)[0])])
    # Window [edges[a], edges[b]) for all a < b.
    overlap = true[None, :] - true[:, None]
    size = kept[None, :] - kept[:, None]
    dice = np.where(size > 0, 2 * overlap / np.maximum(size + inside.size, 1), 0.0)
    return float(max(dice[0].max(), dice[:, -1].max())), float(dice.max())
