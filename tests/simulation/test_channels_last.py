"""``training.channels_last`` in a federation: it reaches both networks of every site, and changes the order of sums alone."""

import numpy as np
import pytest
import torch
from recorded_federation import RecordingGrid, open_sites
from records import arrays_in
from tiny_sites import run_words, write_sites
from torch import nn

from client.site import Site
from mtmd_core.config_files import compose
from server.app import coordinate
from server.run_store import RunStore

WORDS = (
    "strategy=dsl_mjap",
    "data.slice_size=32",
    "autoencoder.width=4",
    "autoencoder.batch_size=6",
    "training.dtype=float64",
    "training.optimiser=sgd",  # Adam would make steps of equal size of gradients that are nothing but rounding
    "federation.rounds=2",
    "federation.autoencoder_rounds=1",
    "federation.calibration_batches=1",
)
LAYOUTS = {"false": torch.contiguous_format, "true": torch.channels_last}


def kernels(network: nn.Module) -> list[torch.Tensor]:
    """Weights whose layout can be told: of several channels and several pixels."""
    return [p for p in network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Site], RecordingGrid, dict]]:
    """``training.channels_last`` → sites, grid and shared parameters of a federation with two networks."""
    place = tmp_path_factory.mktemp("federations")
    folders, found = write_sites(place / "data"), {}
    for word in LAYOUTS:
        config = compose("simulate", run_words(folders, *WORDS, f"training.channels_last={word}"))
        sites = open_sites(folders, place / "cache")
        grid = RecordingGrid(sites)
        outcome = coordinate(grid, config, RunStore(place / word, config, every_round=False))
        found[word] = sites, grid, outcome.checkpoint.shared
    return found


@pytest.mark.parametrize("word", LAYOUTS)
def test_both_networks_of_every_site_lie_as_the_configuration_says(ends, word):
    sites, grid, _ = ends[word]
    plans = [message.content["plan"] for message in grid.to_sites if "plan" in message.content]
    assert {plan["channels_last"] for plan in plans} == {word == "true"}
    for site in sites.values():
        network, prior = site.learner.network, site._prior._term.autoencoder
        assert all(len(kernels(each)) > 10 for each in (network, prior))
        for kernel in (*kernels(network), *kernels(prior)):
            assert kernel.is_contiguous(memory_format=LAYOUTS[word])
        for gradient in (kernel.grad for kernel in kernels(network)):
            assert gradient.is_contiguous(memory_format=LAYOUTS[word])


def test_what_crosses_and_what_is_learnt_differ_by_rounding(ends):
    (_, standard, shared), (_, last, shared_last) = ends.values()
    assert shared.keys() == shared_last.keys()
    for name, array in shared.items():
        np.testing.assert_allclose(shared_last[name], array, rtol=0, atol=1e-9, err_msg=name)
    for one, other in zip(standard.from_sites, last.from_sites, strict=True):
        assert one.content.array_records.keys() == other.content.array_records.keys()
        for record in one.content.array_records:
            arrays, others = arrays_in(one.content[record]), arrays_in(other.content[record])
            assert {n: a.shape for n, a in arrays.items()} == {n: a.shape for n, a in others.items()}
    moved = max(float(np.abs(array - initial_of(standard)[name]).max()) for name, array in shared.items())
    assert moved > 1e-6


def initial_of(grid: RecordingGrid) -> dict[str, np.ndarray]:
    """The shared parameters that segmentation began with."""
    return arrays_in(grid.visits("knee", "att_unet")[1].content["shared"])
