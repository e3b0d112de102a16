"""What lies in a folder stays: an experiment replaces nothing but what the same words left there."""

from pathlib import Path

import pytest
from finished_runs import finish
from rich.console import Console
from tiny_sites import ladder_words, run_words, write_sites

from mtmd_core.config_files import compose, load_config, save_config
from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError
from simulation.command import simulate
from simulation.folders import check_folder
from simulation.ladder import plan_ladder
from simulation.runs import CONFIG, SUMMARY
from simulation.study import compose_network, plan_runs

STUDY = (
    "study.networks=[att_unet]",
    "study.strategies=[individual,dsl_msc_mjap]",
    "study.folds=[0]",
    "network.width=8",
    "data.slice_size=32",
)
LADDER = (
    "experiment=ladder",
    "study.strategies=[dsl]",
    "study.local_steps=[3]",
    "study.variants=[]",
    "autoencoder.steps=6",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sites(tmp_path_factory.mktemp("sites"))


def do(words: list[str], folder: Path) -> dict:
    return simulate(compose("simulate", words), folder, Console(quiet=True), words)


def refused(words: list[str], folder: Path, text: str) -> None:
    """That these words are refused, and that every file is still the same."""
    before = contents(folder)
    with pytest.raises(ConfigurationError, match=text):
        do(words, folder)
    assert contents(folder) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}


def study_words(folders: dict[str, Path], experiment: str, *more: str) -> list[str]:
    return run_words(folders, *STUDY, f"experiment={experiment}", *more)


def finish_study(words: list[str], folder: Path) -> None:
    for run in plan_runs(compose("simulate", words), {"att_unet": compose_network(words, "att_unet")}, folder):
        finish(run)


def leave(folder: Path, *words: str) -> Path:
    """A folder as a finished run or experiment leaves it."""
    save_config(compose("simulate", list(words)), folder / CONFIG)
    write_json(folder / SUMMARY, {"words": words})
    return folder


def test_no_experiment_replaces_a_run(tmp_path: Path) -> None:
    run = leave(tmp_path / "run", "strategy=shared")
    for experiment in ("table1", "study", "ladder", "demo", "external", "lockstep"):
        refused([f"experiment={experiment}"], run, rf"holds a run, whose files experiment={experiment} would replace")
    (run / SUMMARY).unlink()  # one that is not finished holds hours of work
    refused(["experiment=table1"], run, "holds a run, .*give another folder")


def test_no_run_and_no_other_experiment_replaces_an_experiment(tmp_path: Path) -> None:
    demo = leave(tmp_path / "demo", "experiment=demo")
    refused(["strategy=dsl", "network.width=8"], demo, "holds experiment=demo, whose files a run would replace")
    refused(["experiment=phantoms"], demo, "holds experiment=demo, whose files experiment=phantoms would replace")
    study = leave(tmp_path / "study", "experiment=study")
    refused(["experiment=ladder"], study, "holds experiment=study, whose files experiment=ladder would replace")


def test_a_ladder_of_other_words_leaves_the_configuration_of_the_first(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    words = ladder_words(folders, *LADDER)
    for run in plan_ladder(compose("simulate", words), tmp_path):
        finish(run)
    assert do(words, tmp_path)["failures"] == {}
    refused(
        [*words, "training.learning_rate=0.5"],
        tmp_path,
        r"experiment=ladder with other words \(training.learning_rate was",
    )
    assert do([*words, "study.rungs=[dsl_pooled]", "study.jobs=2"], tmp_path)["failures"] == {}  # fewer of the same


def test_tables_share_the_runs_of_one_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    words = study_words(folders, "table2")
    finish_study(words, tmp_path)
    for experiment in ("table4", "table2", "table4"):
        do(study_words(folders, experiment), tmp_path)
        assert load_config(tmp_path / CONFIG).experiment == experiment
    assert all((tmp_path / f"{name}.csv").is_file() for name in ("table2", "table4"))
    refused(
        study_words(folders, "table4", "seed=7"), tmp_path, r"experiment=table4 with other words \(seed was 0, is 7\)"
    )
    refused(study_words(folders, "table2", "seed=7"), tmp_path, r"holds another run \(seed was 0, is 7\)")


def test_what_reads_runs_does_not_write_beside_them(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    for experiment in ("external", "figures"):
        with pytest.raises(ConfigurationError, match=r"study.folder and hydra.run.dir are both .*/sweep"):
            do([f"experiment={experiment}", f"study.folder='{tmp_path}/demo/../sweep'"], tmp_path / "sweep")
    assert contents(tmp_path) == {}
    scores = leave(tmp_path / "scores", "experiment=external", "study.folder=ONE")
    refused(["experiment=external", "study.folder=TWO"], scores, r"\(study.folder was ONE, is TWO\)")


def test_words_of_a_study_decide_where_they_choose_what_is_compared(tmp_path: Path) -> None:
    lockstep = leave(tmp_path, "experiment=lockstep")
    refused(["experiment=lockstep", "study.strategies=[dsl]"], lockstep, r"study.strategies was \['dsl', 'dsl_mjap'\]")


def test_phantoms_are_the_same_exams_before_and_after_they_are_made(tmp_path: Path) -> None:
    words = ["experiment=demo", f"data.cache_dir='{tmp_path}/cache'"]
    config = compose("simulate", words)
    config.sites = {joint: str(tmp_path / f"phantoms/version_1.1_exams_8_scale_0.2_seed_0/{joint}") for joint in JOINTS}
    save_config(config, tmp_path / "out" / CONFIG)
    write_json(tmp_path / "out" / SUMMARY, {})
    check_folder(compose("simulate", words), tmp_path / "out")
    with pytest.raises(ConfigurationError, match=r"phantoms.seed was 0, is 1"):
        check_folder(compose("simulate", [*words, "phantoms.seed=1"]), tmp_path / "out")


JOINTS = ("ankle", "knee", "shoulder")


def test_a_configuration_without_results_holds_nothing(tmp_path: Path) -> None:
    save_config(compose("simulate", ["experiment=lockstep"]), tmp_path / CONFIG)
    save_config(compose("simulate", []), tmp_path / "hydra" / CONFIG)
    check_folder(compose("simulate", ["experiment=lockstep", "training.steps=5"]), tmp_path)
    check_folder(compose("simulate", ["experiment=demo"]), tmp_path)
