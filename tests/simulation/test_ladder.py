"""The ladder: every rung takes as many steps on the same images, and is held against its twin."""

import csv
from pathlib import Path

import pytest
from finished_runs import finish
from rich.console import Console
from tiny_sites import ladder_words, write_sites

from mtmd_core.config import FederationConfig, RunConfig, ServerOptimiserConfig
from mtmd_core.config_files import compose, decisive_words
from mtmd_core.durable import write_text
from mtmd_core.errors import ConfigurationError
from simulation.command import simulate
from simulation.ladder import LOCKSTEP, POOLED, Rung, plan_ladder, rungs_of

LADDER = (
    "experiment=ladder",
    "study.strategies=[dsl,dsl_msc]",
    "study.local_steps=[1,2,6]",
    "study.folds=[0,1]",
    "training.validate_every_steps=6",
    "training.steps=12",
    "autoencoder.steps=6",
)
NAMES = [
    "local", "consensus", "dsl_1", "dsl_2", "dsl_6", "dsl_pooled", "dsl_msc_1", "dsl_msc_2", "dsl_msc_6", "dsl_msc_pooled",
    "dsl_msc_2_int8", "dsl_msc_2_first_order", "dsl_msc_2_own_batch", "dsl_msc_2_noised",
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sites(tmp_path_factory.mktemp("sites"))


def ladder_config(folders: dict[str, Path], *more: str) -> RunConfig:
    return compose("simulate", ladder_words(folders, *LADDER, *more))


def test_every_rung_takes_as_many_steps_on_as_many_images(folders, tmp_path):
    config = ladder_config(folders, "federation.update_encoding=bfloat16")
    planned = plan_ladder(config, tmp_path)
    assert [run.key.rung.name for run in planned] == NAMES * 2
    for run in planned:
        own, federation, rung = run.config, run.config.federation, run.key.rung
        assert (own.fold, own.seed, own.experiment) == (run.key.fold, config.seed, None)
        if rung.kind == "pooled":
            assert (own.mode, own.training.steps, own.training.batch_size) == ("centralised", 12, 6)
            continue
        assert own.mode == "federated"
        assert federation.rounds * federation.local_steps == 12
        assert federation.autoencoder_rounds * federation.local_steps in (6, 12)  # one round of all steps for consensus
        assert own.training.batch_size == (2 if rung.kind == "local" else 6)
        if rung.kind != "consensus":
            assert federation.validate_every_rounds * federation.local_steps == 6
        encoding = {"int8": "int8", "": "float32" if rung.kind == "local" else "bfloat16"}
        assert federation.update_encoding == encoding.get(rung.variant, "bfloat16")
    assert len({run.folder for run in planned}) == len(planned)


def test_variants_are_those_that_are_asked_for(folders, tmp_path):
    asked = plan_ladder(ladder_config(folders, "study.variants=[noised,int8]", "study.folds=[0]"), tmp_path)
    assert [run.key.rung.name for run in asked] == [*NAMES[:-4], "dsl_msc_2_noised", "dsl_msc_2_int8"]
    without = plan_ladder(ladder_config(folders, "study.variants=[]", "study.folds=[0]"), tmp_path)
    assert [run.key.rung.name for run in without] == NAMES[:-4]
    with pytest.raises(ConfigurationError, match=r"study\.variants=int4 is not known"):
        ladder_config(folders, "study.variants=[int4]")


def test_lock_step_is_pooled_training_in_as_many_rounds_as_steps(folders, tmp_path):
    words = (
        "study.variants=[lockstep]", "study.folds=[0]", "federation.server_optimiser.learning_rate=1.7",
        "federation.update_encoding=bfloat16", "federation.calibration_batches=3",
    )  # fmt: skip
    planned = {run.key.rung: run.config for run in plan_ladder(ladder_config(folders, *words), tmp_path)}
    rung = Rung("dsl_msc", LOCKSTEP, local_steps=1)
    assert list(planned)[-1] == rung
    assert rung.name == "dsl_msc_lockstep"
    assert rung.twin == Rung("dsl_msc", POOLED)
    own = planned[rung]
    assert own.federation == FederationConfig(
        lockstep=True, local_steps=1, rounds=12, autoencoder_rounds=6, validate_every_rounds=6, calibration_batches=3
    )
    assert (own.mode, own.training) == ("federated", planned[rung.twin].training)
    with pytest.raises(ConfigurationError, match="lockstep=true cannot reproduce strategy=shared"):
        plan_ladder(ladder_config(folders, "study.variants=[lockstep]", "study.strategies=[shared]"), tmp_path)
    with pytest.raises(ConfigurationError, match=r"one rung of experiment=ladder: .* say study\.variants=\[lockstep\]"):
        ladder_config(folders, "federation.lockstep=true")


def test_models_that_are_averaged_once_are_averaged_and_no_more(folders, tmp_path):
    words = ("federation.server_optimiser.name=fedadam", "federation.server_optimiser.learning_rate=0.1")
    planned = {run.key.rung.name: run.config for run in plan_ladder(ladder_config(folders, *words), tmp_path)}
    optimisers = {name: config.federation.server_optimiser for name, config in planned.items()}
    assert optimisers["consensus"] == ServerOptimiserConfig("fedavg")
    assert optimisers["dsl_2"] == ServerOptimiserConfig("fedadam", 0.1)


def test_rungs_asked_for_by_name_are_made_beside_local_training(folders, tmp_path):
    asked = plan_ladder(ladder_config(folders, "study.rungs=[dsl_msc_2_int8,dsl_msc_pooled,dsl_msc_2]"), tmp_path)
    assert [run.key.rung.name for run in asked] == 2 * ["local", "dsl_msc_2", "dsl_msc_pooled", "dsl_msc_2_int8"]
    everything = {run.folder: decisive_words(run.config) for run in plan_ladder(ladder_config(folders), tmp_path)}
    assert all(everything[run.folder] == decisive_words(run.config) for run in asked)  # the same run, found again
    with pytest.raises(ConfigurationError, match=r"study\.rungs=dsl_3 is not known; did you mean 'dsl_"):
        plan_ladder(ladder_config(folders, "study.rungs=[dsl_3]"), tmp_path)
    with pytest.raises(ConfigurationError, match=r"study\.rungs names local twice"):
        ladder_config(folders, "study.rungs=[local,local]")


def test_a_variant_is_unlike_its_twin_in_one_word(folders, tmp_path):
    planned = {run.key.rung.name: run.config for run in plan_ladder(ladder_config(folders), tmp_path)}
    assert planned["dsl_msc_2_first_order"].prototypes.order == "first"
    assert planned["dsl_msc_2_own_batch"].prototypes.own_batch is True
    assert planned["dsl_msc_2_noised"].prototypes.noise_multiplier == 1.0
    assert planned["dsl_msc_2"].prototypes.order == "second"
    assert Rung("dsl_msc", local_steps=2, variant="int8").twin == Rung("dsl_msc", local_steps=2)
    assert Rung("dsl_msc", local_steps=2).twin == Rung("dsl_msc", "pooled")
    assert Rung("individual", "local").twin is None


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("training.steps=13", "training.steps is 13, not a multiple of 2 in study.local_steps"),
        ("training.steps=null", "needs training.steps="),
        ("autoencoder.steps=9", "autoencoder.steps is 9, not a multiple of 2"),
        ("training.validate_every_steps=2", "validate_every_steps is 2, not a multiple of 6"),
        ("training.steps=18", "training.steps is 18, not a multiple of training.validate_every_steps=12"),
        ("federation.local_epochs=1", "local_epochs is 1, but all rungs .* count steps: leave it out"),
        ("federation.release=none", "release is none, but .* every rung chooses its round by validation"),
        ("federation.participation=0.7", "participation is 0.7, but .* every site must train in every round"),
    ],
)
def test_rungs_that_would_not_be_alike_are_refused(word, text, folders, tmp_path):
    more = ("training.validate_every_steps=12",) if "=12" in text else ()
    with pytest.raises(ConfigurationError, match=text):
        plan_ladder(ladder_config(folders, *more, word), tmp_path)


