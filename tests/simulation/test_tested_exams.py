"""Differences between methods are of the exams that both were tested on, and a page says where there are none."""

import json
from pathlib import Path

import pytest
from finished_runs import SLICES, finish
from page_checks import check_page

from mtmd_core.config_files import compose
from simulation.report import report
from simulation.study import compose_network, plan_runs
from simulation.tested_exams import FinishedRun, same_exams

DICE = {"individual": 0.5, "dsl": 0.6}
ELSEWHERE = "another_exam"


def run_on(*exams: str, image: str | None = None) -> FinishedRun:
    """A run that tested these exams of the knee; ``image``: digest of each one's image, where the run noted its exams."""
    summary = {"sites": {"knee": {"metric_per_case": [{"case": exam, "metrics": {}} for exam in exams]}}}
    noted = {exam: {"image": image, "labels": "cd", "spacing_mm": [1.0] * 3} for exam in (*exams, "trains")}
    return FinishedRun(summary, {} if image is None else {"knee": noted})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (run_on("a", "b"), run_on("b", "a"), True),
        (run_on("a"), run_on("b"), False),
        (run_on("a"), run_on("a", "b"), False),
        (run_on("a", image="ab"), run_on("a", image="ab"), True),
        (run_on("a", image="ab"), run_on("a", image="ef"), False),
        (run_on("a", image="ab"), run_on("a"), True),
        (run_on(), run_on(), False),
        (FinishedRun({"sites": {"knee": {"foreground_mean": {}}}}, {}), run_on("a"), False),
    ],
    ids=["same", "another", "one more", "same image", "another image", "not noted", "none", "not told"],
)
def test_exams_are_the_same_if_their_names_are_and_nothing_contradicts_it(
    one: FinishedRun, other: FinishedRun, same: bool
) -> None:
    assert same_exams(one, other, ["knee"]) == same
    assert same_exams(one, other, []), "of no site"


def study(folder: Path, folds: int, elsewhere: dict[str, set[int]]) -> Path:
    """Finished runs on two sites; ``elsewhere``: the sites and folds whose test exam under dsl is another one."""
    words = [
        *("experiment=study", "sites={ankle: /nowhere, knee: /nowhere}", "training.batch_size=6"),
        *("study.networks=[att_unet]", "study.strategies=[individual,dsl]", f"study.folds={list(range(folds))}"),
    ]
    for run in plan_runs(compose("simulate", words), {"att_unet": compose_network(words, "att_unet")}, folder):
        summary = finish(run, DICE[run.key.strategy] + 0.01 * run.key.fold * (run.key.strategy == "dsl"))
        for site, others in elsewhere.items():
            if run.key.strategy == "dsl" and run.key.fold in others:
                summary["sites"][site]["metric_per_case"][0]["case"] = ELSEWHERE
        (run.folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder / "runs" / "att_unet"


def side_by_side(runs: Path, output: Path) -> tuple[str, dict]:
    """The page of both methods' runs, and its numbers."""
    page = report(sorted(runs.glob("*/fold_*")), output).read_text(encoding="utf-8")
    content = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    check_page(page, content)
    return page, content


def test_a_fold_whose_test_exams_differ_is_not_paired(tmp_path: Path) -> None:
    page, content = side_by_side(study(tmp_path, 3, {"knee": {1}}), tmp_path / "page")
    lines = {line["site"]: line for line in content["differences"]}
    assert {site: (line["pairs"], line["other_exams"]) for site, line in lines.items()} == {
        "ankle": (3, []), "knee": (2, [1]), "mean of sites": (2, [1]),
    }  # fmt: skip
    assert [lines[site]["mean"] for site in ("ankle", "knee")] == pytest.approx([11, 11])  # of 10, 11, 12 and 10, 12
    assert "<li>dsl against individual: knee, mean of sites, fold 1</li>" in page
    slices = {(line["method"], line["metric"]): line for line in content["slice_statistics"]}
    assert slices["dsl", "dice"]["slices"] == 2 * 3 * SLICES


def test_methods_that_no_exam_of_is_the_same_have_no_difference_and_the_page_says_why(tmp_path: Path) -> None:
    page, content = side_by_side(study(tmp_path, 2, {"ankle": {0, 1}, "knee": {0, 1}}), tmp_path / "page")
    assert [line["mean"] for line in content["differences"]] == [None, None, None]
    assert "Paired differences" not in page
    assert "No difference is given where two methods were not tested on the same exams" in page
    assert "<li>dsl against individual: ankle, knee, mean of sites, folds 0, 1</li>" in page
    assert {line["same_distribution_p"] for line in content["slice_statistics"]} == {None}


def test_of_one_fold_with_the_same_exams_sites_are_the_pairs(tmp_path: Path) -> None:
    _, content = side_by_side(study(tmp_path, 2, {"knee": {0}}), tmp_path / "page")
    (mean,) = [line for line in content["differences"] if line["site"] == "mean of sites"]
    assert (mean["pairs"], mean["over"], mean["other_exams"]) == (2, "sites", [0])
    assert mean["mean"] == pytest.approx(11)
