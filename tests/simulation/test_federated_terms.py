"""Prototypes and the auto-encoder in a federation: what crosses when, who is away, what is spoilt, what a stop changes."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message
from recorded_federation import RecordingGrid, arrays_of, open_sites
from records import arrays_in, record_of
from rich.console import Console
from tiny_sites import SITES, WHOLE_METHOD, run_words, write_sites

from client.contrast import PrototypePolicy
from client.privacy import DELTA, PrivacyBudget, epsilon
from client.site import Site
from mtmd_core.config import AUTOENCODER, RunConfig
from mtmd_core.config_files import compose
from mtmd_core.durable import read_json_lines
from mtmd_core.prototype_arrays import array_shapes
from mtmd_core.strategies import FEDERATED_STRATEGIES
from mtmd_core.tensor_files import load_tensors
from mtmd_core.wire import CONTRAST, PRIOR, PRIOR_SHARED, PROTOTYPES, SHARED, RoundPlan
from server.app import Outcome, coordinate
from server.run_store import RunStore
from simulation.command import simulate
from simulation.data import load_sites
from simulation.federated import build_site
from simulation.progress import RunDisplay

SEGMENTATION = "att_unet"
TINY = (
    *WHOLE_METHOD,
    "training.augment=false",
    "federation.rounds=2",
    "federation.autoencoder_rounds=2",
    "federation.calibration_batches=1",
    "federation.validate_every_rounds=9",
)
SIZES = [4, 8, 16, 32, 64, 32, 16, 8, 4]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three exams of 18 slices each to train on: just enough for a prototype."""
    return write_sites(tmp_path_factory.mktemp("sites"), exams=5, slices=18)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def words(folders: dict[str, Path], strategy: str, *more: str) -> RunConfig:
    return compose("simulate", run_words(folders, *TINY, f"strategy={strategy}", *more))


def federate(
    config: RunConfig, sites: dict[str, Site], folder: Path, **hooks: Callable
) -> tuple[Outcome, RecordingGrid]:
    grid = RecordingGrid(sites, **hooks)
    return coordinate(grid, config, RunStore(folder, config, every_round=True)), grid


def brought(message: Message) -> list[str]:
    """Names of the records of others' prototypes."""
    return sorted(name for name in message.content if name.startswith(f"{PROTOTYPES}."))


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def unpacked(message: Message, record: str) -> dict[str, np.ndarray]:
    return arrays_in(message.content[record])


def test_from_the_second_round_on_sites_are_held_against_each_others_prototypes(folders, cache, tmp_path):
    """The first round is that of a federation without contrast, bit by bit; the second is another."""
    ends, grids = {}, {}
    for strategy in ("dsl", "dsl_msc"):
        config = words(folders, strategy, "federation.validate_every_rounds=1")
        outcome, grids[strategy] = federate(config, open_sites(folders, cache), tmp_path / strategy)
        ends[strategy] = outcome.checkpoint.shared
    first, second = (grids["dsl_msc"].visits("knee", SEGMENTATION)[round_] for round_ in (1, 2))
    assert CONTRAST in first.content
    assert brought(first) == []
    assert brought(second) == ["prototypes.0", "prototypes.1"]
    sent = [reply for reply in grids["dsl_msc"].from_sites if PROTOTYPES in reply.content]
    assert len(sent) == 6
    for number, reply in zip((0, 1), (sent[0], sent[2]), strict=True):  # ankle's and shoulder's of the first round
        assert same(unpacked(second, f"{PROTOTYPES}.{number}"), unpacked(reply, PROTOTYPES))
        assert {name: array.shape for name, array in unpacked(reply, PROTOTYPES).items()} == {
            name: shape for name, (_, shape) in array_shapes(SIZES).items()
        }
    after_first = [grids[strategy].visits("knee", SEGMENTATION)[2] for strategy in ends]
    assert same(*(unpacked(message, SHARED) for message in after_first))
    assert not same(*ends.values())
    assert not any(name in message.content for message in grids["dsl"].to_sites for name in (CONTRAST, PRIOR))
    for line in read_json_lines(tmp_path / "dsl_msc" / "round_metrics.jsonl"):
        for kind in ("loss", "gradient_norm"):
            assert {name for name in line if name.startswith(f"{kind}/")} == {
                f"{kind}/cross_entropy",
                f"{kind}/contrast",
            }
        assert (line["gradient_norm/contrast"] > 0) == (line["round"] > 1)


