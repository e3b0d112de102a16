"""How a federation trains and aggregates: each choice recomputed from the messages that crossed; and stopped runs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message
from recorded_federation import RecordingGrid, arrays_of, open_sites
from records import arrays_in
from tiny_sites import run_words, write_sites

from client.limits import RefusedPlanError
from mtmd_core.config import NetworkConfig, RunConfig
from mtmd_core.config_files import compose
from mtmd_core.data.site_data import load_site
from mtmd_core.networks.build import build_network
from mtmd_core.parameters import partition
from mtmd_core.strategies import Sharing
from mtmd_core.training import build_optimiser, train
from server.app import Outcome, coordinate
from server.run_store import RunStore
from simulation.pool import Pool

OPTIMISER = "federation.server_optimiser"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The knee has two exams more than the others."""
    place = tmp_path_factory.mktemp("sites")
    return write_sites(place) | write_sites(place / "more", exams=6, sites={"knee": 2})


class Run:
    """A federation, run to its end, with all that crossed and the shared parameters after each round."""

    def __init__(self, folders: dict[str, Path], place: Path, *words: str) -> None:
        self.config: RunConfig = compose("simulate", run_words(folders, *words, "federation.release=none"))
        self.sites = open_sites(
            folders, place / "cache", release="none", lockstep=True
        )  # so that the last round is kept
        self.grid = RecordingGrid(self.sites)
        self.outcome: Outcome = coordinate(
            self.grid, self.config, RunStore(place / "run", self.config, every_round=False)
        )

    def sent(self, round_: int, kind: str = "train") -> dict[str, Message]:
        """What the server sent to each site in a round."""
        return {
            self.grid.names[message.metadata.dst_node_id]: message
            for message in self.grid.to_sites
            if message.metadata.message_type == kind and message.content["plan"]["round"] == round_
        }

    def came(self, round_: int) -> dict[str, Message]:
        """What sites sent back after training in a round."""
        return {
            message.content["receipt"]["site"]: message
            for message in self.grid.from_sites
            if message.content.array_records and message.content["receipt"]["round"] == round_
        }

    def shared(self, round_: int) -> dict[str, np.ndarray]:
        """The shared parameters that a round began with."""
        message = next(iter(self.sent(round_).values()))
        return arrays_in(message.content["shared"])


