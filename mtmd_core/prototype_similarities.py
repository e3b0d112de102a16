"""How alike domains are, from what of their embeddings may leave a site."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .objectives import contrasted
from .prototype_arrays import COUNTS
from .representations import SCALES, expected_similarities, expected_similarity_within


def prototype_similarities(
    sites: Mapping[str, Mapping[str, np.ndarray]], single_scale: bool = False
) -> list[dict[str, Any]]:
    """Mean cosine similarities within and between sites, from prototypes alone: ``μ_a·μ_b`` (see
    :func:`mtmd_core.representations.expected_similarities`).

    Args:
        sites: site → arrays of its message (:func:`mtmd_core.prototype_arrays.array_shapes`).
        single_scale: whether prototypes are of the bottleneck alone.

    Returns:
        A line a scale and pair of sites, those within one first: ``scale``, ``domain``, ``other_domain`` (the same for what
        lies within), ``mean``.
    """
    lines = []
    for number, scale in enumerate(contrasted(list(SCALES), single_scale), start=1):
        means = {site: arrays[f"s{number}/mean"] for site, arrays in sorted(sites.items())}
        found = {
            (site, site): expected_similarity_within(mean, int(sites[site][COUNTS][0])) for site, mean in means.items()
        }
        for (one, other), mean in (found | expected_similarities(means)).items():
            lines.append({"scale": scale, "domain": one, "other_domain": other, "mean": round(mean, 6)})
    return lines