def test_noised_prototypes_cross_as_others_do_until_a_sites_budget_is_spent(folders, cache, tmp_path):
    config = words(
        folders, "dsl_ssc", "federation.rounds=3", "federation.local_steps=1", "prototypes.noise_multiplier=2"
    )
    sites = open_sites(folders, cache)
    sites["knee"].policy = PrototypePolicy(budget=PrivacyBudget(max_epsilon=epsilon(((2.0, 2),), DELTA) + 0.01, seed=0))
    _, grid = federate(config, sites, tmp_path / "run")
    sent = [reply.metadata.src_node_id for reply in grid.from_sites if PROTOTYPES in reply.content]
    assert sorted(sent.count(node) for node in set(sent)) == [2, 3, 3]
    spent = {name: site.summary["privacy"]["releases"] for name, site in sites.items()}
    assert spent == {"ankle": 3, "knee": 2, "shoulder": 3}
    counts = {round_: len(brought(message)) for round_, message in grid.visits("ankle", SEGMENTATION).items()}
    assert counts == {1: 0, 2: 2, 3: 2}


def test_what_noised_prototypes_cost_before_a_stop_is_counted_after_it(folders, cache, tmp_path):
    config = words(folders, "dsl_ssc", "prototypes.noise_multiplier=2", f"data.cache_dir='{cache}'")
    data = load_sites(config)["knee"]
    for releases in (1, 2):
        budget = build_site(config, data, tmp_path, RunDisplay(1, Console(quiet=True))).policy.budget
        budget.spend(2.0)
        assert budget.facts()["releases"] == releases


def test_an_absent_sites_last_prototypes_are_used_until_they_are_too_old(folders, cache, tmp_path):
    config = words(
        folders, "dsl_ssc", "federation.rounds=5", "federation.local_steps=1", "prototypes.maximum_age_rounds=2",
        "federation.quorum=2",
    )  # fmt: skip

    def away(site: str, _kind: str, plan: RoundPlan) -> bool:
        return site == "ankle" and plan.round > 1

    _, grid = federate(config, open_sites(folders, cache), tmp_path / "run", absent=away)
    counts = {round_: len(brought(message)) for round_, message in grid.visits("knee", SEGMENTATION).items()}
    assert counts == {1: 0, 2: 2, 3: 2, 4: 1, 5: 1}
    old = grid.visits("knee", SEGMENTATION)
    assert same(unpacked(old[2], "prototypes.0"), unpacked(old[3], "prototypes.0"))
    assert {name: array.shape for name, array in unpacked(old[2], "prototypes.0").items()}["s1/mean"] == (64,)


def test_prototypes_that_are_none_are_left_out_by_name_and_the_last_good_ones_stay(folders, cache, tmp_path, caplog):
    config = words(folders, "dsl_msc", "federation.rounds=3", "federation.local_steps=1")
    seen = []

    def spoil(site: str, reply: Message) -> None:
        if site == "ankle" and PROTOTYPES in reply.content:
            seen.append(reply)
            if len(seen) == 2:
                bad = np.full(4, np.nan, np.float32)
                reply.content[PROTOTYPES] = record_of(arrays_in(reply.content[PROTOTYPES]) | {"s1/mean": bad})

    with caplog.at_level(logging.WARNING, logger="server.strategy"):
        _, grid = federate(config, open_sites(folders, cache), tmp_path / "run", spoil=spoil)
    assert "the prototypes of ankle are left out: not finite: s1" in caplog.text
    visits = grid.visits("knee", SEGMENTATION)
    assert same(unpacked(visits[2], "prototypes.0"), unpacked(visits[3], "prototypes.0"))
    assert not same(unpacked(visits[2], "prototypes.1"), unpacked(visits[3], "prototypes.1"))
    lines = RunStore(tmp_path / "run", config, every_round=True).metrics()
    assert [line["site"] for line in lines if line["round"] == 2] == sorted(SITES), (
        "its parameters are used all the same"
    )


