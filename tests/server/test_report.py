"""The coordinator's page, written and live: what was released and nothing more."""

import http.client
import json
from pathlib import Path

import numpy as np
import pytest
from made_prototypes import prototype_arrays
from page_checks import check_page

from mtmd_core.config_files import compose, save_config
from mtmd_core.durable import write_json
from server.checkpoints import Shelved
from server.live import LivePage
from server.report import run_page, told_by, write_report
from server.run_store import RunStore

LINES = [
    {"round": round_, "site": site, "loss": 1 / round_, "bytes_to_site": 100, "bytes_from_site": 120}
    for round_ in (1, 2)
    for site in ("ankle", "knee")
]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A coordinator's folder after two of three rounds, with a refusal that quotes markup."""
    config = compose("federation", ["federation.rounds=3", "data.cache_dir=/secret/place"])
    save_config(config, tmp_path / "run.yaml")
    store = RunStore(tmp_path, config, every_round=True)
    store.remember_sites({"ankle": 3, "knee": 2})
    store.append_metrics(LINES)
    for _ in range(2):
        store.note("refused", round=2, site="knee", reason="wrong_records", detail="it holds the records <script>")
    store.progress("training", 2, "round 3 of 3", ["ankle", "knee"])
    return tmp_path


def get(port: int, path: str = "/", method: str = "GET", host: str = "localhost") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": f"{host}:{port}"})
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer.status, content


def test_a_run_that_stopped_says_so_and_shows_its_rounds(state: Path) -> None:
    page = write_report(state).read_text(encoding="utf-8")
    check_page(page, told_by(state))
    assert "This run is not finished" in page
    assert page.count("it holds the records &lt;script&gt;") == 1  # the same refusal once
    assert "/secret" not in page
    assert not (state / "summary.json").exists()


def test_the_page_of_a_finished_run_shows_what_was_released_and_keeps_it_in_the_summary(state: Path) -> None:
    released = {"foreground_mean": {"dice": 0.75}, "mean": {"structure_1": {"dice": 0.75}}}
    write_json(
        state / "summary.json", {"mean": {"dice": 0.75}, "worst_site": None, "sites": {"ankle": {}, "knee": released}}
    )
    write_json(state / "run.json", json.loads((state / "run.json").read_text(encoding="utf-8")) | {"finished": True})
    page = write_report(state).read_text(encoding="utf-8")
    check_page(page, json.loads((state / "summary.json").read_text(encoding="utf-8")))
    assert "structure_1" in page
    assert "Without a score: ankle." in page
    assert "not finished" not in page


def test_a_folder_in_which_nothing_was_begun_has_a_page_too(tmp_path: Path) -> None:
    assert "no run yet" in run_page(told_by(tmp_path), refresh_seconds=5)


def shelve(store: RunStore, **rounds: int) -> None:
    """A last checkpoint with prototypes of sites, each made in its round."""
    shelved = {site: Shelved(round_, prototype_arrays(round_)) for site, round_ in rounds.items()}
    store.save_last(max(rounds.values()), {"weight": np.zeros(3, np.float32)}, prototypes=shelved)


def test_released_prototypes_tell_how_alike_the_sites_are(state: Path) -> None:
    config = compose("federation", ["federation.rounds=3", "strategy=dsl_msc", "network.width=4"])
    save_config(config, state / "run.yaml")
    store = RunStore(state, config, every_round=True)
    shelve(store, ankle=2, knee=1)
    content = told_by(state)
    ankle, knee = prototype_arrays(2), prototype_arrays(1)
    between = [line for line in content["prototypes"]["lines"] if line["domain"] != line["other_domain"]]
    assert [line["scale"] for line in between] == [f"s{number}" for number in range(1, 10)]
    assert between[4]["mean"] == pytest.approx(float(ankle["s5/mean"] @ knee["s5/mean"]), abs=1e-5)
    page = run_page(content)
    check_page(page, content)
    assert "ankle – knee" in page
    assert "rounds 2 (ankle), 1 (knee)" in page
    assert "pooled" not in page  # nobody here could know

    checkpoint = state / "checkpoints" / "last.safetensors"
    shelve(store, ankle=3, knee=3)
    checkpoint.write_bytes(checkpoint.read_bytes()[:50])
    assert set(told_by(state)["prototypes"]["rounds"].values()) == {2, 1}  # the one before
    write_json(state / "run.json", {"name": "another", "finished": False})
    assert told_by(state)["prototypes"] == {}


def test_the_live_page_is_made_anew_for_whoever_asks(state: Path) -> None:
    with LivePage(0, lambda: run_page(told_by(state), refresh_seconds=5)) as live:
        port = int(live.address.rstrip("/").rpartition(":")[2])
        status, before = get(port)
        assert (status, 'http-equiv="refresh" content="5"' in before) == (200, True)
        write_json(state / "outcome.json", {"exit_code": 1, "message": "the quorum is 2"})
        assert "This run failed: the quorum is 2" in get(port)[1]
        for path in ("/run.yaml", "/../run.yaml", "/?x", "/%2e%2e/run.yaml"):
            assert get(port, path)[0] == 404
        assert get(port, method="POST")[0] == 501
        assert get(port, host="evil.example")[0] == 403
    with pytest.raises(ConnectionRefusedError):
        get(port)


def test_a_port_that_is_taken_is_refused() -> None:
    with LivePage(0, str) as live, pytest.raises(OSError, match="in use"):
        LivePage(int(live.address.rstrip("/").rpartition(":")[2]), str)
