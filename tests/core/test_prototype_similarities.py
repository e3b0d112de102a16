"""What prototypes tell of how alike sites are, against all pairs of embeddings there are."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mtmd_core.prototype_arrays import to_arrays
from mtmd_core.prototype_similarities import prototype_similarities
from mtmd_core.prototype_summary import summarise

SIZES = [4, 8, 16, 32, 64, 32, 16, 8, 4]
COUNTS = {"knee": 60, "ankle": 75}


def embeddings(site: str) -> list[torch.Tensor]:
    """Unit-norm embeddings of a site's slices, one [n, E] a scale, around a direction of its own."""
    random = torch.Generator().manual_seed(len(site))
    return [
        F.normalize(
            torch.randn(size, generator=random) + 0.5 * torch.randn(COUNTS[site], size, generator=random), dim=1
        )
        for size in SIZES
    ]


def arrays(site: str, scales: slice = slice(None)) -> dict[str, np.ndarray]:
    return to_arrays([summarise(scale, torch.arange(len(scale)) % 4) for scale in embeddings(site)[scales]])


def test_they_tell_the_mean_over_all_pairs() -> None:
    lines = prototype_similarities({site: arrays(site) for site in COUNTS})
    found = {(line["scale"], line["domain"], line["other_domain"]): line["mean"] for line in lines}
    assert len(found) == len(lines) == 9 * 3
    for place, scale in ((0, "s1"), (4, "s5"), (8, "s9")):
        ankle, knee = (embeddings(site)[place].double().numpy() for site in ("ankle", "knee"))
        assert found[scale, "ankle", "knee"] == pytest.approx((ankle @ knee.T).mean(), abs=2e-6)
        within = np.mean([one @ other for one, other in itertools.combinations(knee, 2)])
        assert found[scale, "knee", "knee"] == pytest.approx(within, abs=2e-6)


def test_prototypes_of_a_single_scale_are_of_the_bottleneck() -> None:
    whole = prototype_similarities({site: arrays(site) for site in COUNTS})
    single = prototype_similarities({site: arrays(site, slice(4, 5)) for site in COUNTS}, single_scale=True)
    assert single == [line for line in whole if line["scale"] == "s5"]


def test_one_site_by_itself_has_no_other() -> None:
    assert {line["other_domain"] for line in prototype_similarities({"knee": arrays("knee")})} == {"knee"}
    assert prototype_similarities({}) == []
