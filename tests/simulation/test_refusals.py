"""A site whose replies cannot be used: refused by name, told, set aside, readmitted; the others go on."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from recorded_federation import RecordingGrid, open_sites
from records import arrays_in, record_of
from tiny_sites import run_words, write_sites

from mtmd_core.config import RunConfig
from mtmd_core.config_files import compose
from mtmd_core.errors import RunFailedError
from mtmd_core.event_log import events
from mtmd_core.wire import NOTICE, NOTIFY, PLAN, RECEIPT, SHARED, Notice, from_record
from server.app import Outcome, coordinate
from server.run_store import RunStore
from server.standing import REQUESTS

Spoil = Callable[[Message], None]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sites(tmp_path_factory.mktemp("sites"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def words(folders: dict[str, Path], *more: str) -> RunConfig:
    return compose(
        "simulate",
        run_words(folders, "federation.quorum=2", "federation.local_steps=1", "federation.rounds=6", *more),
    )


class Federation:
    """Sites of which one spoils its replies to TRAIN in some rounds."""

    def __init__(self, folders: dict[str, Path], place: Path, site: str, rounds: dict[int, Spoil]) -> None:
        self.sites = open_sites(folders, place / "cache", place / "sites")
        self.heard: list[Notice] = []
        self.sites[site].on_notice = self.heard.append
        self.site, self.rounds, self.run = site, rounds, place / "run"
        self.grid = RecordingGrid(self.sites, spoil=self._spoil)

    def go(self, config: RunConfig, on_round: Callable[[int, dict], None] = lambda *_: None) -> Outcome:
        return coordinate(self.grid, config, RunStore(self.run, config, every_round=True), on_round)

    def asked(self, site: str) -> list[int]:
        """The rounds in which a site was asked to train."""
        return sorted(self.grid.visits(site, "att_unet"))

    def events(self, *kinds: str) -> list[dict]:
        return [event for event in events(self.run / "audit.jsonl") if event["event"] in kinds]

    def _spoil(self, name: str, reply: Message) -> None:
        if name == self.site and not reply.has_error() and SHARED in reply.content:
            self.rounds.get(reply.content[RECEIPT]["round"], lambda reply: None)(reply)


def stale(reply: Message) -> None:
    reply.content[RECEIPT]["round"] -= 1


def scaled(factor: float) -> Spoil:
    def spoil(reply: Message) -> None:
        arrays = arrays_in(reply.content[SHARED])
        reply.content[SHARED] = record_of(
            {name: (array * np.float32(factor)).astype(np.float32) for name, array in arrays.items()}
        )

    return spoil


def test_a_site_that_is_refused_is_told_set_aside_and_readmitted(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = Federation(folders, tmp_path, "knee", {2: stale, 3: scaled(np.nan), 4: scaled(1e4)})

    def readmit(round_: int, metrics: dict) -> None:
        assert ("knee" in metrics) == (round_ in (1, 6))
        if round_ == 5:
            (federation.run / REQUESTS).mkdir()
            (federation.run / REQUESTS / "knee").touch()

    with caplog.at_level(logging.WARNING, logger="server"):
        outcome = federation.go(words(folders), readmit)
    assert federation.asked("knee") == [1, 2, 3, 4, 6]
    assert federation.asked("ankle") == [1, 2, 3, 4, 5, 6]
    assert [(event["round"], event["site"], event["reason"]) for event in federation.events("refused")] == [
        (2, "knee", "stale_round"),
        (3, "knee", "not_finite"),
        (4, "knee", "outlying_norm"),
    ]
    assert [(event["event"], event["round"]) for event in federation.events("set_aside", "readmitted")] == [
        ("set_aside", 4),
        ("readmitted", 6),
    ]
    told = [(notice.round, notice.reason, notice.in_a_row, notice.set_aside) for notice in federation.heard]
    assert told == [
        (2, "stale_round", 1, False),
        (3, "not_finite", 2, False),
        (4, "outlying_norm", 3, True),
    ]
    kinds = [message.metadata.message_type for message in federation.grid.to_sites if NOTICE in message.content]
    assert kinds == ["train", "train", NOTIFY]
    assert "knee is set aside until it is readmitted" in caplog.text
    assert set(outcome.metrics) == set(folders)
    assert [event["event"] for event in federation.events("started", "round_closed")] == ["started"] + 6 * [
        "round_closed"
    ]


def test_what_is_refused_leaves_no_trace_in_the_model(folders: dict[str, Path], tmp_path: Path) -> None:
    """As if the site had been away in that round."""
    spoilt = Federation(folders, tmp_path / "spoilt", "knee", {3: scaled(1e4)})
    away = Federation(folders, tmp_path / "away", "knee", {})
    away.grid.absent = lambda site, kind, plan: (site, kind, plan.round) == ("knee", "train", 3)
    config = words(folders, "federation.rounds=3", "federation.release=none")
    ends = []
    for federation in (spoilt, away):
        for site in federation.sites.values():
            site.outbox.allowed = open_sites(folders, tmp_path, release="none")["knee"].outbox.allowed
        ends.append(federation.go(config).checkpoint)
    assert ends[0].round == ends[1].round == 3
    assert all(np.array_equal(ends[0].shared[name], ends[1].shared[name]) for name in ends[0].shared)


def test_without_a_limit_the_same_update_is_used(folders: dict[str, Path], tmp_path: Path) -> None:
    federation = Federation(folders, tmp_path, "knee", {3: scaled(100)})
    federation.go(words(folders, "federation.rounds=3", "federation.outlying_norm_factor=null"))
    assert federation.events("refused") == []


def test_in_the_first_round_nothing_is_outlying(folders: dict[str, Path], tmp_path: Path) -> None:
    federation = Federation(folders, tmp_path, "knee", {1: scaled(100)})
    federation.go(words(folders, "federation.rounds=1"))
    assert federation.events("refused") == []


def test_a_run_that_has_too_few_sites_left_stops_and_goes_on_once_one_is_readmitted(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """The coordinator's process ends in between; the site that was set aside may be away until it is readmitted."""
    spoilt = dict.fromkeys((2, 3), stale)
    config = words(folders, "federation.quorum=3", "federation.refusals_before_set_aside=1", "federation.rounds=3")
    first = Federation(folders, tmp_path, "knee", spoilt)
    with pytest.raises(RunFailedError, match=r"only 2 replies could be used.*knee: it answers round 1, expected 2"):
        first.go(config)
    again = Federation(folders, tmp_path, "knee", {})
    with pytest.raises(RunFailedError, match=r"knee were refused too often.*mtmd-server readmit"):
        again.go(config)
    (again.run / REQUESTS).mkdir()
    (again.run / REQUESTS / "knee").touch()
    last = Federation(folders, tmp_path, "knee", {})
    assert set(last.go(config).metrics) == set(folders)
    assert last.asked("knee") == [2, 3]
    assert [event["round"] for event in last.events("resumed")] == [1, 1]


