"""What a site refuses, whatever the coordinator asks."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asked import CONTRAST, PLAN, PRIOR, shared
from tiny_sites import own_settings, write_sites

from client.limits import RefusedPlanError
from client.outbox import Outbox
from client.prior import MissingPriorError
from client.settings import SiteSettings
from client.site import Site, open_site
from client.site_state import MemoryState
from mtmd_core.config import NetworkConfig
from mtmd_core.devices import be_deterministic
from mtmd_core.errors import DataError, RunFailedError
from mtmd_core.networks.build import build_network, count_parameters
from mtmd_core.parameters import partition, take
from mtmd_core.strategies import Sharing
from mtmd_core.wire import Terms


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = write_sites(tmp_path, sites={"knee": 2})["knee"]
    return open_site(own_settings("knee", tmp_path / "state", folder))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"strategy": "shared", "label_classes": 6}, "takes part in individual, dsl"),
        ({"local_steps": 100_001}, "max_local_steps is 100000"),
        (
            {"calibration_batches": 100_001},
            "asks for 100001 calibration batches, but this site's max_local_steps is 100000: raise",
        ),
        ({"share": 257}, "max_batch_size is 256"),
        ({"slice_size": 2048}, "max_slice_size is 1024"),
        ({"width": 4096}, "max_parameters is 500000000"),
        ({"local_steps": 0}, "local_steps is 0"),
        ({"share": -1}, "share is -1"),
        ({"optimiser": "yogi"}, "optimiser is 'yogi'; a site knows adam, sgd"),
        ({"learning_rate_decay": "cosine"}, "learning_rate_decay is 'cosine'; a site knows none, linear"),
        ({"learning_rate_decay": "linear"}, "'linear' over 0 rounds, and this is round 1"),
        ({"dtype": "float16"}, "a site knows float32, float64"),
        ({"update_encoding": "int4"}, "a site knows float32, bfloat16, int8"),
        ({"local_epochs": -1}, "local_epochs is -1"),
        ({"proximal_mu": float("nan")}, "proximal_mu is nan; it must be a finite number of at least 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"label_offset": -1}, "label_offset is -1"),
        ({"lockstep_weight": 2.0}, "lockstep_weight is 2.0"),
        ({"slice_size": 1024, "share": 256, "width": 32}, "MB of memory to train, but this site's device has"),
        ({"slice_size": 20}, "slice_size is 20: att_unet cannot be run over 2 images of 20 pixels squared"),
        ({"slice_size": 16, "share": 1}, "att_unet cannot be run over 1 images of 16 pixels squared"),
        ({"lockstep_weight": 0.5}, "gradients of single batches leave a site"),
        ({"encoder_weights": "/etc/passwd"}, "takes imagenet or none alone"),
    ],
)
def test_a_plan_beyond_the_sites_own_limits_is_refused(site: Site, change: dict, text: str) -> None:
    with pytest.raises(RefusedPlanError, match=text):
        site.train(replace(PLAN, **change), shared())
    assert site.learner is None


@pytest.mark.parametrize(
    ("change", "terms", "text"),
    [
        ({}, Terms(contrast=CONTRAST), "brings a term 'contrast', which strategy 'dsl' has none of"),
        ({}, Terms(prior=PRIOR), "brings a term 'prior', which strategy 'dsl' has none of"),
        ({"network": "autoencoder"}, Terms(), "brings a term 'auto-encoder', which strategy 'dsl' has none of"),
        ({"strategy": "dsl_mjap", "network": "autoencoder"}, Terms(prior=PRIOR), "brings a term 'prior'"),
        ({"strategy": "dsl_mjap", "network": "autoencoder"}, Terms(contrast=CONTRAST), "brings a term 'contrast'"),
        ({"strategy": "dsl_mjap"}, Terms(prior=replace(PRIOR, width=4096)), "max_parameters is 500000000"),
        ({"strategy": "dsl_mjap"}, Terms(prior=replace(PRIOR, share=300)), "max_batch_size is 256"),
        ({"strategy": "dsl_msc"}, Terms(contrast=CONTRAST), "takes part in individual, dsl, dsl_mjap, dsl_ssc"),
        (
            {"strategy": "dsl_ssc"},
            Terms(contrast=replace(CONTRAST, temperature=0.0)),
            "temperature is 0.0; it must be above",
        ),
        ({"strategy": "dsl_ssc"}, Terms(contrast=replace(CONTRAST, weight=math.nan)), "weight is nan"),
        (
            {"strategy": "dsl_ssc"},
            Terms(contrast=CONTRAST, others=({},) * 100),
            "asks for 101 sites' prototypes, but this site's max_sites is",
        ),
        ({"strategy": "dsl_mjap"}, Terms(prior=replace(PRIOR, weight=math.inf)), "weight is inf"),
    ],
)
def test_a_strategy_says_what_a_plan_may_bring(site: Site, change: dict, terms: Terms, text: str) -> None:
    site.strategies = ("individual", "dsl", "dsl_mjap", "dsl_ssc")
    with pytest.raises(RefusedPlanError, match=text):
        site.train(replace(PLAN, **change), shared(), terms)
    assert site.learner is None


def test_a_site_without_the_auto_encoder_says_so_and_one_that_missed_its_rounds_too(site: Site) -> None:
    site.strategies = ("dsl_mjap",)
    plan = replace(PLAN, strategy="dsl_mjap")
    with pytest.raises(MissingPriorError, match="round 2 is not here"):
        site.train(plan, shared(), Terms(prior=PRIOR))
    network = build_network(NetworkConfig("autoencoder", 4), {}, seed=0)
    parameters = take(network, partition(network, Sharing.CONVOLUTIONS).shared)
    with pytest.raises(RunFailedError, match="no private parameters of round 2"):
        site.train(plan, shared(), Terms(prior=PRIOR, prior_shared=parameters))


def test_epochs_that_take_more_steps_than_a_site_allows_are_refused(site: Site) -> None:
    with pytest.raises(
        RefusedPlanError, match="asks for 120000 local steps, but this site's max_local_steps is 100000"
    ):
        site.train(replace(PLAN, local_epochs=40_000, share=4), shared())


def test_a_plan_within_them_is_carried_out(site: Site) -> None:
    receipt, metrics, prototypes = site.train(PLAN, shared())
    assert prototypes is None
    assert (receipt.site, receipt.round, metrics["steps"]) == ("knee", 1, 1)


def test_a_visit_is_as_deterministic_as_its_plan_asks(site: Site) -> None:
    asked, seen = [True, False, True], []
    site.on_step = lambda step, loss: seen.append(torch.are_deterministic_algorithms_enabled())
    try:
        for round_, deterministic in enumerate(asked, start=1):
            site.train(replace(PLAN, round=round_, deterministic=deterministic), shared())
        site.evaluate(replace(PLAN, round=len(asked)), shared())
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        be_deterministic(False)
    assert seen == asked


def test_parameters_are_counted_as_they_are_built() -> None:
    network = build_network(NetworkConfig(width=6), {}, seed=0)
    assert count_parameters(NetworkConfig(width=6)) == sum(p.numel() for p in network.parameters())


def test_a_site_with_a_damaged_exam_does_not_open(tmp_path: Path) -> None:
    folder = write_sites(tmp_path, sites={"knee": 2})["knee"]
    label = next((folder / "labelsTr").iterdir())
    label.write_bytes(label.read_bytes()[:-40])
    with pytest.raises(DataError, match="cut short"):
        open_site(SiteSettings(site="knee", state=tmp_path / "state", data=folder))


def test_however_many_slice_sizes_a_coordinator_asks_for_the_cache_stays_small(site: Site, tmp_path: Path) -> None:
    for size in range(16, 32, 2):
        assert next(iter(site.load_data(size, "auto").exams.values())).images.shape[1:] == (size, size)
    cuts = [json.loads(path.read_text())["size"] for path in (tmp_path / "state" / "cache").glob("*/exam.json")]
    assert sorted(cuts) == sorted(4 * [24, 26, 28, 30])  # four exams


def test_a_chosen_round_that_a_site_never_saw_is_not_invented(tmp_path: Path, site: Site) -> None:
    late = Site("knee", 2, site.load_data, MemoryState(), Outbox("mean"), torch.device("cpu"))
    late.train(replace(PLAN, round=5), shared())
    with pytest.raises(RunFailedError, match="no private parameters of round 3"):
        late.evaluate(replace(PLAN, round=3, test=True), shared())


def test_a_plan_that_changes_within_a_run_is_carried_out_as_a_site_that_opens_anew_would(
    site: Site, tmp_path: Path
) -> None:
    changed = replace(PLAN, round=2, share=3, learning_rate=5e-3)
    site.train(PLAN, shared())
    again = open_site(own_settings("knee", tmp_path / "state", tmp_path / "knee"))
    site.train(changed, shared())
    again.train(changed, shared())
    warm, cold = site.learner.contribution.arrays, again.learner.contribution.arrays
    assert all(np.array_equal(warm[name], cold[name]) for name in cold)
