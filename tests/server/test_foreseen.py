"""What hospitals will refuse is said before they do, and is what they then refuse."""

import re
from dataclasses import replace

import pytest
from asked import PLAN

from client.limits import Limits, RefusedPlanError
from mtmd_core.config import RunConfig
from mtmd_core.config_files import compose
from server.foreseen import updates_of_few_slices


def config(*words: str) -> RunConfig:
    return compose("federation", ["strategy=dsl", "federation.expected_sites=3", "training.batch_size=18", *words])


def refused(run: RunConfig, part: str) -> list[str]:
    """What a site with the usual settings says of the first round."""
    own, federation = getattr(run, part), run.federation
    plan = replace(
        PLAN,
        round=1,
        rounds={"training": federation.rounds, "autoencoder": federation.autoencoder_rounds}[part],
        learning_rate=own.learning_rate,
        learning_rate_decay=own.learning_rate_decay,
        proximal_mu=federation.proximal_mu,
    )
    try:
        Limits({"min_round_slices": 50}).require_slices(plan, federation.local_steps, own.batch_size // 3)
    except RefusedPlanError as error:
        return [str(error)]
    return []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("federation.local_steps=9",), None),
        (("federation.local_steps=8",), "=8 of 6 slices, .* come to 48 slices in round 1 of 50"),
        (("federation.local_steps=10", "training.learning_rate_decay=linear"), "come to 33 slices in round 50 of 50"),
        (("federation.local_steps=16", "training.learning_rate_decay=linear"), None),
        (
            ("federation.local_steps=10", "federation.proximal_mu=1", "training.learning_rate=0.9"),
            "come to 6.667 slices",
        ),
    ],
)
def test_what_sites_refuse_is_foreseen(words: tuple[str, ...], said: str | None) -> None:
    run = config("federation.rounds=50", *words)
    lines = list(updates_of_few_slices(run))
    assert len(lines) == len(refused(run, "training")) == (said is not None)
    assert said is None or re.search(said, lines[0]), lines


def test_each_training_of_a_run_has_its_own_line() -> None:
    words = (
        "strategy=dsl_mjap",
        "federation.local_steps=10",
        "autoencoder.batch_size=9",
        "federation.autoencoder_rounds=4",
    )
    run = config(*words, "autoencoder.learning_rate_decay=linear")
    (line,) = updates_of_few_slices(run)
    assert "autoencoder.learning_rate_decay=linear" in line
    assert line.endswith("in round 4 of 4; give more of federation.local_steps or autoencoder.batch_size")
    assert refused(run, "autoencoder")
    assert not refused(run, "training")


@pytest.mark.parametrize(
    "words", [("strategy=individual",), ("federation.local_epochs=1",), ("federation.expected_sites=null",)]
)
def test_nothing_is_said_where_nothing_is_shared_or_known(words: tuple[str, ...]) -> None:
    assert list(updates_of_few_slices(config("federation.local_steps=1", *words))) == []
