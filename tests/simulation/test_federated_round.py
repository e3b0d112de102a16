"""What crosses between server and sites in a full round, and what a site's restart changes (nothing)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message
from recorded_federation import RecordingGrid, arrays_of, open_sites
from tiny_sites import SITES, run_words, write_sites

from client.app import build_client_app
from client.site import Site
from mtmd_core.config import RunConfig
from mtmd_core.config_files import compose
from mtmd_core.wire import RECEIPT
from server.app import Outcome, coordinate
from server.run_store import RunStore
from simulation.grid import InProcessGrid


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sites(tmp_path_factory.mktemp("sites"))


@pytest.fixture
def config(folders: dict[str, Path]) -> RunConfig:
    return compose("simulate", run_words(folders))


def test_no_private_tensor_is_in_any_message(folders: dict[str, Path], config: RunConfig, tmp_path: Path) -> None:
    sites = open_sites(folders, tmp_path / "cache")
    private: list[np.ndarray] = []
    grid = RecordingGrid(sites)

    def remember_private(_round: int, _metrics: dict) -> None:
        for site in sites.values():
            private.extend(tensor.numpy().copy() for tensor in site.learner._private().values())

    coordinate(grid, config, RunStore(tmp_path / "run", config, every_round=False), remember_private)
    crossed = arrays_of(grid.to_sites + grid.from_sites)
    learner = sites["knee"].learner
    assert set(crossed) == set(learner.partition.shared)
    assert private
    assert len(grid.from_sites) == 3 * (1 + config.federation.rounds + 2)  # roll call, rounds, validation and test
    trained = {tensor.tobytes() for tensor in private if np.unique(tensor).size > 1}
    assert trained
    sent = {array.tobytes() for arrays in crossed.values() for array in arrays}
    assert not sent & trained
    values = np.unique(np.concatenate([np.frombuffer(piece, np.float32) for piece in trained]))
    crossing = np.unique(np.concatenate([np.frombuffer(piece, np.float32) for piece in sent]))
    assert np.isin(values, crossing).mean() < 0.01  # no private number hides in another array either


def test_no_name_leaves_a_site(folders: dict[str, Path], config: RunConfig, tmp_path: Path) -> None:
    grid = RecordingGrid(open_sites(folders, tmp_path / "cache"))
    coordinate(grid, config, RunStore(tmp_path / "run", config, every_round=False))
    text = "".join(
        str({key: dict(record) for key, record in message.content.items() if key not in message.content.array_records})
        for message in grid.from_sites
    )
    assert "validation/foreground_mean/dice" in text
    for forbidden in ("bone", "exam", str(tmp_path), "/", "imagesTr")[:3]:
        assert forbidden not in text


def test_a_site_that_restarts_between_rounds_changes_nothing(
    folders: dict[str, Path], config: RunConfig, tmp_path: Path
) -> None:
    """Every site is a new process with nothing but its disk in each round, or one process throughout."""
    finals = {}
    for name in ("steady", "restarted"):
        members = open_sites(folders, tmp_path / "cache", tmp_path / name)
        grid = RecordingGrid(members)

        def restart(_round: int, _metrics: dict, members: dict = members, grid: RecordingGrid = grid) -> None:
            members.update(open_sites(folders, tmp_path / "cache", tmp_path / "restarted"))
            grid._apps = dict(enumerate(map(build_client_app, members.values()), start=1))

        store = RunStore(tmp_path / f"{name}-run", config, every_round=False)
        outcome = coordinate(grid, config, store, restart if name == "restarted" else lambda *_: None)
        states = {site: member.learner.network.state_dict() for site, member in members.items()}
        finals[name] = (outcome.checkpoint.shared, states)
    (shared, states), (shared_again, states_again) = finals.values()
    assert all(np.array_equal(shared[name], shared_again[name]) for name in shared)
    for site in SITES:
        assert all(torch.equal(states[site][name], states_again[site][name]) for name in states[site])


def test_a_visit_that_comes_twice_gives_the_same_answer(
    folders: dict[str, Path], config: RunConfig, tmp_path: Path
) -> None:
    site = open_sites({"knee": folders["knee"]}, tmp_path / "cache", tmp_path / "state")["knee"]
    grid = RecordingGrid({"knee": site})
    config.sites, config.training.batch_size = {"knee": str(folders["knee"])}, 2
    coordinate(grid, config, RunStore(tmp_path / "run", config, every_round=False))
    visits = [message for message in grid.to_sites if message.metadata.message_type == "train"]
    replies = [message for message in grid.from_sites if RECEIPT in message.content and message.content.array_records]
    again = build_client_app(site)(message=visits[-1], context=None)
    first, second = arrays_of([replies[-1]]), arrays_of([again])
    assert all(np.array_equal(first[name][0], second[name][0]) for name in first)


def test_a_run_that_is_interrupted_goes_on_to_the_same_end(
    folders: dict[str, Path], config: RunConfig, tmp_path: Path
) -> None:
    def fail_after_two(round_: int, _metrics: dict) -> None:
        if round_ == 2:
            raise KeyboardInterrupt

    steady = coordinate(
        InProcessGrid(
            {name: build_client_app(s) for name, s in open_sites(folders, tmp_path / "cache", tmp_path / "a").items()}
        ),
        config,
        RunStore(tmp_path / "steady", config, every_round=True),
    )
    store = RunStore(tmp_path / "stopped", config, every_round=True)
    sites = open_sites(folders, tmp_path / "cache", tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        coordinate(
            InProcessGrid({name: build_client_app(site) for name, site in sites.items()}), config, store, fail_after_two
        )
    continued = RunStore(tmp_path / "stopped", config, every_round=True)
    assert continued.name == store.name
    rounds = []
    sites = open_sites(folders, tmp_path / "cache", tmp_path / "b")
    outcome = coordinate(
        InProcessGrid({name: build_client_app(site) for name, site in sites.items()}),
        config,
        continued,
        lambda round_, _: rounds.append(round_),
    )
    assert rounds == [3]
    assert outcome.checkpoint.round == steady.checkpoint.round
    assert all(
        np.array_equal(outcome.checkpoint.shared[n], steady.checkpoint.shared[n]) for n in steady.checkpoint.shared
    )
    assert [line["round"] for line in continued.metrics()] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_server_that_goes_back_by_two_rounds_ends_with_the_same_bits(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """It stops while sites have finished round 4, and its checkpoint of round 3 is damaged: round 3 comes again."""
    config = compose("simulate", run_words(folders, "federation.rounds=5"))

    def stop(site: str, reply: Message) -> None:
        if site == "shoulder" and reply.content.array_records and reply.content[RECEIPT]["round"] == 4:
            raise KeyboardInterrupt

    def run(name: str, spoil: Callable[[str, Message], None] = lambda *_: None) -> tuple[Outcome, dict[str, Site]]:
        sites = open_sites(folders, tmp_path / "cache", tmp_path / name)
        store = RunStore(tmp_path / f"{name}-run", config, every_round=True)
        return coordinate(RecordingGrid(sites, spoil=spoil), config, store), sites

    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop)
    last = tmp_path / "stopped-run" / "checkpoints" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-100])
    (steady, expected), (resumed, sites) = run("steady"), run("stopped")
    shared = steady.checkpoint.shared
    assert all(np.array_equal(resumed.checkpoint.shared[name], shared[name]) for name in shared)
    for site, member in sites.items():
        private = expected[site].learner.network.state_dict()
        assert all(torch.equal(member.learner.network.state_dict()[name], private[name]) for name in private)
