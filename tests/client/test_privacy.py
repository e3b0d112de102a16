"""A site's privacy budget: ε against its closed form, a budget that ends, and a memory that must not be lost."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from asked import CONTRAST, PLAN, shared
from scipy.optimize import brentq
from scipy.stats import norm
from tiny_sites import own_settings, write_sites

from client.privacy import PrivacyBudget, epsilon
from client.site import open_site
from mtmd_core.errors import ConfigurationError, DataError
from mtmd_core.wire import Terms


def closed_form(releases: dict[float, int], delta: float) -> float:
    """ε of composed Gaussian mechanisms, which are one of μ² = Σ count / multiplier² (Balle and Wang 2018, Theorem 8)."""
    mu = math.sqrt(sum(count / multiplier**2 for multiplier, count in releases.items()))

    def excess(guess: float) -> float:
        return norm.cdf(mu / 2 - guess / mu) - math.exp(guess + norm.logcdf(-mu / 2 - guess / mu)) - delta

    return brentq(excess, 0, mu * mu + 50 * mu)


@pytest.mark.parametrize("releases", [{1.0: 1}, {10.0: 50}, {5.0: 3, 20.0: 7}])
def test_epsilon_is_that_of_the_closed_form(releases):
    assert epsilon(tuple(releases.items()), 1e-5) == pytest.approx(closed_form(releases, 1e-5), rel=1e-4)


@pytest.mark.parametrize("releases", [{0.09: 1}, {0.01: 10}, {0.001: 100}])
def test_an_epsilon_beyond_all_use_is_an_upper_bound_near_the_closed_form(releases):
    mu = math.sqrt(sum(count / multiplier**2 for multiplier, count in releases.items()))
    bound = epsilon(tuple(releases.items()), 1e-5)
    assert mu * mu / 2 < bound < 1.05 * (mu * mu / 2 + 4.5 * mu)  # ε is near μ²/2 + μ Φ⁻¹(1 − δ)


def test_without_noise_there_is_no_epsilon():
    assert epsilon(((0.0, 1),), 1e-5) == math.inf
    assert PrivacyBudget().facts() is None


def test_a_plan_can_ask_for_more_noise_and_never_for_less():
    budget = PrivacyBudget(noise_multiplier=2.0)
    assert (budget.multiplier(0.0), budget.multiplier(1.0), budget.multiplier(3.0)) == (2.0, 2.0, 3.0)


def test_a_budget_allows_what_fits_and_remembers_it(tmp_path: Path):
    path = tmp_path / "privacy.json"
    most = closed_form({10.0: 3}, 1e-5) + 1e-3
    for spent in range(3):
        budget = PrivacyBudget(10.0, 1e-5, most, path)  # as after a restart
        assert budget.allows(10.0), spent
        budget.spend(10.0)
        assert json.loads(path.read_text()) == [[10.0, spent + 1]]
    assert not PrivacyBudget(10.0, 1e-5, most, path).allows(10.0)
    assert PrivacyBudget(10.0, 1e-5, most, path).facts() == {
        "releases": 3, "delta": 1e-5, "epsilon": pytest.approx(closed_form({10.0: 3}, 1e-5), rel=1e-4),
    }  # fmt: skip


def test_what_went_without_noise_counts_too(tmp_path: Path):
    path = tmp_path / "privacy.json"
    PrivacyBudget(path=path).spend(0.0)
    later = PrivacyBudget(10.0, 1e-5, 50.0, path)
    assert later.epsilon() == math.inf
    assert not later.allows(10.0)
    assert later.facts() is None  # nothing was said to be private
    later.spend(10.0)
    assert later.facts() == {
        "releases": 2, "delta": 1e-5, "epsilon": None, "reason": "1 of them went without noise, so that there is no bound",
    }  # fmt: skip


@pytest.fixture
def no_accountant(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where ``mtmd[privacy]`` is not installed."""
    monkeypatch.setitem(sys.modules, "dp_accounting", None)


def test_noise_that_the_coordinator_alone_asks_for_is_refused_before_a_round_where_nobody_can_count_it(
    no_accountant: None, tmp_path: Path
) -> None:
    folder = write_sites(tmp_path, sites={"knee": 2})["knee"]
    site = open_site(own_settings("knee", tmp_path / "state", folder, strategies=["dsl_ssc"]))
    plan, noised = replace(PLAN, strategy="dsl_ssc"), replace(CONTRAST, single_scale=True, noise_multiplier=2.0)
    with pytest.raises(ConfigurationError, match=r"pip install 'mtmd\[privacy\]'.*prototypes.noise_multiplier"):
        site.train(plan, shared(), Terms(contrast=noised))
    assert site.learner is None
    site.check_limits(plan, Terms(contrast=replace(noised, noise_multiplier=0.0)))


def test_results_do_not_wait_for_an_epsilon_that_cannot_be_stated(no_accountant: None, tmp_path: Path) -> None:
    """Releases of an earlier run, whose accountant is there no more."""
    folder, state = write_sites(tmp_path, sites={"knee": 2})["knee"], tmp_path / "state"
    state.mkdir()
    (state / "privacy.json").write_text("[[7.5, 3]]")
    site = open_site(own_settings("knee", state, folder))
    site.train(PLAN, shared())
    site.evaluate(replace(PLAN, test=True), shared())
    told = json.loads((state / "results" / "summary.json").read_text())["privacy"]
    assert (told["releases"], told["epsilon"]) == (3, None)
    assert "accountant, which is not installed" in told["reason"]
    assert (state / "results" / "model.safetensors").is_file()


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', "[[1.0]]", "3"])
def test_a_memory_that_cannot_be_read_stops_everything(text: str, tmp_path: Path):
    (tmp_path / "privacy.json").write_text(text)
    with pytest.raises(DataError, match="what was released before would be forgotten"):
        PrivacyBudget(1.0, path=tmp_path / "privacy.json")


def test_the_noise_of_a_simulation_repeats_itself_and_a_sites_does_not():
    def draw(budget: PrivacyBudget, phase_seed: int, round_: int) -> int:
        return budget.generator(phase_seed, round_).initial_seed()

    simulated = PrivacyBudget(1.0, seed=3)
    assert draw(simulated, 5, 1) == draw(PrivacyBudget(1.0, seed=3), 5, 1)
    assert len({draw(simulated, phase, round_) for phase in (5, 6) for round_ in (1, 2)}) == 4
    assert draw(PrivacyBudget(1.0), 5, 1) != draw(PrivacyBudget(1.0), 5, 1)
