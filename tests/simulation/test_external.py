"""Finished runs on exams that they have not seen: whose network scores what, and against whom it is held."""

import csv
import json
from pathlib import Path

import pytest
from page_checks import check_page
from rich.console import Console
from tiny_sites import SITES, run_words, write_sites

from mtmd_core.config_files import compose
from mtmd_core.errors import ConfigurationError
from simulation.command import simulate
from simulation.data import load_sites
from simulation.runs import run

RUNS = {
    "local": ("strategy=individual", "mode=federated"),
    "dsl_2": ("strategy=dsl", "mode=federated"),
    "dsl_pooled": ("strategy=dsl", "mode=centralised"),
    "transfer_knee": ("strategy=transfer_knee", "mode=centralised"),
}
"""Method → words."""
SHORT = ("federation.rounds=1", "training.steps=2", "training.validate_every_steps=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four methods, two of them in two folds, and other exams of the same sites."""
    place = tmp_path_factory.mktemp("external")
    folders = write_sites(place / "sites")
    write_sites(place / "others", exams=2, slices=7)
    for method, words in RUNS.items():
        for fold in (0, 1) if "dsl" in method else (0,):
            more = (*words, *SHORT, f"fold={fold}", f"data.cache_dir='{place / 'cache'}'")
            config = compose("simulate", run_words(folders, *more))
            run(config, load_sites(config), place / f"study/runs/att_unet/{method}/fold_{fold}", Console(quiet=True))
    return place


def words_of(place: Path, sites: str | None = None, *more: str) -> list[str]:
    sites = sites or ", ".join(f"{site}: '{place / 'others' / site}'" for site in SITES)
    cache = f"data.cache_dir='{place / 'cache'}'"
    return ["experiment=external", f"study.folder='{place / 'study'}'", f"sites={{{sites}}}", cache, *more]


def test_methods_are_scored_on_the_other_exams(place: Path, tmp_path: Path) -> None:
    words = words_of(place)
    summary = simulate(compose("simulate", words), tmp_path, Console(quiet=True), words)
    with open(tmp_path / "external.csv", encoding="utf-8", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == sorted(RUNS) == [row["method"] for row in summary["rows"]]
    assert {name: (row["folds"], row["exams"]) for name, row in rows.items()} == {
        "local": ("1", "6"), "dsl_2": ("2", "6"), "dsl_pooled": ("2", "6"), "transfer_knee": ("1", "4")
    }  # fmt: skip
    by_exam = json.loads((tmp_path / "external.json").read_text(encoding="utf-8"))

    def mean(method: str, fold: int) -> float:
        sites = by_exam[f"att_unet {method}"][str(fold)]
        assert {site: list(dice) for site, dice in sites.items()} == {
            site: [f"{site}_exam_0", f"{site}_exam_1"] for site in SITES
        }
        return 100 * sum(sum(dice.values()) / 2 for dice in sites.values()) / 3

    pooled, federated = ([mean(method, fold) for fold in (0, 1)] for method in ("dsl_pooled", "dsl_2"))
    row = rows["dsl_2"]
    assert float(row["dice_mean"]) == pytest.approx(sum(federated) / 2, abs=1e-4)
    assert float(row["minus_alone"]) == pytest.approx(federated[0] - mean("local", 0), abs=1e-4)  # the fold of both
    assert float(row["minus_pooled"]) == pytest.approx((sum(federated) - sum(pooled)) / 2, abs=1e-4)
    assert rows["local"]["minus_alone"] == rows["dsl_pooled"]["minus_pooled"] == rows["local"]["minus_pooled"] == ""
    assert rows["transfer_knee"]["knee_dice_mean"] == ""  # it is not tested on what it began with
    assert rows["transfer_knee"]["ankle_dice_mean"] != ""
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    check_page(page, json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")))


def test_a_run_scores_an_exam_as_its_own_test_does(place: Path, tmp_path: Path) -> None:
    """The exams that fold 0 held back, from another folder: the same scores as in the run's own summary."""
    folders = write_sites(tmp_path / "again")
    words = words_of(place, ", ".join(f"{site}: '{folder}'" for site, folder in folders.items()))
    simulate(compose("simulate", words), tmp_path / "out", Console(quiet=True), words)
    by_exam = json.loads((tmp_path / "out/external.json").read_text(encoding="utf-8"))
    for method in ("local", "dsl_2", "dsl_pooled"):
        text = (place / f"study/runs/att_unet/{method}/fold_0/summary.json").read_text(encoding="utf-8")
        own = json.loads(text)["sites"]
        for site in SITES:
            test = own[site]["split"]["test"]
            assert by_exam[f"att_unet {method}"]["0"][site][test[0]] == own[site]["foreground_mean"]["dice"]


def test_what_says_nothing_is_refused(place: Path, tmp_path: Path) -> None:
    bones = write_sites(tmp_path / "bones", exams=2, sites={"knee": 3})
    trained, none = f"knee: '{place / 'sites/knee'}'", f"hip: '{place / 'others/knee'}'"
    cases = (
        (["experiment=external"], "give study.folder=DIR"),
        (words_of(place, trained), "is what att_unet dsl_2 fold 0 was trained on"),
        (
            words_of(place, f"knee: '{bones['knee']}'"),
            "knows knee_bone_1, knee_bone_2 at knee, .* has knee_bone_1, .*3",
        ),
        (words_of(place, none), "knows none of the sites hip"),
        (
            ["experiment=external", f"study.folder='{place / 'study'}'", "phantoms.seed=0"],
            "phantoms.seed is 0, that of",
        ),
    )
    for words, text in cases:
        with pytest.raises(ConfigurationError, match=text):
            simulate(compose("simulate", words), tmp_path / "out", Console(quiet=True), words)
