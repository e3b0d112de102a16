"""A site that is revoked while a run goes on, or while it rests: the run goes on without it as far as its quorum allows."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.app import Message
from recorded_federation import RecordingGrid, open_sites
from tiny_sites import run_words, write_sites

from mtmd_core.config import RunConfig
from mtmd_core.config_files import compose
from mtmd_core.credentials import new_private_key, public_pem
from mtmd_core.durable import read_json_lines
from mtmd_core.errors import RunFailedError
from mtmd_core.site_card import SiteCard
from mtmd_core.wire import RoundPlan
from server import fleet as fleet_module
from server.admission import Admission
from server.app import Outcome, coordinate
from server.flower_internals import NodeInfo
from server.model_choice import VALIDATION_DICE
from server.run_store import RunStore

OnRound = Callable[[int, dict], None]
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sites(tmp_path_factory.mktemp("sites"))


@pytest.fixture(autouse=True)
def looks_around_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "LOOK_AROUND_SECONDS", 0.0)
    monkeypatch.setattr(fleet_module, "POLL_SECONDS", (0.001, 0.001))


def words(folders: dict[str, Path], *more: str) -> RunConfig:
    return compose(
        "simulate",
        run_words(
            folders, "federation.local_steps=1", "federation.rounds=5", "federation.join_timeout_seconds=0.01", *more
        ),
    )


class KeyedGrid(RecordingGrid):
    """A grid whose nodes show keys; where it is ``late`` the next look for replies finds none."""

    keys: dict[int, bytes]
    late = False

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node, public_key=self.keys[node]) for node in self.get_node_ids()]

    def pull_messages(self, message_ids: list[str]) -> list[Message]:
        late, self.late = self.late, False
        return [] if late else super().pull_messages(message_ids)


class Federation:
    """A coordinator's folder with three admitted sites; its server may be started again and again."""

    def __init__(self, folders: dict[str, Path], place: Path) -> None:
        self.run = place / "run"
        self.admission = Admission(self.run)
        self.cards = {site: SiteCard(site, public_pem(new_private_key().public_key())) for site in folders}
        for card in self.cards.values():
            self.admission.admit(card, NOW)
        self.absent: Callable[[str, str, RoundPlan], bool] = lambda *_: False
        self._sites = open_sites(folders, place / "cache", place / "sites")

    def go(self, config: RunConfig, on_round: OnRound = lambda *_: None) -> Outcome:
        self.grid = KeyedGrid(self._sites, self.absent)
        self.grid.keys = {node: self.cards[site].public_key.encode() for node, site in self.grid.names.items()}
        store = RunStore(self.run, config, every_round=True)
        return coordinate(self.grid, config, store, on_round, admission=Admission(self.run))

    def stop_after(self, config: RunConfig, last: int) -> None:
        """Run some rounds, in a server that is killed then."""

        def stop(round_: int, _metrics: dict) -> None:
            if round_ == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.go(config, stop)

    def revoke(self, site: str) -> None:
        self.admission.revoke(site, NOW)

    def best_over(self, sites: list[str], since: int) -> int:
        """The last of the rounds from ``since`` on with the greatest mean score of some sites, which all measured."""
        dice: dict[int, list[float]] = {}
        for line in read_json_lines(self.run / "round_metrics.jsonl"):
            if line["site"] in sites and line.get("validated_round", 0) >= since:
                dice.setdefault(line["validated_round"], []).append(line[VALIDATION_DICE])
        return max(dice, key=lambda round_: (sum(dice[round_]), round_))

    def asked(self, site: str) -> list[int]:
        """The rounds in which a site was asked to train by the server that was started last."""
        return sorted(self.grid.visits(site, "att_unet"))


