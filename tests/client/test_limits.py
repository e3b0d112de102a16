"""What a plan may take of a site's memory and time; what else a site refuses is in ``test_site.py``."""

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asked import PLAN, PRIOR, shared
from tiny_sites import own_settings, write_sites

from client.limits import MEGABYTE, Limits, RefusedPlanError
from client.settings import load_settings
from client.site import Site, open_site
from mtmd_core.errors import ConfigurationError
from mtmd_core.networks.memory import training_bytes
from mtmd_core.wire import Terms

STEP = """
import sys, torch
from mtmd_core.config import NetworkConfig
from mtmd_core.data.batches import Batch
from mtmd_core.networks.build import build_network
from mtmd_core.objectives import Reconstruction, Segmentation
from mtmd_core.training import build_optimiser, train_step

def steps(name, width, batch, size):
    network = build_network(NetworkConfig(name, width), {"one": 5}, seed=0)
    optimiser = build_optimiser(network, 1e-4)
    objective = Reconstruction({"one": 5}) if name == "autoencoder" else Segmentation()
    images, labels = torch.randn(batch, 1, size, size), torch.zeros(batch, size, size, dtype=torch.long)
    for _ in range(2):
        train_step(network, optimiser, Batch(images, {"one": labels}, {"one": batch}), False, objective)
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

torch.set_num_threads(1)
before = steps(sys.argv[1], 4, 2, 32)  # libraries and threads are there now
print(1024 * (steps(sys.argv[1], *map(int, sys.argv[2:])) - before))
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = write_sites(tmp_path, sites={"knee": 2})["knee"]
    return open_site(own_settings("knee", tmp_path / "state", folder))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's peak memory")
@pytest.mark.parametrize(("name", "width", "batch", "size"), [("att_unet", 16, 8, 96), ("autoencoder", 16, 8, 96)])
def test_the_estimate_is_near_what_training_takes_at_its_peak(name: str, width: int, batch: int, size: int) -> None:
    words = [name, str(width), str(batch), str(size)]
    done = subprocess.run([sys.executable, "-c", STEP, *words], capture_output=True, text=True, check=True)
    assert 0.7 < training_bytes(name, width, 5, batch, size) / int(done.stdout) < 1.4


def test_memory_grows_with_batch_pixels_and_precision_and_the_network_is_a_constant() -> None:
    one, two, four = (training_bytes("att_unet", 8, 3, batch, 32) for batch in (2, 4, 8))
    assert four - two == 2 * (two - one)
    assert training_bytes("att_unet", 8, 3, 2, 64) - one == pytest.approx(3 * (two - one), rel=0.01)
    assert training_bytes("att_unet", 8, 3, 2, 32, "float64") == pytest.approx(2 * one, rel=0.01)  # masks stay bytes
    with pytest.raises(ValueError, match="att_unet cannot be run over 2 images of 20 pixels"):
        training_bytes("att_unet", 8, 3, 2, 20)


def test_a_plan_that_needs_more_memory_than_a_site_gives_is_refused_by_name(site: Site) -> None:
    needed = training_bytes("att_unet", 4, 3, 40, 16) // MEGABYTE
    plan = replace(PLAN, share=40)
    site.limits = Limits({"max_memory_mb": needed})
    with pytest.raises(
        RefusedPlanError,
        match=rf"MB of memory to train, but this site's max_memory_mb is {needed}: raise limits.max_memory_mb in site",
    ):
        site.train(replace(plan, share=60), shared())
    assert site.learner is None
    with pytest.raises(RefusedPlanError, match=rf"this site's device has {needed - 1}"):
        Limits({"max_memory_mb": None}, (needed - 1) * MEGABYTE).check(plan, Terms(), 3)
    Limits({"max_memory_mb": None}, (needed + 1) * MEGABYTE).check(plan, Terms(), 3)


def test_the_auto_encoder_of_a_prior_counts_too_and_so_does_a_union_of_labels() -> None:
    alone = training_bytes("att_unet", 4, 3, 2, 16)
    limits = Limits(memory=alone)
    limits.check(PLAN, Terms(), 3)
    with pytest.raises(RefusedPlanError, match="MB of memory"):
        limits.check(PLAN, Terms(prior=PRIOR), 3)
    with pytest.raises(RefusedPlanError, match="MB of memory"):
        limits.check(replace(PLAN, label_classes=100_000), Terms(), 3)


def test_a_round_that_would_take_too_long_is_refused_as_soon_as_that_can_be_told() -> None:
    times = iter([0.0, 5.0, 9.9, 10.0, 99.0, 101.0])
    look = Limits({"max_round_seconds": 100}, clock=lambda: next(times)).watch(20)
    look(1)  # too slow, and too early to say
    look(1)
    look(2)  # 10 s for 2 of 20: just what is allowed
    look(20)
    with pytest.raises(
        RefusedPlanError, match="20 steps, of which 20 took 1 min 41 s: all would take about 1 min 41 s, but"
    ):
        look(20)
    slow = iter([0.0, 10.0])
    look = Limits({"max_round_seconds": 100}, clock=lambda: next(slow)).watch(20)
    with pytest.raises(
        RefusedPlanError, match=r"of which 1 took 10 s: all would take about 3 min 20 s, .*max_round_seconds is 100"
    ):
        look(1)


def test_a_round_that_was_broken_off_for_its_length_leaves_nothing_behind(site: Site, tmp_path: Path) -> None:
    seconds = itertools.count()
    limits, plan = site.limits, replace(PLAN, local_steps=2)
    site.limits = Limits({"max_round_seconds": 5}, clock=lambda: next(seconds))
    with pytest.raises(RefusedPlanError, match="10 steps, of which 1 took 1 s: all would take about 10 s"):
        site.train(replace(PLAN, local_steps=10), shared())
    site.limits = limits
    site.train(plan, shared())
    other = open_site(own_settings("knee", tmp_path / "other", tmp_path / "knee"))
    other.train(plan, shared())
    for name, array in other.learner.contribution.arrays.items():
        assert np.array_equal(array, site.learner.contribution.arrays[name])


@pytest.mark.parametrize("text", ["max_round_seconds: null", "max_memory_mb: 0", "max_sites: many"])
def test_a_limit_is_a_count_and_only_memory_may_be_left_to_the_machine(text: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(f"limits: {{{text}}}\n")
    with pytest.raises(ConfigurationError, match=f"limits.{text.partition(':')[0]}"):
        load_settings("knee", {"state": tmp_path})
    (tmp_path / "site.yaml").write_text("limits: {max_memory_mb: null}\n")
    assert load_settings("knee", {"state": tmp_path}).limits["max_memory_mb"] is None
