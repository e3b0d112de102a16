"""A round whose training came to NaN, or whose update the coordinator could not use: the next one goes on from before it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asked import CONTRAST, PLAN, shared
from made_prototypes import prototype_arrays
from tiny_sites import write_sites

from client.finite import NotFiniteError, require_finite
from client.learner import Learner
from client.outbox import Outbox
from client.site import Site
from client.site_state import DiskState, MemoryState
from mtmd_core.data.site_data import SiteData, load_site
from mtmd_core.errors import SiteError
from mtmd_core.refusals import Reason
from mtmd_core.wire import Notice, Terms

INT8 = {"update_encoding": "int8"}
LOCKSTEP = {"lockstep_weight": 0.5}


@pytest.fixture
def data(tmp_path: Path) -> SiteData:
    folder = write_sites(tmp_path, sites={"knee": 2})["knee"]
    return load_site("knee", folder, 16, "auto", tmp_path / "cache", in_memory=True)


def open_knee(data: SiteData, state: DiskState | MemoryState) -> Site:
    return Site("knee", 2, lambda size, axis: data, state, Outbox("mean"), torch.device("cpu"), lockstep=True)


@contextmanager
def poisoned(data: SiteData) -> Iterator[None]:
    """While it lasts, every slice has a pixel that is NaN."""
    before = {name: exam.images[:, 0, 0].copy() for name, exam in data.exams.items()}
    for exam in data.exams.values():
        exam.images[:, 0, 0] = np.nan
    yield
    for name, exam in data.exams.items():
        exam.images[:, 0, 0] = before[name]


def sent(site: Site, round_: int, **change: object) -> dict[str, np.ndarray]:
    """What a round brings; arrays of their own, since those of a contribution may be the network's."""
    site.train(replace(PLAN, round=round_, augment=False, **change), shared())
    return {name: array.copy() for name, array in site.learner.contribution.arrays.items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("change", [{}, INT8, LOCKSTEP])
@pytest.mark.parametrize("reopened", [False, True])
def test_after_a_round_of_nan_a_site_goes_on_from_the_round_before(
    change: dict, reopened: bool, data: SiteData, tmp_path: Path
) -> None:
    site, steady = (open_knee(data, DiskState(tmp_path / name)) for name in ("site", "steady"))
    for each in (site, steady):
        sent(each, 1, **change)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "site").rglob("*.safetensors")}
    with poisoned(data), pytest.raises(NotFiniteError, match=r"round 2 left NaN or infinity in .*mtmd-client check"):
        sent(site, 2, **change)
    assert {path.name: path.read_bytes() for path in (tmp_path / "site").rglob("*.safetensors")} == kept
    if reopened:
        site = open_knee(data, DiskState(tmp_path / "site"))
    for round_ in (3, 4):
        assert same(sent(site, round_, **change), sent(steady, round_, **change))


def test_a_first_round_of_nan_leaves_a_site_as_it_was(data: SiteData) -> None:
    site, steady = open_knee(data, MemoryState()), open_knee(data, MemoryState())
    with poisoned(data), pytest.raises(NotFiniteError):
        sent(site, 1)
    assert same(sent(site, 1), sent(steady, 1))
    with poisoned(data), pytest.raises(NotFiniteError):
        sent(site, 2)
    assert same(sent(site, 3), sent(steady, 3))  # the memory of a process does not change with its network


def test_a_contrast_that_meets_nan_before_the_rounds_end_says_the_same(data: SiteData) -> None:
    plan = replace(PLAN, strategy="dsl_msc", local_steps=3)
    learner = Learner(plan, data, torch.device("cpu"))
    learner.receive(shared())
    with poisoned(data), pytest.raises(NotFiniteError, match="round 1 left NaN or infinity"):
        learner.train(plan, Terms(contrast=CONTRAST, others=(prototype_arrays(),)), None, None)


@pytest.mark.parametrize("reason", [Reason.NOT_FINITE, Reason.OUTLYING_NORM])
@pytest.mark.parametrize("reopened", [False, True])
def test_a_round_whose_update_was_bad_is_not_gone_on_from(
    reason: Reason, reopened: bool, data: SiteData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site, steady = (open_knee(data, DiskState(tmp_path / name)) for name in ("site", "steady"))
    for each in (site, steady):
        sent(each, 1)
    sent(site, 2)
    if reopened:
        site = open_knee(data, DiskState(tmp_path / "site"))
    heard: list[Notice] = []
    site.on_notice = heard.append
    notice = Notice("run", 2, reason.value, 1, False)
    with caplog.at_level(logging.WARNING, logger="client"):
        site.heed(notice)
    assert "round 2" in caplog.text
    assert same(sent(site, 3), sent(steady, 3))
    site.heed(notice)  # it comes again until a later reply is used
    assert same(sent(site, 4), sent(steady, 4))
    assert heard == [notice, notice]


def test_a_reply_that_was_left_out_for_its_form_or_that_of_another_run_changes_nothing(
    data: SiteData, tmp_path: Path
) -> None:
    site, steady = (open_knee(data, DiskState(tmp_path / name)) for name in ("site", "steady"))
    for each in (site, steady):
        sent(each, 1)
        sent(each, 2)
    site.heed(Notice("run", 2, Reason.STALE_ROUND.value, 1, False))
    site.heed(Notice("run-autoencoder", 2, Reason.NOT_FINITE.value, 1, False))
    assert same(sent(site, 3), sent(steady, 3))


@pytest.mark.parametrize(
    ("loss", "value", "named"),
    [(float("nan"), 1.0, "the mean loss"), (1.0, float("inf"), "a/exp_avg"), (1.0, float("nan"), "a/exp_avg")],
)
def test_what_is_not_finite_is_named_and_the_coordinator_reads_one_word(loss: float, value: float, named: str) -> None:
    tensors = {"steps": torch.tensor(3), "a/exp_avg": torch.tensor([0.0, value])}
    with pytest.raises(NotFiniteError, match=f"in {named}") as refused:
        require_finite(2, loss, tensors)
    assert refused.value.site_error is SiteError.NOT_FINITE
    require_finite(2, 0.5, {"steps": torch.tensor(3), "a/exp_avg": torch.tensor([0.0, 1.0])})
