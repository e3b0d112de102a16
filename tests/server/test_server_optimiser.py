"""Every optimiser against its formula, worked out in NumPy in float64."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from mtmd_core.config import RunConfig
from mtmd_core.config_files import compose
from mtmd_core.wire import GRADIENT, SHARED, UPDATE
from server.run_store import RunStore
from server.server_optimiser import ServerOptimiser, build_server_optimiser

WORD = "federation.server_optimiser"
UPDATES = [np.random.default_rng(round_).normal(0, 0.1, (3, 4)) for round_ in range(4)]
START = np.random.default_rng(9).normal(size=(3, 4)).astype(np.float32)
ADAM = [f"{WORD}.{word}" for word in ("name=fedadam", "learning_rate=0.05", "beta1=0.8", "beta2=0.95", "epsilon=0.01")]


def config(*words: str) -> RunConfig:
    return compose("federation", words)


def rounds(optimiser: ServerOptimiser, start: np.ndarray, updates: Sequence[np.ndarray], record: str) -> np.ndarray:
    """The parameter after rounds whose averaged update is given."""
    shared = {"w": start}
    for update in updates:
        brought = {SHARED: shared["w"] + update, UPDATE: update, GRADIENT: -update}[record]
        shared = optimiser.step(shared, {"w": brought.astype(start.dtype)}, record)
    return shared["w"]


def fedavg(x: np.ndarray, updates: Sequence[np.ndarray], lr: float = 1.0) -> np.ndarray:
    return x + lr * sum(updates)


def fedavgm(x: np.ndarray, updates: Sequence[np.ndarray], lr: float = 1.0, momentum: float = 0.9) -> np.ndarray:
    v = np.zeros_like(x)
    for update in updates:
        v = momentum * v + update
        x = x + lr * v
    return x


def fedadam(
    x: np.ndarray, updates: Sequence[np.ndarray], lr: float, b1: float, b2: float, epsilon: float
) -> np.ndarray:
    """Algorithm 2 of Reddi et al. 2021, with Adam's correction of both moments' bias."""
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, update in enumerate(updates, start=1):
        m, v = b1 * m + (1 - b1) * update, b2 * v + (1 - b2) * update**2
        x = x + lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + epsilon)
    return x


def fedadagrad(x: np.ndarray, updates: Sequence[np.ndarray], lr: float, epsilon: float) -> np.ndarray:
    total = np.zeros_like(x)
    for update in updates:
        total = total + update**2
        x = x + lr * update / (np.sqrt(total) + epsilon)
    return x


@pytest.mark.parametrize("record", [SHARED, UPDATE])
@pytest.mark.parametrize(
    ("words", "formula"),
    [
        ([], fedavg),
        ([f"{WORD}.learning_rate=0.7"], lambda x, updates: fedavg(x, updates, 0.7)),
        ([f"{WORD}.name=fedavgm"], fedavgm),
        (
            [f"{WORD}.name=fedavgm", f"{WORD}.momentum=0.5", f"{WORD}.learning_rate=0.3"],
            lambda x, updates: fedavgm(x, updates, 0.3, 0.5),
        ),
        ([f"{WORD}.name=fedadam"], lambda x, updates: fedadam(x, updates, 1e-2, 0.9, 0.99, 1e-3)),
        (ADAM, lambda x, updates: fedadam(x, updates, 0.05, 0.8, 0.95, 0.01)),
        ([f"{WORD}.name=fedadagrad"], lambda x, updates: fedadagrad(x, updates, 1e-2, 1e-3)),
        (
            [f"{WORD}.name=fedadagrad", f"{WORD}.learning_rate=0.1", f"{WORD}.epsilon=0.2"],
            lambda x, updates: fedadagrad(x, updates, 0.1, 0.2),
        ),
    ],
)
def test_rounds_follow_the_formula(words: list[str], formula: Callable, record: str) -> None:
    optimiser = build_server_optimiser(config(*words), {"w": START}, ())
    result = rounds(optimiser, START, UPDATES, record)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, formula(START.astype(np.float64), UPDATES), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("record", [SHARED, UPDATE])
def test_plain_averaging_is_gradient_descent_at_rate_1(record: str) -> None:
    descent = ServerOptimiser(lambda parameters: torch.optim.SGD(parameters, lr=1.0), {"w": START})
    plain = build_server_optimiser(config(), {"w": START}, ())
    assert plain.state() == {}
    np.testing.assert_allclose(
        rounds(plain, START, UPDATES, record), rounds(descent, START, UPDATES, record), rtol=0, atol=5e-7
    )


def test_what_sites_bring_is_taken_over_as_it_is_where_it_is_their_average() -> None:
    mean = {"w": START + np.float32(1)}
    plain = build_server_optimiser(config(), {"w": START}, ())
    assert plain.step({"w": START}, mean, SHARED)["w"] is mean["w"]


@pytest.mark.parametrize(("name", "formula"), [("sgd", fedavg), ("adam", fedadam)])
def test_in_lockstep_it_is_trainings_own_optimiser_on_the_gradient(name: str, formula: Callable) -> None:
    words = (
        "federation.lockstep=true",
        "federation.local_steps=1",
        "training.dtype=float64",
        f"training.optimiser={name}",
    )
    start = START.astype(np.float64)
    optimiser = build_server_optimiser(config(*words, "training.learning_rate=0.02"), {"w": start}, ())
    more = {"sgd": (), "adam": (0.9, 0.999, 1e-8)}[name]
    result = rounds(optimiser, start, UPDATES, GRADIENT)
    np.testing.assert_allclose(result, formula(start, UPDATES, 0.02, *more), rtol=1e-13, atol=1e-15)


def test_running_statistics_are_averaged_whatever_optimises_the_parameters() -> None:
    shared = {"w": START, "running_var": np.float32([1.0, 2.0])}
    optimiser = build_server_optimiser(config(*ADAM), shared, {"running_var"})
    mean = {"w": START + np.float32(0.1), "running_var": np.float32([3.0, 1.0])}
    assert optimiser.step(shared, mean, SHARED)["running_var"].tolist() == [3.0, 1.0]
    change = {"w": np.float32(0.1) + 0 * START, "running_var": np.float32([0.5, -1.0])}
    assert optimiser.step(shared, change, UPDATE)["running_var"].tolist() == [1.5, 1.0]
    assert {name.split("/")[0] for name in optimiser.state()} == {"w"}


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam", "fedadagrad"])
def test_from_a_checkpoint_it_goes_on_as_if_it_had_never_stopped(name: str, tmp_path) -> None:
    words = config("federation.rounds=4", f"{WORD}.name={name}")
    whole = rounds(build_server_optimiser(words, {"w": START}, ()), START, UPDATES, UPDATE)
    first = build_server_optimiser(words, {"w": START}, ())
    half = rounds(first, START, UPDATES[:2], UPDATE)
    RunStore(tmp_path, words, every_round=True).save_last(2, {"w": half}, first.state())
    last = RunStore(tmp_path, words, every_round=True).last()
    assert last.shared.keys() == {"w"}
    second = build_server_optimiser(words, {"w": START}, ())
    second.load(last.optimiser)
    np.testing.assert_array_equal(rounds(second, last.shared["w"], UPDATES[2:], UPDATE), whole)


def test_nothing_that_was_handed_in_or_out_changes_afterwards() -> None:
    optimiser = build_server_optimiser(config(*ADAM), {"w": START}, ())
    start, update = START.copy(), UPDATES[0].astype(np.float32)
    given = update.copy()
    first = optimiser.step({"w": start}, {"w": update}, UPDATE)["w"]
    kept = first.copy()
    optimiser.step({"w": first}, {"w": update}, UPDATE)
    np.testing.assert_array_equal(start, START)
    np.testing.assert_array_equal(update, given)
    np.testing.assert_array_equal(first, kept)