def test_the_table_holds_each_rung_against_its_twin_and_local_training(folders, tmp_path):
    words = ladder_words(folders, *LADDER)
    planned = plan_ladder(compose("simulate", words), tmp_path)
    for run in planned:
        better = {"local": 0.40, "dsl_2": 0.50, "dsl_pooled": 0.55, "dsl_msc_2_int8": 0.31}.get(run.key.rung.name, 0.30)
        finish(run, better + 0.02 * run.key.fold * (run.key.rung.name == "dsl_2"))
        line = '{"round": 1, "site": "knee", "bytes_to_site": 2000000, "bytes_from_site": 500000}\n'
        write_text(run.folder / "round_metrics.jsonl", 2 * line if run.key.rung.name == "dsl_2" else "")
        write_text(run.folder / "autoencoder_round_metrics.jsonl", line if run.key.rung.name == "dsl_2" else "")
    with open(tmp_path / "printed", "w+", encoding="utf-8") as printed:
        summary = simulate(compose("simulate", words), tmp_path, Console(file=printed, width=180), words)
        text = Path(printed.name).read_text(encoding="utf-8")
    assert summary["failures"] == {}
    with open(tmp_path / "ladder.csv", encoding="utf-8", newline="") as file:
        rows = {row["rung"]: row for row in csv.DictReader(file)}
    assert list(rows) == [rung.name for rung in rungs_of(compose("simulate", words))] == NAMES
    row = rows["dsl_2"]
    assert (row["strategy"], row["kind"], row["local_steps"], row["folds"], row["images_a_site"]) == (
        "dsl",
        "federated",
        "2",
        "2",
        "24",
    )
    assert (float(row["dice_mean"]), float(row["worst_site_dice"])) == (51.0, 51.0)
    assert (float(row["minus_twin"]), float(row["minus_local"]), float(row["ankle_minus_local"])) == (-4.0, 11.0, 11.0)
    half = 12.7062 * 1.0  # Student's t of one degree of freedom, times the standard error of 50 and 52
    assert float(row["minus_local_low"]) == pytest.approx(11 - half, abs=1e-3)
    assert (float(row["megabytes_to_sites"]), float(row["megabytes_from_sites"])) == (6.0, 1.5)
    assert rows["dsl_msc_2_int8"]["twin"] == "dsl_msc_2"
    assert float(rows["dsl_msc_2_int8"]["minus_twin"]) == pytest.approx(1.0)
    assert rows["local"]["minus_local"] == ""
    assert "−4.0" in text or "-4.0" in text
    assert (tmp_path / "ladder.png").stat().st_size > 10_000


def test_words_that_rungs_choose_for_themselves_are_refused(folders, tmp_path):
    for word in ("fold=1", "federation.rounds=3", "++federation.local_steps=2", "strategy=dsl_msc"):
        words = [*ladder_words(folders, *LADDER), word]
        with pytest.raises(ConfigurationError, match=r"experiment=ladder does not heed .*=: say (study|training)\."):
            simulate(compose("simulate", words), tmp_path / "out", Console(quiet=True), words)
    assert not (tmp_path / "out" / "runs").exists()


def test_sites_alone_are_no_strategy_of_a_ladder(folders, tmp_path):
    with pytest.raises(ConfigurationError, match=r"has individual, under which nothing is shared.*`local`"):
        plan_ladder(ladder_config(folders, "study.strategies=[individual,dsl]"), tmp_path)