def test_a_site_with_too_few_exams_sends_none_and_training_goes_on(folders, cache, tmp_path):
    small = write_sites(tmp_path / "small", exams=4, sites={"shoulder": 1}, slices=18)  # two to train on
    members = folders | small
    config = words(members, "dsl_msc", "federation.local_steps=1")
    _, grid = federate(config, open_sites(members, tmp_path / "cache"), tmp_path / "run")
    assert {site: len(brought(grid.visits(site, SEGMENTATION)[2])) for site in SITES} == {
        "ankle": 1, "knee": 1, "shoulder": 2,
    }  # fmt: skip


def test_the_auto_encoder_is_trained_first_and_sent_once_to_be_kept_frozen(folders, cache, tmp_path):
    """Knee misses the first round of segmentation, and is given the auto-encoder in the second."""
    config = words(folders, "dsl_mjap", "federation.rounds=3", "federation.quorum=2", "federation.local_steps=1")
    frozen: list[dict] = []

    def away(site: str, kind: str, plan: RoundPlan) -> bool:
        if plan.network == SEGMENTATION and kind == "train" and plan.round > 1:
            prior = sites["ankle"]._prior._term.autoencoder
            frozen.append({name: tensor.clone() for name, tensor in prior.state_dict().items()})
        return (site, kind, plan.network, plan.round) == ("knee", "train", SEGMENTATION, 1)

    sites = open_sites(folders, cache, tmp_path / "state")
    _, grid = federate(config, sites, tmp_path / "run", absent=away)
    kinds = [PRIOR in message.content for message in grid.to_sites if message.metadata.message_type == "train"]
    assert kinds == [False] * 6 + [True] * 9
    carried = {
        site: [PRIOR_SHARED in message.content for message in grid.visits(site, SEGMENTATION).values()]
        for site in SITES
    }
    assert carried == {"ankle": [True, False, False], "knee": [True, True, False], "shoulder": [True, False, False]}
    assert all(torch.equal(frozen[0][name], frozen[-1][name]) for name in frozen[0])
    chosen = RunStore(tmp_path / "run", config, every_round=True).phase(AUTOENCODER, 2).chosen()
    assert chosen.round == 2
    for name, array in chosen.shared.items():
        assert np.array_equal(array, frozen[0][name].numpy())
    visit = grid.visits("ankle", SEGMENTATION)[1]
    assert same(unpacked(visit, PRIOR_SHARED), chosen.shared)
    assert CONTRAST not in visit.content, "λ1 and λ2 are 0 in dsl_mjap"


def test_neither_embeddings_nor_private_layers_of_either_network_are_in_any_message(folders, cache, tmp_path):
    config = words(folders, "dsl_msc_mjap")
    sites = open_sites(folders, cache, tmp_path / "state")
    kept: list[np.ndarray] = []
    names: set[str] = set(array_shapes(SIZES))
    grid = RecordingGrid(sites)

    def remember(_round: int, _metrics: dict) -> None:
        for site in sites.values():
            learner = site.learner
            names.update(learner.partition.shared)
            kept.extend(tensor.numpy().copy() for tensor in learner._private().values())
            kept.extend(t.numpy().copy() for name, t in learner.contrast.tensors().items() if name.startswith("s"))

    coordinate(grid, config, RunStore(tmp_path / "run", config, True), remember, on_autoencoder_round=remember)
    for site in sites.values():
        prior = site._prior._term.autoencoder.state_dict()
        kept.extend(tensor.numpy() for name, tensor in prior.items() if name not in names)
    crossed = arrays_of(grid.to_sites + grid.from_sites)
    assert set(crossed) == names
    sent = np.concatenate([array.ravel() for arrays in crossed.values() for array in arrays])
    plain = np.float32([0, 1])  # what a rectifier leaves, and how scales and statistics begin
    tensors = [values for array in kept if (values := np.setdiff1d(array, plain)).size >= 4]
    assert len(tensors) > 100
    hidden = np.isin(np.concatenate(tensors), np.unique(sent))  # one in a hundred by chance
    shares = [part.mean() for part in np.split(hidden, np.cumsum([len(values) for values in tensors])[:-1])]
    assert max(shares) < 0.75, "most numbers of a private tensor are in some message"


