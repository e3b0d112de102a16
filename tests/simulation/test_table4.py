"""Table 4 from folders of finished runs: which scores are pooled, and that the statistics are SciPy's."""

import csv
from pathlib import Path

import numpy as np
import pytest
from finished_runs import SLICES, finish, slices
from rich.console import Console
from scipy import stats

from mtmd_core.config_files import compose
from mtmd_core.errors import ConfigurationError
from simulation.command import simulate
from simulation.experiments.table4 import has_row
from simulation.study import compose_network, plan_runs

DICE = {"individual": 0.5, "transfer_ankle": 0.7, "dsl": 0.6, "dsl_msc_mjap": 0.8}


def words(*more: str) -> list[str]:
    sites = "sites={ankle: /nowhere, knee: /nowhere}"
    strategies = f"study.strategies=[{','.join(DICE)}]"
    return [
        *("experiment=table4", sites, "study.networks=[att_unet]", strategies, "study.folds=[0,1]"),
        *("training.batch_size=6", "autoencoder.batch_size=6"),
        *more,
    ]


def table4(folder: Path, *more: str) -> dict[str, dict[str, str]]:
    """Finish every run that is asked for, then make the table; its rows by strategy."""
    config = compose("simulate", words(*more))
    for run in plan_runs(config, {"att_unet": compose_network(words(*more), "att_unet")}, folder):
        finish(run, DICE[run.key.strategy] + 0.01 * run.key.fold)
    return made(folder, *more)


def made(folder: Path, *more: str) -> dict[str, dict[str, str]]:
    simulate(compose("simulate", words(*more)), folder, Console(quiet=True), words(*more))
    with open(folder / "table4.csv", encoding="utf-8", newline="") as file:
        return {row["strategy"]: row for row in csv.DictReader(file)}


def scores(*dice: float) -> np.ndarray:
    """Percent, of one site a value."""
    return 100 * np.concatenate([slices(each)["dice"] for each in dice])


def test_scores_of_all_sites_and_folds_are_pooled(tmp_path: Path) -> None:
    rows = table4(tmp_path)
    own, reference = scores(0.6, 0.6, 0.61, 0.61), scores(0.8, 0.8, 0.81, 0.81)
    row = rows["dsl"]
    assert (int(row["n"]), int(row["folds"]), int(row["compared_folds"])) == (4 * SLICES, 2, 2)
    assert float(row["dice2d"]) == pytest.approx(60.5, abs=1e-4)
    assert float(row["dice2d_up"]) == pytest.approx(np.percentile(own, 84) - own.mean(), abs=1e-4)
    assert float(row["dice2d_down"]) == pytest.approx(own.mean() - np.percentile(own, 16), abs=1e-4)
    assert float(row["dice_p"]) == pytest.approx(stats.ks_2samp(own, reference).pvalue, rel=1e-2)
    assert row["dice_significant"] == "yes"
    assert float(row["dice_normality_p"]) == pytest.approx(stats.normaltest(own).pvalue, rel=1e-2)


def test_undefined_and_constant_scores_are_no_obstacle(tmp_path: Path) -> None:
    row = table4(tmp_path)["dsl"]
    defined = np.concatenate([100 * np.array(slices(dice)["sensitivity"][1:]) for dice in (0.6, 0.6, 0.61, 0.61)])
    assert float(row["sens2d"]) == pytest.approx(defined.mean(), abs=1e-4)
    assert (float(row["spec2d"]), row["spec_normality_p"]) == (100, "")
    assert (float(row["spec_p"]), row["spec_significant"]) == (1, "no")


def test_the_reference_is_not_tested_against_itself(tmp_path: Path) -> None:
    row = table4(tmp_path)["dsl_msc_mjap"]
    assert {row[f"{column}_{part}"] for column in ("dice", "sens", "spec") for part in ("p", "significant")} == {""}
    assert float(row["dice2d"]) == pytest.approx(80.5, abs=1e-4)


def test_a_transfers_source_is_filled_with_individuals_scores(tmp_path: Path) -> None:
    row = table4(tmp_path)["transfer_ankle"]
    own = scores(0.5, 0.7, 0.51, 0.71)
    assert int(row["n"]) == 4 * SLICES
    assert float(row["dice2d"]) == pytest.approx(own.mean(), abs=1e-4)
    assert float(row["dice2d_up"]) == pytest.approx(np.percentile(own, 84) - own.mean(), abs=1e-4)


def test_a_transfer_without_individual_has_no_scores_of_all_sites(tmp_path: Path) -> None:
    row = table4(tmp_path, "study.strategies=[transfer_ankle,dsl_msc_mjap]")["transfer_ankle"]
    assert (row["folds"], row["n"], row["dice2d"], row["dice_p"]) == ("0", "0", "", "")


def test_methods_are_compared_in_the_folds_of_both(tmp_path: Path) -> None:
    """Of dsl's second fold the slice scores are missing, so the reference's second fold is not compared with it."""
    table4(tmp_path)
    (tmp_path / "runs/att_unet/dsl/fold_1/slice_scores.json").unlink()
    row = made(tmp_path)["dsl"]
    assert (row["folds"], row["compared_folds"], int(row["n"])) == ("1", "1", 2 * SLICES)
    expected = stats.ks_2samp(scores(0.6, 0.6), scores(0.8, 0.8)).pvalue
    assert float(row["dice_p"]) == pytest.approx(expected, rel=1e-2)


def test_without_the_reference_there_are_no_p_values(tmp_path: Path) -> None:
    row = table4(tmp_path, "study.strategies=[individual,dsl]")["dsl"]
    assert (row["dice_p"], row["dice_significant"], row["compared_folds"]) == ("", "", "0")
    assert float(row["paper_dice2d"]) == 84.2


def test_rows_of_the_table() -> None:
    assert has_row("att_unet", "transfer_hip")
    assert has_row("dense_unet", "shared_mjap")
    assert not has_row("dense_unet", "transfer_knee")
    assert not has_row("dense_unet", "dsl")


def test_nothing_that_the_table_has_is_refused(tmp_path: Path) -> None:
    config = compose("simulate", words())
    with pytest.raises(ConfigurationError, match=r"has no row for any of study.networks=\['att_unet'\] with any"):
        plan_runs(config, {"att_unet": config}, tmp_path, lambda network, strategy: False)
