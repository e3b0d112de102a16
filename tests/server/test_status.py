"""``mtmd-server status`` and ``readmit`` over the files that a run leaves, whether it runs, has ended or has crashed."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mtmd_core.config_files import compose
from mtmd_core.credentials import new_private_key, public_pem
from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError
from mtmd_core.processes import exclusive
from mtmd_core.refusals import Reason
from mtmd_core.site_card import SiteCard
from server.admission import Admission
from server.readmit import readmit
from server.run_store import RunStore
from server.standing import REQUESTS
from server.status import lines, status, view

LATER = 4e9
"""A moment after all that the tests write."""


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A run in its fourth round of ten, in which the knee was refused three times."""
    store = RunStore(tmp_path, compose("federation", ["federation.rounds=10"]), every_round=True)
    store.remember_sites({"ankle": 3, "knee": 2})
    store.progress("training", 3, "round 4 of 10", ["ankle", "knee"])
    store.here(["ankle"])
    for round_ in (1, 2, 3):
        sizes = {"bytes_to_site": 1000, "bytes_from_site": 2000, "round": round_}
        store.append_metrics([{**sizes, "site": "ankle"}])
        store.standing.refused("knee", store.name, round_, Reason.NOT_FINITE, "a holds values that are not finite")
        line = {"time": 100.0 * round_, "event": "round_closed", "run": store.name, "phase": "segmentation"}
        with open(tmp_path / "audit.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "round": round_, "rounds": 10}) + "\n")
    return store


def test_a_run_that_goes_on(store: RunStore) -> None:
    with exclusive(store.folder, "mtmd-server"):
        run = view(store.folder, LATER)
        said = readmit(store.folder, "knee")
    assert (run.state, run.phase, run.round, run.rounds) == ("running", "training", 3, 10)
    assert (run.seconds_a_round, run.seconds_left) == (100.0, 700.0)
    assert (run.bytes_to_sites, run.bytes_from_sites) == (3000, 6000)
    ankle, knee = run.sites["ankle"], run.sites["knee"]
    assert (ankle.here, ankle.set_aside, ankle.last_round, ankle.refusals) == (True, False, 3, 0)
    assert (knee.here, knee.set_aside, knee.last_round, knee.refusals, knee.refusals_in_a_row) == (False, True, 0, 3, 3)
    assert knee.last_refusal == {"round": 3, "reason": "not_finite", "detail": "a holds values that are not finite"}
    assert said == "knee takes part again from the next round on, as soon as it is connected"
    assert (store.folder / REQUESTS / "knee").exists()
    text = "\n".join(lines(run))
    assert "about 11 min 40 s left in this phase, 1 min 40 s a round" in text
    assert "SET ASIDE" in text
    assert "mtmd-server readmit knee" in text


def test_a_run_that_crashed(store: RunStore) -> None:
    run = view(store.folder, LATER)
    assert (run.state, run.seconds_left, run.sites["ankle"].here) == ("stopped", None, False)
    assert "goes on from its last round" in lines(run)[0]
    assert readmit(store.folder, "knee") == "knee takes part again when mtmd-server goes on, as soon as it is connected"
    assert store.standing.readmit(["ankle", "knee"]) == ["knee"]
    with pytest.raises(ConfigurationError, match=r"'knee' is not set aside .*no site is"):
        readmit(store.folder, "knee")


def test_a_site_that_was_revoked_is_no_site_that_is_away(store: RunStore) -> None:
    admission, now = Admission(store.folder), datetime(2026, 11, 24, 12, tzinfo=UTC)
    for site in ("ankle", "knee"):
        admission.admit(SiteCard(site, public_pem(new_private_key().public_key())), now)
    admission.revoke("ankle", now)
    run = view(store.folder, LATER)
    assert {name: site.revoked for name, site in run.sites.items()} == {
        "ankle": "2026-11-24T12:00:00+00:00",
        "knee": None,
    }
    text = "\n".join(lines(run))
    assert "ankle  REVOKED · last used in round 3" in text
    assert "revoked on 2026-11-24T12:00:00+00:00; let it in again with: mtmd-server admit FILE" in text


@pytest.mark.parametrize(("code", "state"), [(0, "finished"), (3, "failed")])
def test_a_run_that_has_ended(store: RunStore, code: int, state: str) -> None:
    write_json(store.folder / "outcome.json", {"exit_code": code, "message": "that was it"})
    run = view(store.folder, LATER)
    assert (run.state, run.message) == (state, "that was it")


def test_metrics_that_are_being_written_are_no_obstacle(store: RunStore) -> None:
    with open(store.folder / "round_metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"site": "ankle", "rou')
    assert view(store.folder, LATER).bytes_to_sites == 3000


def test_programs_read_the_same(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(store.folder, as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["sites"]["knee"]["set_aside"]) == ("stopped", True)
    assert status(store.folder, as_json=False) == 0
    assert capsys.readouterr().out.startswith(f"run {store.name}: stopped")


def test_looking_changes_nothing(store: RunStore) -> None:
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    view(store.folder, LATER)
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before