def ends(outcome: Outcome, sites: dict[str, Site], folder: Path) -> list[dict[str, np.ndarray]]:
    """Everything that a run ends with: shared parameters, prototypes, and each site's network."""
    last, _ = load_tensors(folder / "checkpoints" / "last.safetensors")
    states = [site.learner.network.state_dict() for site in sites.values()]
    return [outcome.checkpoint.shared, *({n: t.numpy() for n, t in each.items()} for each in (last, *states))]


@pytest.fixture(scope="module")
def steady(folders, cache, tmp_path_factory) -> list[dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("steady")
    sites = open_sites(folders, cache, folder / "state")
    outcome, _ = federate(words(folders, "dsl_msc_mjap"), sites, folder / "run")
    assert any(name.startswith("prototypes/knee/") for name in ends(outcome, sites, folder / "run")[1])
    return ends(outcome, sites, folder / "run")


@pytest.mark.parametrize(
    "stop",
    [
        ("knee", "train", AUTOENCODER, 2),
        ("ankle", "evaluate", AUTOENCODER, 2),
        ("ankle", "train", SEGMENTATION, 1),
        ("knee", "train", SEGMENTATION, 2),
    ],
    ids=["in the auto-encoder's rounds", "after them", "between phases", "in segmentation"],
)
def test_a_run_that_is_stopped_in_or_between_phases_ends_with_the_same_bits(folders, cache, tmp_path, steady, stop):
    def interrupt(site: str, kind: str, plan: RoundPlan) -> bool:
        if (site, kind, plan.network, plan.round) == stop:
            raise KeyboardInterrupt
        return False

    config = words(folders, "dsl_msc_mjap")
    with pytest.raises(KeyboardInterrupt):
        federate(config, open_sites(folders, cache, tmp_path / "state"), tmp_path / "run", absent=interrupt)
    sites = open_sites(folders, cache, tmp_path / "state")
    outcome, grid = federate(config, sites, tmp_path / "run")
    asked = set(grid.visits("ankle", AUTOENCODER))
    assert asked == (set() if stop[2] == SEGMENTATION or stop[1] == "evaluate" else {2})
    for one, other in zip(ends(outcome, sites, tmp_path / "run"), steady, strict=True):
        assert same(one, other)


@pytest.mark.parametrize("strategy", FEDERATED_STRATEGIES)
def test_every_strategy_goes_on_when_a_site_is_missing(folders, cache, tmp_path, strategy):
    def away(site: str, _kind: str, plan: RoundPlan) -> bool:
        return site == "knee" and plan.round == 2

    config = words(folders, strategy, "federation.local_steps=1", "federation.quorum=2")
    outcome, grid = federate(config, open_sites(folders, cache), tmp_path / "run", absent=away)
    assert set(outcome.metrics) == {"ankle", "shoulder"}
    assert set(grid.visits("ankle", SEGMENTATION)) == {1, 2}
    assert bool(grid.visits("ankle", AUTOENCODER)) == strategy.endswith("_mjap")


class StoppingConsole(Console):
    """A terminal at which somebody presses Ctrl-C when a line comes."""

    def __init__(self, line: str) -> None:
        super().__init__(quiet=True)
        self.line = line

    def print(self, *objects: object, **words: object) -> None:
        if str(objects[0] if objects else "").startswith(self.line):
            raise KeyboardInterrupt
        super().print(*objects, **words)


def test_a_simulation_that_was_stopped_goes_on_with_the_same_command(folders, cache, tmp_path):
    config = words(folders, "dsl_mjap", "federation.local_steps=1", f"data.cache_dir='{cache}'")
    with pytest.raises(KeyboardInterrupt):
        simulate(config, tmp_path / "stopped", StoppingConsole("auto-encoder, round 1/2"))
    assert (tmp_path / "stopped" / "sites" / "knee").is_dir()
    for name in ("stopped", "steady"):
        simulate(config, tmp_path / name, Console(quiet=True))
        assert not (tmp_path / name / "sites").exists()
    for file in ("checkpoints/chosen", "models/knee"):
        one, other = (load_tensors(tmp_path / name / f"{file}.safetensors")[0] for name in ("stopped", "steady"))
        assert all(torch.equal(one[name], other[name]) for name in one)
