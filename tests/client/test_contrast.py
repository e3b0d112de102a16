"""A site's contrast over its own data: what its prototypes count."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_sites import own_settings, write_sites

from client.site import open_site
from mtmd_core.config import NetworkConfig
from mtmd_core.networks.build import build_network
from mtmd_core.parameters import partition, take
from mtmd_core.strategies import Sharing
from mtmd_core.wire import ContrastPlan, RoundPlan, Terms

PLAN = RoundPlan(
    *("run", 1, "dsl_msc", "att_unet", 4, "none", 32, "auto", 0, 0, 9, 6, 1e-3),
    *(True, False, 1, False, False, 0, 0, 0),
)
CONTRAST = ContrastPlan(0.5, 0.1, False, False, False, False, 3, 50, 0, 100, 0.0)


@pytest.mark.parametrize("by_size", [False, True])
def test_a_site_tells_how_many_slices_it_trains_on_only_where_sites_weigh_by_them(
    by_size: bool, tmp_path: Path
) -> None:
    """Nine batches of six are not all of the slices, and the prototypes are of these alone."""
    folder = write_sites(tmp_path, exams=6, slices=18, sites={"knee": 2})["knee"]
    site = open_site(own_settings("knee", tmp_path / "state", folder, strategies=["dsl_msc"]))
    network = build_network(NetworkConfig(width=4), {}, seed=0)
    shared = take(network, partition(network, Sharing.CONVOLUTIONS).shared)
    _, _, prototypes = site.train(PLAN, shared, Terms(contrast=replace(CONTRAST, by_size=by_size)))
    slices, _, site_slices = prototypes["counts"]
    assert (slices, site.learner.slices) == (54, 72)
    assert site_slices == (72 if by_size else 54)
