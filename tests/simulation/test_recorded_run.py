"""A full run (auto-encoder, prototypes, segmentation), recorded and searched by value for what must not leave a site.

Values and not names are looked for, in every byte that crosses, at every round: a private tensor that leaves under another
name, in another record or in fewer bits is found. The last four tests are named after the ways in which others have leaked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from leak_search import find_tensors, find_words, recorded_bytes
from recorded_federation import RecordingGrid, open_sites
from tiny_sites import SITES, WHOLE_METHOD, run_words, write_sites
from torch import Tensor, nn

from client.site import Site
from client.site_state import MemoryState
from mtmd_core.config_files import compose
from mtmd_core.networks import build
from mtmd_core.networks.domain_layers import DomainBatchNorm2d, DomainOutput, Routing
from mtmd_core.networks.output import NetworkOutput
from server.app import coordinate
from server.run_store import RunStore

FULL = (
    *WHOLE_METHOD,
    "federation.rounds=2",
    "federation.autoencoder_rounds=2",
)


class KeepingState(MemoryState):
    """A site's memory that keeps all that was ever put into it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, list[np.ndarray]] = {}

    def save(self, run: str, round_: int, private: Mapping[str, Tensor], optimiser: Mapping[str, Tensor]) -> None:
        super().save(run, round_, private, optimiser)
        self.keep({**private, **optimiser})

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self.kept.setdefault(name, []).append(tensor.detach().numpy().copy())


@dataclass
class Recording:
    """What crossed in a run, and what must not have."""

    crossed: bytes
    sent: bytes
    private: dict[str, list[np.ndarray]]
    words: list[str]
    shared: dict[str, np.ndarray]
    sites: dict[str, Site] = field(repr=False)


def record(folder: Path, *words: str) -> Recording:
    """Run a federation of three tiny sites in this process and keep every byte."""
    folders = write_sites(folder / "data", exams=5, slices=18)
    config = compose("simulate", run_words(folders, *words))
    sites = open_sites(folders, folder / "cache")
    for site in sites.values():
        site.state = KeepingState()
    grid = RecordingGrid(sites)

    def keep(_round: int, _metrics: dict) -> None:
        for site in sites.values():
            site.state.keep(site.learner._private())

    store = RunStore(folder / "run", config, every_round=False)
    outcome = coordinate(grid, config, store, keep, on_autoencoder_round=keep)
    private = {f"{name}: {key}": kept for name, site in sites.items() for key, kept in site.state.kept.items()}
    for site in sites.values():
        for exam in site.learner.data.exams.values():
            middle = exam.images.shape[1] // 2
            private[f"image of {exam.name}"] = [np.asarray(each) for each in exam.images[:, middle]]
            private[f"label map of {exam.name}"] = [np.asarray(each) for each in exam.labels]
    names = [name for site in sites.values() for name in (*site.learner.data.structures, *site.learner.data.exams)]
    sent = recorded_bytes(grid.from_sites)
    crossed = recorded_bytes(grid.to_sites) + sent
    return Recording(crossed, sent, private, [*names, str(folder)], dict(outcome.checkpoint.shared), sites)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(tmp_path_factory.mktemp("full"), *FULL)


def test_no_private_tensor_crosses_in_a_full_run(full: Recording) -> None:
    """Neither parameters nor running statistics of domains, nor optimisers, embeddings, images or label maps, at any round."""
    kinds = ("running_mean", "running_var", "output", "exp_avg", "exp_avg_sq", "embeddings", "image", "label map")
    assert [kind for kind in kinds if not any(kind in what for what in full.private)] == []
    assert find_tensors(full.crossed, full.private) == []


def test_no_label_exam_or_path_crosses_in_a_full_run(full: Recording) -> None:
    assert {"ankle_bone_3", "shoulder_exam_0"} <= set(full.words)
    assert find_words(full.crossed, full.words) == []


def test_the_search_finds_in_a_full_run_what_did_cross(full: Recording) -> None:
    """The last round's shared parameters, each of them, and the sites' names: the search is able to find."""
    telling = {name: [array] for name, array in full.shared.items() if np.unique(array).size >= 3}
    assert {leak.what for leak in find_tensors(full.crossed, telling)} == set(telling)
    assert {leak.what for leak in find_words(full.crossed, SITES)} == set(SITES)


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
def test_the_search_finds_a_private_tensor_that_is_planted(kind: str, full: Recording) -> None:
    private = {name: kept for name, kept in full.private.items() if name.endswith("running_mean")}
    what = next(name for name in private if name.startswith("knee"))
    value = private[what][-1]
    data = torch.from_numpy(value).to(getattr(torch, kind)).view(torch.uint8).numpy().tobytes()
    planted = full.crossed[:100_001] + data + full.crossed[100_001:]  # not where words begin
    assert {(leak.what, leak.kind, leak.place) for leak in find_tensors(planted, private)} == {(what, kind, 100_001)}
    assert [leak.what for leak in find_words(planted + b'"knee_bone_2":', full.words)] == ["knee_bone_2"]