def test_a_run_goes_on_after_a_restart_without_a_site_that_was_revoked(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    federation, config = Federation(folders, tmp_path), words(folders, "federation.quorum=2")
    federation.stop_after(config, 2)
    federation.revoke("shoulder")
    outcome = federation.go(config)
    assert outcome.plans.sites == ["ankle", "knee", "shoulder"]
    assert set(outcome.metrics) == {"ankle", "knee"}
    assert (federation.asked("ankle"), federation.asked("shoulder")) == ([3, 4, 5], [])


@pytest.mark.parametrize("restart", [False, True])
def test_rounds_after_a_revocation_are_compared_over_the_sites_that_are_left(
    folders: dict[str, Path], tmp_path: Path, restart: bool
) -> None:
    """The first round, which three sites measured, is not the run's result for ever."""
    federation, config = Federation(folders, tmp_path), words(folders, "federation.quorum=2", "federation.rounds=6")

    def revoke(round_: int, _metrics: dict) -> None:
        if round_ == 2:
            federation.revoke("shoulder")

    if restart:
        federation.stop_after(config, 2)
        federation.revoke("shoulder")
    outcome = federation.go(config, revoke)
    measured = {line["site"] for line in read_json_lines(federation.run / "round_metrics.jsonl") if line["round"] == 2}
    assert measured == set(folders)
    best = federation.best_over(["ankle", "knee"], since=1)
    assert best > 1
    assert outcome.checkpoint.round in (
        best,
        6,
    )  # what the last round ended with is measured, and not among these lines


def test_a_result_that_is_old_because_a_site_kept_silent_is_said(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = Federation(folders, tmp_path)
    config = words(folders, "federation.quorum=2", "federation.refusals_before_set_aside=99")
    federation.absent = lambda site, _kind, plan: site == "shoulder" and plan.round > 2
    with caplog.at_level(logging.WARNING, logger="server"):
        assert federation.go(config).checkpoint.round == 1
    (line,) = [record.getMessage() for record in caplog.records if "the chosen round is" in record.getMessage()]
    assert "the chosen round is 1, although round" in line
    assert "(ankle, knee)" in line


def test_a_site_that_is_let_in_again_is_asked_once_it_has_come(folders: dict[str, Path], tmp_path: Path) -> None:
    federation, config = Federation(folders, tmp_path), words(folders, "federation.quorum=2")
    federation.stop_after(config, 1)
    federation.revoke("shoulder")

    def let_in(round_: int, _metrics: dict) -> None:
        if round_ == 2:
            federation.admission.admit(federation.cards["shoulder"], NOW)
        federation.grid.late = round_ == 3  # so that the server looks around in round 4

    outcome = federation.go(config, let_in)
    assert federation.asked("ankle") == [2, 3, 4, 5]
    assert federation.asked("shoulder") == [5]
    assert set(outcome.metrics) == {"ankle", "knee", "shoulder"}


def test_where_all_sites_must_answer_a_revoked_one_stops_the_run_until_the_quorum_is_lower(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    federation, config = Federation(folders, tmp_path), words(folders)
    federation.stop_after(config, 2)
    federation.revoke("shoulder")
    said = (
        r"shoulder were revoked, so that 2 of 3 sites are left and the quorum is 3: .*admit FILE.*federation\.quorum=2;"
    )
    with pytest.raises(RunFailedError, match=said):
        federation.go(config)
    outcome = federation.go(words(folders, "federation.quorum=2"))
    assert (federation.asked("ankle"), set(outcome.metrics)) == ([3, 4, 5], {"ankle", "knee"})


def test_a_site_that_is_revoked_in_mid_run_is_asked_no_more_and_named_where_it_is_missed(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    def revoke(round_: int, _metrics: dict) -> None:
        if round_ == 2:
            federation.revoke("shoulder")

    federation = Federation(folders, tmp_path / "quorum")
    assert set(federation.go(words(folders, "federation.quorum=2"), revoke).metrics) == {"ankle", "knee"}
    assert federation.asked("shoulder") == [1, 2]
    federation = Federation(folders, tmp_path / "all")
    with pytest.raises(RunFailedError, match=r"shoulder were revoked.*the quorum is 3"):
        federation.go(words(folders), revoke)
