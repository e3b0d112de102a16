"""A site refuses trainings whose updates would be made of few slices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asked import PLAN, shared
from tiny_sites import own_settings, write_sites

from client.limits import Limits, RefusedPlanError
from client.settings import load_settings
from client.site import Site, open_site
from mtmd_core.errors import ConfigurationError
from mtmd_core.wire import Terms

ENOUGH = replace(PLAN, local_steps=25, optimiser="sgd")
"""Exactly the fifty slices that a site asks for."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = write_sites(tmp_path, sites={"knee": 2})["knee"]
    return open_site(own_settings("knee", tmp_path / "state", folder, limits={"min_round_slices": 50}))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"local_steps": 1, "share": 1}, r"made of 1 slices \(1 steps of 1,.*min_round_slices is 50.*more local steps"),
        ({"local_steps": 24}, "made of 48 slices"),
        ({"learning_rate": 0.0}, "made of 0 slices"),
        ({"learning_rate": 0.9, "proximal_mu": 1.0}, "made of 2.222 slices"),
        ({"learning_rate_decay": "linear", "rounds": 1}, "made of 26 slices"),
        (
            {"learning_rate_decay": "linear", "rounds": 50, "share": 3},
            "the update of round 50 would be made of 39 slices",
        ),
        ({"learning_rate": 1.5}, "asks for 1.5 as learning rate, but this site's max_learning_rate is 1"),
        ({"proximal_mu": 2.0}, "asks for 2.0 as proximal_mu, but this site's max_proximal_mu is 1"),
        ({"local_epochs": 4}, r"made of 48 slices \(24 steps of 2"),
        ({"local_epochs": 4, "share": 50}, r"made of 48 slices \(4 steps of 12"),
    ],
)
def test_an_update_of_few_slices_is_refused(site: Site, change: dict, text: str) -> None:
    with pytest.raises(RefusedPlanError, match=text):
        site.train(replace(ENOUGH, **change), shared())


def test_a_round_of_enough_slices_is_trained_in_steps_and_in_epochs(site: Site) -> None:
    before = shared()
    site.train(ENOUGH, before)
    assert any(np.any(array != before[name]) for name, array in site.learner.contribution.arrays.items())
    site.train(replace(ENOUGH, round=2, local_epochs=5), before)


def test_nothing_can_be_inferred_where_nothing_is_shared_and_a_simulation_asks_for_no_minimum(site: Site) -> None:
    site.limits.check(replace(PLAN, strategy="individual"), Terms(), 3)
    Limits().check(PLAN, Terms(), 3)


@pytest.mark.parametrize("text", ["min_round_slices: null", "min_round_slices: 0", "max_learning_rate: 0"])
def test_a_site_may_lower_the_minimum_and_not_lift_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(f"limits: {{{text}}}\n")
    with pytest.raises(ConfigurationError, match=f"limits.{text.partition(':')[0]}"):
        load_settings("knee", {"state": tmp_path})
    (tmp_path / "site.yaml").write_text("limits: {min_round_slices: 4, max_learning_rate: 0.5}\n")
    limits = load_settings("knee", {"state": tmp_path}).limits
    assert (limits["min_round_slices"], limits["max_learning_rate"]) == (4, 0.5)
