"""A study: which runs it is made of, and that each is made once, whatever happens to the others."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from finished_runs import finish, run_folders
from finished_runs import slices as slices_of_an_exam
from rich.console import Console
from tiny_sites import run_words, write_sites

from mtmd_core.config import NETWORKS
from mtmd_core.config_files import compose
from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError, DataError, RunFailedError
from mtmd_core.processes import descendants, exclusive
from simulation.command import simulate
from simulation.paper.figures import designs
from simulation.study import PlannedRun, compose_network, plan_runs

STUDY = ("experiment=study", "study.strategies=[individual,dsl]", "study.folds=[0,1]", "study.jobs=2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sites(tmp_path_factory.mktemp("sites"))


def conduct(folders: dict[str, Path], folder: Path, *words: str, console: Console | None = None) -> dict:
    words = study_words(folders, folder, *words)
    return simulate(compose("simulate", words), folder, console or Console(quiet=True), words)


def study_words(folders: dict[str, Path], folder: Path, *words: str) -> list[str]:
    return [*run_words(folders, f"data.cache_dir='{folder.parent / 'cache'}'"), *STUDY, *words]


def plan(folders: dict[str, Path], folder: Path, *words: str) -> list[PlannedRun]:
    words = study_words(folders, folder, *words)
    config = compose("simulate", words)
    networks = config.study.networks
    return plan_runs(config, {network: compose_network(words, network, networks) for network in networks}, folder)


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*/summary.json")}


def test_a_study_makes_every_run_once_and_goes_on_with_more(folders: dict[str, Path], tmp_path: Path) -> None:
    """Two runs are there before; one of each fold and of each strategy is made."""
    out = tmp_path / "out"
    for run in plan(folders, out):
        if (run.key.strategy, run.key.fold) in (("individual", 1), ("dsl", 0)):
            finish(run, 0.75)
    before = stamps(out)
    with open(tmp_path / "printed", "w+", encoding="utf-8") as printed:
        summary = conduct(folders, out, console=Console(file=printed, width=160))
        text = Path(printed.name).read_text(encoding="utf-8")
    runs = [f"att_unet/{strategy}/fold_{fold}" for strategy in ("dsl", "individual") for fold in (0, 1)]
    assert run_folders(out) == runs
    assert list(summary["runs"]) == [f"att_unet {s} fold {f}" for f in (0, 1) for s in ("individual", "dsl")]
    assert summary["failures"] == {}
    assert stamps(out) | before == stamps(out)
    assert summary["runs"]["att_unet dsl fold 0"]["mean"]["dice"] == 0.75
    own = json.loads((out / "runs/att_unet/dsl/fold_1/summary.json").read_text())
    assert (own["mode"], own["strategy"], own["fold"]) == ("centralised", "dsl", 1)
    assert summary["runs"]["att_unet dsl fold 1"]["mean"] == own["mean"]
    slices = json.loads((out / "runs/att_unet/dsl/fold_1/slice_scores.json").read_text())
    assert {column: len(values) for column, values in slices["knee"]["knee_exam_1"].items()} == dict.fromkeys(
        slices_of_an_exam(0.5), len(slices["knee"]["knee_exam_1"]["index"])
    )
    assert (out / "study.csv").read_text().count("\n") == 1 + 2 * 3
    assert "4 runs, 2 of them already finished; 2 at a time, threads each: 1" in text
    made = [text.count(f"att_unet {strategy} fold {fold}: Dice ankle ") for strategy, fold in STRATEGY_FOLDS]
    assert made == [1, 0, 0, 1]
    assert (text.count(" left, about "), text.count("(all done)")) == (1, 1)

    before = stamps(out)
    again = conduct(folders, out)
    assert (stamps(out), again | {"seconds": summary["seconds"]}) == (before, summary)

    finished = plan(folders, out, "study.folds=[2]")
    finish(finished[0], 0.25)
    more = conduct(folders, out, "study.folds=[0,1,2]", "study.strategies=[individual]")
    assert stamps(out) | before == stamps(out)
    assert more["runs"]["att_unet individual fold 2"]["mean"]["dice"] == 0.25


STRATEGY_FOLDS = [(strategy, fold) for strategy in ("individual", "dsl") for fold in (0, 1)]


def test_a_run_that_fails_does_not_take_the_others_along(folders: dict[str, Path], tmp_path: Path) -> None:
    out, words = tmp_path / "out", ("study.strategies=[dsl]", "study.folds=[0,1,2]")
    finish(plan(folders, out, *words)[2])
    in_the_way = out / "runs/att_unet/dsl/fold_0/models"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where the run wants a folder")
    with pytest.raises(
        RunFailedError, match=r"(?s)1 run\(s\) failed.*att_unet dsl fold 0: FileExistsError.*worker.log"
    ):
        conduct(folders, out, *words)
    assert run_folders(out) == ["att_unet/dsl/fold_1", "att_unet/dsl/fold_2"]
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["failures"]) == ["att_unet dsl fold 0"]
    assert {row["folds"] for row in summary["rows"]} == {2}
    assert "Traceback" in (in_the_way.parent / "worker.log").read_text()

    in_the_way.unlink()
    before = stamps(out)
    assert conduct(folders, out, *words)["failures"] == {}
    assert stamps(out) | before == stamps(out)
    assert len(stamps(out)) == 3


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_an_interrupt_ends_the_workers_at_once(folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = study_words(folders, out, "training.steps=1000000", f"hydra.run.dir='{out}'")
    write_json(out / "summary.json", {"rows": []})  # of the study when it had fewer runs
    heed = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background jobs ignore it
    )
    command = [sys.executable, "-c", f"{heed}; from simulation.command import main; main()", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as study:
        try:
            workers = wait_for(lambda: len(found := descendants(study.pid)) == 2 and found)
            os.kill(study.pid, signal.SIGINT)  # often while the second one is still being started
            errors = study.communicate(timeout=60)[1]
        finally:
            study.kill()
    assert (study.returncode, errors.count("\n")) == (
        130,
        3,
    )  # where files and the page on what was reached are, and why it ended
    assert f"what was written is in {out}" in errors
    assert errors.endswith("mtmd-simulate: ended by SIGINT\n")
    assert not (out / "summary.json").exists()  # which would say that the study is finished
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def wait_for(condition: object, seconds: float = 120.0) -> object:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_runs_are_planned_fold_by_fold(folders: dict[str, Path], tmp_path: Path) -> None:
    planned = plan(folders, tmp_path, "study.strategies=[individual,transfer,transfer_knee]", "study.folds=[2,0]")
    transfers = ["transfer_ankle", "transfer_knee", "transfer_shoulder"]
    assert [(run.key.fold, run.key.strategy) for run in planned] == [
        (fold, strategy) for fold in (2, 0) for strategy in ["individual", *transfers]
    ]
    assert {(run.config.fold, run.config.strategy) for run in planned} == {run.key[:0:-1] for run in planned}
    assert planned[0].folder == tmp_path / "runs/att_unet/individual/fold_2"
    assert {(run.config.experiment, run.config.mode) for run in planned} == {(None, "centralised")}


def test_a_worker_has_its_share_of_the_cores(folders: dict[str, Path], tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert {run.config.threads for run in plan(folders, tmp_path, "threads=3")} == {3}
    for jobs in (1, 2, 10 * cores):
        planned = plan(folders, tmp_path, "threads=null", f"study.jobs={jobs}")
        assert {run.config.threads for run in planned} == {max(1, cores // jobs)}


@pytest.mark.parametrize("network", NETWORKS)
def test_every_networks_own_file_has_the_hyper_parameters_of_table_1(network: str) -> None:
    config, design = compose_network([], network), designs()[network]
    assert config.network.name == network
    training = config.training
    assert (training.batch_size, training.epochs, training.learning_rate) == (
        design.batch_size,
        design.epochs,
        design.learning_rate,
    )


def test_a_word_that_one_network_alone_knows_is_its_alone() -> None:
    words, both = ["network.width=16", "network.encoder_weights=none"], ["att_unet", "dense_unet"]
    att_unet, dense_unet = (compose_network(words, network, both).network for network in both)
    assert (att_unet.width, dense_unet.width, dense_unet.encoder_weights) == (16, 32, "none")
    with pytest.raises(ConfigurationError, match="only att_unet has a width"):
        compose_network(words, "dense_unet", ["dense_unet"])


@pytest.mark.parametrize("network", NETWORKS)
def test_words_of_the_command_line_win_over_a_networks_file(network: str) -> None:
    config = compose_network(["experiment=study", "training.epochs=77", "training.batch_size=36"], network)
    assert (config.training.epochs, config.training.batch_size) == (77, 36)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["fold=1"], r"instead of fold=1, write study.folds=\[...\]"),
        (["strategy=dsl"], r"instead of strategy=dsl, write study.strategies=\[...\]"),
        (["network=att_unet"], r"instead of network=att_unet, write study.networks=\[...\]"),
        (["mode=federated", "study.strategies=[transfer]"], "strategy=transfer_ankle is for mode=centralised"),
        (["study.strategies=[transfer_hip]"], "takes the site 'hip', which is none of ankle, knee"),
        (["training.batch_size=7"], "the nearest that they can are 6 and 9"),
        (["study.folds=[0,9]"], "fold=9, but ankle has 4 exams"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_runs(
    folders: dict[str, Path], tmp_path: Path, words: list[str], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        conduct(folders, tmp_path / "out", *words)
    assert not (tmp_path / "out/runs").exists()


def test_exams_are_checked_before_anything_runs(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="/nowhere"):
        conduct(folders, tmp_path / "out", "sites={ankle: /nowhere}")
    assert not (tmp_path / "out/runs").exists()


def test_a_folder_that_another_process_writes_into_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with exclusive(tmp_path, "study"), pytest.raises(ConfigurationError, match=r"in use.*another hydra.run.dir folder"):
        conduct(folders, tmp_path)
    assert not list(tmp_path.glob("runs/*"))


def test_a_folder_with_other_runs_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    planned = plan(folders, tmp_path)[0]
    finish(replace(planned, config=replace(planned.config, seed=5)))
    with pytest.raises(ConfigurationError, match=r"holds another run \(seed was 5, is 0\)"):
        conduct(folders, tmp_path)
    assert len(stamps(tmp_path)) == 1