def test_a_resumed_run_remembers_what_is_usual_and_who_is_set_aside(folders: dict[str, Path], tmp_path: Path) -> None:
    def stop(round_: int, _metrics: dict) -> None:
        if round_ == 3:
            raise KeyboardInterrupt

    config = words(folders, "federation.refusals_before_set_aside=1", "federation.rounds=5")
    first = Federation(folders, tmp_path, "knee", {3: stale})
    with pytest.raises(KeyboardInterrupt):
        first.go(config, stop)
    again = Federation(folders, tmp_path, "ankle", {4: scaled(1e4), 5: lambda reply: None})
    with pytest.raises(RunFailedError, match=r"quorum is 2 .*ankle: its update has norm"):
        again.go(config)
    assert again.asked("knee") == []


def test_an_error_is_a_word_and_counts_as_a_refusal(folders: dict[str, Path], tmp_path: Path) -> None:
    federation = Federation(folders, tmp_path, "knee", {})
    reasons = {2: "disk", 3: "exam of Jane Doe in /data/clinic", 4: "worker_hung"}

    def deliver(message: Message, inner: Callable[[Message], str] = federation.grid._deliver) -> str:
        key = inner(message)
        round_ = message.content[PLAN]["round"] if PLAN in message.content else 0
        site = federation.grid.names[message.metadata.dst_node_id]
        if site == "knee" and message.metadata.message_type == "train" and round_ in reasons:
            failed = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reasons[round_])
            federation.grid._replies[key] = Message(failed, reply_to=message)
        return key

    federation.grid._deliver = deliver
    federation.go(words(folders))
    assert [event["detail"] for event in federation.events("refused")] == [
        "the site failed: disk",
        "the site failed: for a reason that no site gives",
        "the site failed: worker_hung",
    ]
    assert federation.asked("knee") == [1, 2, 3, 4]
    assert "Jane" not in (federation.run / "audit.jsonl").read_text()


def test_a_visit_that_comes_late_changes_nothing_of_what_follows(folders: dict[str, Path], tmp_path: Path) -> None:
    """Round 2's message comes once more after round 4, as it does where a worker was away until its time was over."""
    ends = {}
    for place in ("steady", "late"):
        federation = Federation(folders, tmp_path / place, "knee", {})

        def late(round_: int, _metrics: dict, federation: Federation = federation, place: str = place) -> None:
            if place == "late" and round_ == 4:
                message = federation.grid.visits("knee", "att_unet")[2]
                federation.grid._apps[2](message=message, context=None)

        shared = federation.go(words(folders), late).checkpoint.shared
        ends[place] = shared, federation.sites["knee"].learner.network.state_dict()
    assert all(np.array_equal(ends["steady"][0][name], ends["late"][0][name]) for name in ends["steady"][0])
    assert all((ends["steady"][1][name] == ends["late"][1][name]).all() for name in ends["steady"][1])


def test_notices_are_read_as_they_were_written(folders: dict[str, Path], tmp_path: Path) -> None:
    federation = Federation(folders, tmp_path, "knee", {1: stale})
    federation.go(words(folders, "federation.rounds=2"))
    message = federation.grid.visits("knee", "att_unet")[2]
    notice = from_record(Notice, message.content[NOTICE])
    assert (notice.round, notice.reason, notice.in_a_row) == (1, "stale_round", 1)
    assert federation.heard == [notice, *federation.heard[1:]]
