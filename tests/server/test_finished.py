"""A finished run stays as it is until another one is asked for, and is kept whole then."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mtmd_core.config import RunConfig
from mtmd_core.config_files import compose, save_config
from mtmd_core.durable import write_json, write_text
from mtmd_core.errors import ConfigurationError
from mtmd_core.refusals import Reason
from server.checkpoints import Checkpoint
from server.command import main
from server.finished import finished_run, set_aside
from server.report import write_report
from server.run_store import RunStore
from server.standing import REQUESTS
from server.status import view

OWN = (
    "tls/authority.pem",
    "admission/ankle.json",
    "admission/.lock",
    "server.yaml",
    "logs/run.log",
    "flower/config.toml",
    ".lock",
)
"""What is the federation's and no run's."""


def config(*words: str) -> RunConfig:
    return compose("federation", ["federation.rounds=2", *words])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> str:
    """The name of a finished run in a coordinator's folder, with every file that a run leaves."""
    for name in OWN:
        write_text(tmp_path / name, name if name != "server.yaml" else "port: 9\n")
    save_config(config(), tmp_path / "run.yaml")
    store, shared = RunStore(tmp_path, config(), every_round=True), {"w": np.float32([1])}
    store.remember_sites({"ankle": 3})
    store.progress("training", 2, "")
    store.standing.refused("ankle", store.name, 1, Reason.STALE_ROUND, "it answers round 0, expected 1")
    write_text(tmp_path / REQUESTS / "knee", "\n")
    for own in (store, store.phase("autoencoder", 1)):
        own.append_metrics([{"round": 1, "site": "ankle", "loss": 0.5, "bytes_to_site": 1, "bytes_from_site": 1}])
        for round_ in (1, 2):
            own.save_last(round_, shared)
        own.save_best(2, shared)
        own.choose(Checkpoint(2, shared))
    store.finish({"mean": {"dice": 0.9}}, Checkpoint(2, shared))
    write_json(tmp_path / "outcome.json", {"exit_code": 0, "message": "2 rounds are done"})
    write_text(tmp_path / "audit.jsonl.1", "")
    write_report(tmp_path)
    return store.name


def test_the_command_given_again_says_where_all_lies_and_touches_nothing(
    tmp_path: Path, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(tmp_path)
    assert main(["--state", str(tmp_path), "seed=1"]) == 0
    said = capsys.readouterr().out
    for words in (f"run {run} is finished", "summary.json", "report.html", "checkpoints/chosen.safetensors"):
        assert words in said
    assert f"`mtmd-server --state {tmp_path} --new` keeps all of it in {tmp_path / 'finished' / run}" in said
    assert contents(tmp_path) == before


def test_a_run_that_is_set_aside_is_whole_and_another_begins_beside_it(tmp_path: Path, run: str) -> None:
    before = contents(tmp_path)
    own = {name: before.pop(name) for name in OWN}
    assert set_aside(tmp_path) == tmp_path / "finished" / run
    assert contents(tmp_path / "finished" / run) == before
    assert {name: text for name, text in contents(tmp_path).items() if not name.startswith("finished/")} == own
    assert (view(tmp_path / "finished" / run, 4e9).state, finished_run(tmp_path / "finished" / run)) == (
        "finished",
        run,
    )
    assert (finished_run(tmp_path), set_aside(tmp_path)) == (None, None)
    new = RunStore(tmp_path, config("seed=1"), every_round=True)
    assert (new.name != run, new.last(), new.sites(), new.standing.sites) == (True, None, None, {})


@pytest.mark.parametrize("moved", range(14))
def test_setting_aside_may_be_cut_off_anywhere_and_goes_on(
    tmp_path: Path, run: str, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: text for name, text in contents(tmp_path).items() if name not in OWN}
    count = 0

    def until_the_end(path: Path, target: Path, replace=Path.replace) -> Path:
        nonlocal count
        count += 1
        if count > moved:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", until_the_end)
        with pytest.raises(KeyboardInterrupt):
            set_aside(tmp_path)
    assert finished_run(tmp_path) is None  # another run was asked for, and begins with or without the word
    assert set_aside(tmp_path) == tmp_path / "finished" / run
    assert contents(tmp_path / "finished" / run) == before


def test_a_run_that_was_put_back_is_finished_again_and_overwrites_nothing(tmp_path: Path, run: str) -> None:
    shutil.copytree(set_aside(tmp_path), tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    assert finished_run(tmp_path) == run
    with pytest.raises(ConfigurationError, match="hold the same run"):
        set_aside(tmp_path)
    assert contents(tmp_path) == before


def test_only_a_finished_run_is_set_aside(tmp_path: Path) -> None:
    assert (finished_run(tmp_path), set_aside(tmp_path)) == (None, None)
    RunStore(tmp_path, config(), every_round=True).save_last(1, {"w": np.float32([1])})
    before = contents(tmp_path)
    assert (finished_run(tmp_path), set_aside(tmp_path)) == (None, None)
    (tmp_path / "run.json").write_text("{")
    assert (finished_run(tmp_path), set_aside(tmp_path)) == (None, None)
    assert contents(tmp_path).keys() == before.keys()
