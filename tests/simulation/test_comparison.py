"""Tables 2 and 3: means over folds, against individual and beside the paper."""

import csv
from pathlib import Path

import numpy as np
import pytest
from finished_runs import finish
from rich.console import Console
from scipy import stats

from mtmd_core.config_files import compose
from mtmd_core.scores import METRICS_3D
from simulation.command import simulate
from simulation.comparison import Method, print_comparison, rows_3d
from simulation.study import compose_network, plan_runs

METRICS = dict.fromkeys(METRICS_3D, 0.0)


def method(
    strategy: str, dice: dict[str, list[float | None]], weights: str = "none", network: str = "att_unet"
) -> Method:
    """A method from each site's Dice in folds 0, 1, ..."""
    count = len(next(iter(dice.values())))
    folds = {fold: {site: METRICS | {"dice": values[fold]} for site, values in dice.items()} for fold in range(count)}
    return Method(network, strategy, weights, tuple(dice), folds)


INDIVIDUAL = method("individual", {"ankle": [0.80, 0.90, 0.85], "hip": [0.70, 0.60, 0.50]})
DSL = method("dsl", {"ankle": [0.82, 0.91, 0.90], "hip": [0.60, 0.70, 0.80]})


def row(methods: list[Method], strategy: str, joint: str) -> dict:
    return next(each for each in rows_3d(methods) if (each["strategy"], each["joint"]) == (strategy, joint))


def test_means_and_sample_deviations_are_in_percent_by_hand() -> None:
    own = row([INDIVIDUAL, DSL], "individual", "hip")
    assert (own["dice_mean"], own["dice_std"], own["folds"]) == (60, 10, 3)


def test_distances_stay_in_millimetres() -> None:
    folds = {0: {"hip": METRICS | {"mssd_mm": 12.5, "ravd": 0.125, "specificity": 0.5}}}
    own = row([Method("att_unet", "dsl", "none", ("hip",), folds)], "dsl", "hip")
    assert (own["mssd_mm_mean"], own["ravd_mean"], own["specificity_mean"]) == (12.5, 12.5, 50)
    assert own["mssd_mm_std"] is None  # one fold


def test_the_difference_to_individual_is_paired_over_folds() -> None:
    own = row([INDIVIDUAL, DSL], "dsl", "ankle")
    expected = stats.ttest_rel([82, 91, 90], [80, 90, 85])
    interval = expected.confidence_interval(0.95)
    assert own["dice_difference"] == pytest.approx(np.mean([2, 1, 5]), abs=1e-4)
    assert (own["dice_difference_low"], own["dice_difference_high"]) == pytest.approx(
        (interval.low, interval.high), abs=1e-4
    )
    assert row([INDIVIDUAL, DSL], "individual", "ankle")["dice_difference"] is None
    assert row([DSL], "dsl", "ankle")["dice_difference"] is None


def test_only_folds_that_both_have_are_compared() -> None:
    partial = Method("att_unet", "dsl", "none", DSL.sites, {2: DSL.folds[2]})
    own = row([INDIVIDUAL, partial], "dsl", "hip")
    assert (own["folds"], own["dice_mean"], own["dice_difference"]) == (1, 80, 30)
    assert own["dice_difference_low"] is None


def test_the_worst_site_is_that_with_the_lowest_mean() -> None:
    rows = rows_3d([INDIVIDUAL, DSL])
    assert {(each["strategy"], each["worst_site"], each["worst_site_dice_mean"]) for each in rows} == {
        ("individual", "hip", 60),
        ("dsl", "hip", 70),
    }


def test_undefined_values_and_methods_without_runs_leave_cells_empty() -> None:
    broken = method("dsl", {"ankle": [None, 0.5], "hip": [0.25, 0.75]})
    assert row([broken], "dsl", "ankle")["dice_mean"] == 50
    absent = row([INDIVIDUAL, Method("att_unet", "shared", "none", ("ankle",), {})], "shared", "ankle")
    assert absent["folds"] == 0
    assert {absent[name] for name in ("dice_mean", "dice_std", "dice_difference", "worst_site")} == {None}
    print_comparison([broken, Method("att_unet", "shared", "none", ("ankle",), {})], Console(quiet=True))


def test_a_method_that_is_tested_on_no_site_has_no_mean() -> None:
    nowhere = Method("att_unet", "transfer_knee", "none", (), {0: {}})
    assert nowhere.dice(nowhere.sites) == {0: None}


def test_the_papers_figures_stand_beside_like_only() -> None:
    assert row([INDIVIDUAL, DSL], "dsl", "ankle")["paper_dice_mean"] == 90.6
    assert row([INDIVIDUAL, DSL], "dsl", "hip")["paper_dice_mean"] is None
    for weights, figure in (("none", None), ("imagenet", 93.4)):
        trained = method("shared_mjap", {"ankle": [0.5]}, weights, "dense_unet")
        own = row([trained], "shared_mjap", "ankle")
        assert (own["paper_dice_mean"], own["encoder_weights"]) == (figure, weights)


def test_the_printed_table_says_how_an_encoder_began(tmp_path: Path) -> None:
    methods = [INDIVIDUAL, DSL, method("dsl", {"ankle": [0.5]}, "imagenet", "dense_unet")]
    with open(tmp_path / "printed", "w", encoding="utf-8") as file:
        print_comparison(methods, Console(file=file, width=100))
    text = (tmp_path / "printed").read_text(encoding="utf-8")
    assert "att_unet, not pre-trained: Dice in %" in text
    assert "dense_unet, encoder from imagenet: Dice in %" in text
    assert "60.0 ± 10.0" in text
    assert "hip 70.0" in text
    # Means of both sites: 71, 80.5 and 85 against 75, 75 and 67.5.
    assert "+6.3" in text


@pytest.mark.parametrize("experiment", ["table2", "table3"])
def test_a_table_of_finished_runs_is_written_without_making_any(tmp_path: Path, experiment: str) -> None:
    sites = "sites={ankle: /nowhere, knee: /nowhere, shoulder: /nowhere}"
    words = [f"experiment={experiment}", sites, "study.networks=[att_unet]", "study.folds=[0,1]"]
    config = compose("simulate", words)
    planned = plan_runs(config, {"att_unet": compose_network(words, "att_unet")}, tmp_path)
    for place, run in enumerate(planned):
        finish(run, dice=0.5 + 0.01 * place)
    summary = simulate(config, tmp_path, Console(quiet=True), words)
    with open(tmp_path / f"{experiment}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (len(rows), {row["folds"] for row in rows}) == ({"table2": 30, "table3": 9}[experiment], {"2"})
    assert {row["table"] for row in rows} == {experiment[-1]}
    assert not any(row["strategy"] == f"transfer_{row['joint']}" for row in rows)
    first = rows[0]
    half = len(planned) // 2  # runs of one fold
    assert (first["joint"], first["strategy"]) == ("ankle", "individual")
    assert float(first["dice_mean"]) == pytest.approx(50 + half / 2)
    assert float(first["dice_std"]) == pytest.approx(half / np.sqrt(2), abs=1e-3)
    assert float(first["paper_dice_mean"]) == 88.2
    assert len(summary["rows"]) == len(rows)