def decoded(message: Message) -> dict[str, np.ndarray]:
    """The update in a reply, by NumPy alone."""
    sent, update = arrays_in(message.content["update"]), {}
    for name, array in sent.items():
        if array.dtype == np.int8:
            scale = sent[f"{name}/scale"].astype(np.float64)
            update[name] = array.astype(np.float64) * scale.reshape(-1, *[1] * (array.ndim - 1))
        elif array.dtype == np.uint16:
            update[name] = (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        else:
            update[name] = array.astype(np.float64)
    return update


@pytest.mark.parametrize("encoding", ["bfloat16", "int8"])
def test_what_was_sent_is_what_is_aggregated_and_private_tensors_are_not_among_it(
    folders: dict[str, Path], tmp_path: Path, encoding: str
) -> None:
    run = Run(folders, tmp_path, f"federation.update_encoding={encoding}")
    shared = partition(run.sites["knee"].learner.network, Sharing.CONVOLUTIONS).shared
    for round_ in (1, 2):
        before, after, replies = run.shared(round_), run.shared(round_ + 1), run.came(round_)
        assert len(replies) == 3
        assert before.keys() == set(shared)
        updates = [decoded(replies[site]) for site in sorted(replies)]
        for name in shared:
            mean = np.mean([update[name] for update in updates], axis=0)
            np.testing.assert_allclose(after[name], before[name] + mean, rtol=0, atol=2e-7, err_msg=name)
    names = set(arrays_of([*run.came(1).values(), *run.came(3).values()]))
    assert {name.removesuffix("/scale") for name in names} == set(shared)
    full = sum(array.nbytes for array in run.shared(1).values())
    reply = arrays_in(next(iter(run.came(2).values())).content["update"])
    assert sum(array.nbytes for array in reply.values()) < 0.75 * full  # a network this narrow has many vectors


@pytest.mark.parametrize("channels_last", ["false", "true"])
def test_what_rounding_kept_back_is_sent_later(folders: dict[str, Path], tmp_path: Path, channels_last: str) -> None:
    """The first two replies of a site, recomputed from its own trained weights: Q(Δ₁), then Q(Δ₂ + Δ₁ − Q(Δ₁))."""
    trained: dict[int, dict[str, np.ndarray]] = {}
    words = ("federation.update_encoding=int8", "federation.rounds=2", f"training.channels_last={channels_last}")
    config = compose("simulate", run_words(folders, *words))
    sites = open_sites(folders, tmp_path / "cache")
    grid = RecordingGrid(sites)

    def keep(round_: int, _metrics: dict) -> None:
        learner = sites["knee"].learner
        trained[round_] = {name: array.copy() for name, array in learner.shared().items()}

    coordinate(grid, config, RunStore(tmp_path / "run", config, every_round=False), keep)
    run = Run.__new__(Run)
    run.grid = grid
    residual = 0.0
    name = next(name for name, array in trained[1].items() if array.ndim > 1)
    for round_ in (1, 2):
        target = trained[round_][name] - run.shared(round_)[name] + residual
        reply = arrays_in(run.came(round_)["knee"].content["update"])
        scale = np.abs(target).reshape(len(target), -1).max(axis=1) / 127
        np.testing.assert_allclose(reply[f"{name}/scale"], scale, rtol=1e-5)
        steps = target / scale.reshape(-1, *[1] * (target.ndim - 1))
        quantised = reply[name]
        assert np.abs(quantised - steps).max() <= 0.501
        residual = target - decoded(run.came(round_)["knee"])[name]
        assert np.abs(residual).max() > 0


def test_fedadam_over_a_federation_by_hand(folders: dict[str, Path], tmp_path: Path) -> None:
    """Adam's moments in NumPy from the parameters that sites sent, round after round."""
    run = Run(folders, tmp_path, f"{OPTIMISER}.name=fedadam", f"{OPTIMISER}.learning_rate=0.02")
    shared = {round_: run.shared(round_) for round_ in (1, 2, 3)}
    came = {round_: [arrays_in(reply.content["shared"]) for reply in run.came(round_).values()] for round_ in (1, 2)}
    for name in shared[1]:
        m = v = 0.0
        for round_ in (1, 2):
            before = shared[round_][name].astype(np.float64)
            sent = [arrays[name] for arrays in came[round_]]
            delta = np.mean([array.astype(np.float64) for array in sent], axis=0) - before
            m, v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
            step = 0.02 * (m / (1 - 0.9**round_)) / (np.sqrt(v / (1 - 0.99**round_)) + 1e-3)
            np.testing.assert_allclose(shared[round_ + 1][name], before + step, rtol=0, atol=2e-6, err_msg=name)


def test_sites_weigh_by_their_slices_where_that_is_asked(folders: dict[str, Path], tmp_path: Path) -> None:
    """Six slices an exam; two exams of each site are held back: 12, 24 and 12 slices, so weights 1/4, 1/2, 1/4."""
    run = Run(folders, tmp_path, "federation.site_weights=slices", "federation.rounds=2")
    replies = run.came(1)
    slices = {site: reply.content["metrics"]["training_slices"] for site, reply in replies.items()}
    assert slices == {"ankle": 12, "knee": 24, "shoulder": 12}
    sent = [arrays_in(replies[site].content["shared"]) for site in sorted(replies)]
    for name, after in run.shared(2).items():
        ankle, knee, shoulder = (arrays[name] for arrays in sent)
        np.testing.assert_allclose(after, 0.25 * ankle + 0.5 * knee + 0.25 * shoulder, rtol=0, atol=5e-7)
    plain = Run(folders, tmp_path / "plain", "federation.rounds=2")
    assert all("training_slices" not in reply.content["metrics"] for reply in plain.came(1).values())


def test_local_epochs_are_passes_over_a_sites_own_slices(folders: dict[str, Path], tmp_path: Path) -> None:
    run = Run(folders, tmp_path, "federation.local_epochs=1", "federation.rounds=1")
    steps = {site: reply.content["metrics"]["steps"] for site, reply in run.came(1).items()}
    assert steps == {"ankle": 6, "knee": 12, "shoulder": 6}  # 12 and 24 slices, two of each site in a batch


def test_a_fraction_of_sites_trains_in_a_round_and_all_measure_that_have_trained(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    run = Run(folders, tmp_path, "federation.participation=0.34", "federation.rounds=4")
    turns = [set(run.sent(round_)) for round_ in range(1, 5)]
    assert [len(turn) for turn in turns] == [1, 1, 1, 1]
    assert set().union(*turns[:3]) == set(folders)
    validate = [next(iter(run.sent(round_).values())).content["plan"]["validate"] for round_ in range(1, 5)]
    assert validate == [
        True,
        False,
        False,
        True,
    ]  # of a score with private parameters that were never trained nothing is chosen
    for round_ in (2, 3, 4):
        measuring = set(run.sent(round_ - 1, "evaluate"))
        assert measuring == set().union(*turns[: round_ - 1]) - turns[round_ - 1]
        (only,) = run.came(round_ - 1).values()
        sent = arrays_in(only.content["shared"])
        for name, after in run.shared(round_).items():
            np.testing.assert_array_equal(after, sent[name])
    assert set(run.outcome.metrics) == set(folders)


def test_fedprox_keeps_sites_nearer_to_what_they_received(folders: dict[str, Path], tmp_path: Path) -> None:
    distances = {}
    for mu in (0.0, 10.0):
        run = Run(
            folders,
            tmp_path / str(mu),
            f"federation.proximal_mu={mu}",
            "federation.rounds=1",
            "federation.local_steps=6",
        )
        before, reply = run.shared(1), arrays_in(run.came(1)["knee"].content["shared"])
        squares = (np.square(array - before[name]).sum() for name, array in reply.items())
        distances[mu] = sum(float(square) for square in squares)
    assert distances[10.0] < 0.9 * distances[0.0]


@pytest.mark.parametrize(("optimiser", "decay"), [("sgd", "none"), ("adam", "none"), ("adam", "linear")])
def test_in_lockstep_the_federation_is_pooled_training(
    folders: dict[str, Path], tmp_path: Path, optimiser: str, decay: str
) -> None:
    """At 32 pixels: at 16 the deepest normalisation is over two values, whose sign is all that it leaves."""
    words = ("federation.local_steps=1", "federation.lockstep=true", "federation.rounds=5", "training.dtype=float64")
    words += ("data.slice_size=32", f"training.learning_rate_decay={decay}", "training.steps=5")
    run = Run(folders, tmp_path, *words, f"training.optimiser={optimiser}")
    config = run.config
    pool = Pool(
        config, {name: load_site(name, folder, 32, "auto", tmp_path / "cache") for name, folder in folders.items()}
    )
    network = build_network(config.network, pool.classes, config.seed).double()
    initial = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    recipe = pool.recipe(config.training, config.seed)
    train(network, build_optimiser(network, recipe.learning_rate, optimiser), pool.sources, recipe, range(5))
    for site in run.sites.values():
        for name, tensor in site.learner.network.state_dict().items():  # and running statistics, after evaluation
            torch.testing.assert_close(tensor, network.state_dict()[name], rtol=0, atol=1e-10, msg=name)
    moved = max(float((tensor.detach() - initial[name]).abs().max()) for name, tensor in network.named_parameters())
    assert moved > {"sgd": 1e-7, "adam": 1e-3}[optimiser]


def test_the_learning_rate_of_sites_falls_over_the_steps_of_all_rounds(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """The knee has more slices, and so more steps a round."""
    words = ("federation.local_epochs=1", "federation.rounds=3", "training.learning_rate=0.01")
    run = Run(folders, tmp_path, *words, "training.learning_rate_decay=linear")
    steps = {site: run.came(3)[site].content["metrics"]["steps"] for site in folders}
    assert steps["knee"] > steps["ankle"]
    for name, site in run.sites.items():
        (group,) = site.learner.optimiser.param_groups
        assert group["lr"] == pytest.approx(0.01 / (3 * steps[name])), name


def test_a_site_takes_part_in_lockstep_only_where_it_is_a_simulations(folders: dict[str, Path], tmp_path: Path) -> None:
    config = compose("simulate", run_words(folders, "federation.local_steps=1", "federation.lockstep=true"))
    grid = RecordingGrid(open_sites(folders, tmp_path / "cache"))
    with pytest.raises(RefusedPlanError, match="gradients of single batches leave a site"):
        coordinate(grid, config, RunStore(tmp_path / "run", config, every_round=False))


@pytest.mark.parametrize(
    "words",
    [
        (f"{OPTIMISER}.name=fedadam", "federation.update_encoding=int8", "federation.participation=0.67"),
        (f"{OPTIMISER}.name=fedavgm", "federation.update_encoding=bfloat16", "federation.proximal_mu=0.1"),
        ("training.channels_last=true", "federation.update_encoding=int8", "federation.proximal_mu=0.1"),
        ("federation.update_encoding=int8", "strategy=shared", "federation.local_epochs=1"),
    ],
)
def test_a_run_that_stops_goes_on_to_the_same_end(
    folders: dict[str, Path], tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Momenta at the server and residuals at the sites are on disk: server and sites are new processes from round 3 on."""
    config = compose("simulate", run_words(folders, *words, "federation.rounds=4"))

    def stop_after_two(round_: int, _metrics: dict) -> None:
        if round_ == 2 and place == "stopped":  # which a run that goes on does not come by again
            raise KeyboardInterrupt

    finals = {}
    for place in ("steady", "stopped"):
        for _ in range(2 if place == "stopped" else 1):
            sites = open_sites(folders, tmp_path / "cache", tmp_path / place)
            store = RunStore(tmp_path / f"{place}-run", config, every_round=True)
            try:
                outcome = coordinate(
                    RecordingGrid(sites), config, store, stop_after_two if store.last() is None else lambda *_: None
                )
            except KeyboardInterrupt:
                continue
        finals[place] = outcome.checkpoint.shared, {name: s.learner.network.state_dict() for name, s in sites.items()}
    (shared, states), (shared_again, states_again) = finals.values()
    assert all(np.array_equal(shared[name], shared_again[name]) for name in shared)
    for site, state in states.items():
        assert all(torch.equal(tensor, states_again[site][name]) for name, tensor in state.items()), site


def test_sites_hear_that_a_run_is_done_once_its_result_is_kept(folders: dict[str, Path], tmp_path: Path) -> None:
    config = compose("simulate", run_words(folders, "federation.rounds=1", "federation.local_steps=1"))
    sites = open_sites(folders, tmp_path / "cache", tmp_path / "state")

    def keep(_outcome: Outcome) -> None:
        assert {site.exit_code for site in sites.values()} == {None}
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        coordinate(RecordingGrid(sites), config, RunStore(tmp_path / "run", config, every_round=True), on_outcome=keep)
    assert {site.exit_code for site in sites.values()} == {1}


def test_the_shared_network_of_a_run_in_float64_starts_from_the_same_weights(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    run = Run(folders, tmp_path, "training.dtype=float64", "federation.rounds=1")
    first = build_network(NetworkConfig(width=4), {}, run.config.seed).state_dict()
    assert {array.dtype for array in run.shared(1).values()} == {np.dtype(np.float64)}
    assert all(np.array_equal(array, first[name].numpy()) for name, array in run.shared(1).items())