class NamedAtWill(nn.Module):
    """A network whose layers are called as a test wants: convolution, norm, convolution, norm, output.

    It has no embeddings, so it is for strategies without a contrast.
    """

    NAMES = ("first", "first_norm", "second", "second_norm", "output")
    NORM = DomainBatchNorm2d

    def __init__(self, domains: Mapping[str, int], width: int) -> None:
        super().__init__()
        self.routing = Routing()
        first, first_norm, second, second_norm, output = self.NAMES
        self.layers = nn.ModuleDict(
            {
                first: nn.Conv2d(1, width, 3, padding=1),
                first_norm: self.NORM(self.routing, list(domains), width),
                second: nn.Conv2d(width, width, 3, padding=1),
                second_norm: self.NORM(self.routing, list(domains), width),
                output: DomainOutput(self.routing, domains, width),
            }
        )

    def forward(self, images: Tensor, shares: Mapping[str, int], embeddings: bool = False) -> NetworkOutput:
        self.routing.shares = shares
        first, first_norm, second, second_norm, output = (self.layers[name] for name in self.NAMES)
        features = second_norm(second(first_norm(first(images)).relu())).relu()
        return NetworkOutput(output(features), [])


def check_that_norms_and_output_stay(network: type[NamedAtWill], monkeypatch, folder: Path) -> Recording:
    """Run dsl over such a network: the two convolutions cross, and neither name nor type hides a norm or the output."""
    monkeypatch.setitem(build.WITH_WIDTH, "att_unet", network)
    recording = record(folder, "strategy=dsl", "federation.rounds=2", "training.augment=false")
    first, first_norm, second, second_norm, output = network.NAMES
    assert {name.split(".")[1] for name in recording.shared} == {first, second}
    for name in (first_norm, second_norm, output):
        assert any(f".{name}.domains." in what for what in recording.private)
    assert find_tensors(recording.crossed, recording.private) == []
    shared = {name: [array] for name, array in recording.shared.items()}
    assert {leak.what for leak in find_tensors(recording.crossed, shared)} == set(shared)
    return recording


def test_leak_by_substring_of_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a name that holds "bn" or "norm" is what keeps a layer private, a norm without it leaves."""

    class Misnamed(NamedAtWill):
        NAMES = ("bn_norm_domain", "conv_weight", "private_bn", "shared", "features")

    check_that_norms_and_output_stay(Misnamed, monkeypatch, tmp_path)


def test_leak_by_exact_type_that_misses_a_subclass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where ``type(layer) is ...`` is what keeps a layer private, a subclass of a norm leaves."""

    class CalmNorm(DomainBatchNorm2d):
        def forward(self, features: Tensor) -> Tensor:
            return 0.5 * super().forward(features)

    class WithSubclass(NamedAtWill):
        NORM = CalmNorm

    check_that_norms_and_output_stay(WithSubclass, monkeypatch, tmp_path)


def test_leak_by_prefix_that_catches_a_neighbour(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where all that begins like a shared layer is shared, ``conv10`` leaves with ``conv1``."""

    class Neighbours(NamedAtWill):
        NAMES = ("conv1", "conv10", "out", "conv", "output")

    check_that_norms_and_output_stay(Neighbours, monkeypatch, tmp_path)


def test_leak_by_buffers_sent_back(full: Recording, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where parameters are sorted and buffers are not, running statistics leave with the trained model, and come back averaged.

    Here none crosses either way, and those of a site are what its own exams made them.
    """
    simple = check_that_norms_and_output_stay(NamedAtWill, monkeypatch, tmp_path)
    for recording in (full, simple):
        buffers = {what: kept for what, kept in recording.private.items() if "running_" in what}
        assert sum(map(len, buffers.values())) >= 3 * 2 * 2 * 2  # sites, norms, means and variances, rounds
        assert find_tensors(recording.crossed, buffers) == []
        assert b"running_" not in recording.crossed
        assert b"num_batches_tracked" not in recording.crossed
    means = [
        site.learner._private()[f"layers.first_norm.domains.{name}.running_mean"] for name, site in simple.sites.items()
    ]
    assert not any(torch.equal(means[0], other) for other in means[1:])
