"""How many images of a site methods saw: counted by hand, told beside their scores, and warned of where they are not as many."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from finished_runs import finish
from rich.console import Console
from tiny_sites import SITES, run_words, write_sites

from mtmd_core.config_files import compose
from mtmd_core.durable import write_json
from simulation import centralised, federated
from simulation.command import simulate
from simulation.data import load_sites
from simulation.images import unequal_images
from simulation.runs import SUMMARY
from simulation.study import compose_network, plan_runs


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sites(tmp_path_factory.mktemp("sites"), exams=5)


@pytest.mark.parametrize(
    ("words", "expected"),
    [  # batch 6, three sites of 3 training exams with 6 slices each
        (("mode=centralised", "strategy=individual"), [36, 36, 36]),  # 6 steps
        (("mode=centralised", "strategy=dsl"), [12, 12, 12]),
        (("mode=centralised", "strategy=shared"), [12, 12, 12]),
        (("mode=centralised", "strategy=transfer_knee"), [36, 36, 36]),
        (("mode=centralised", "strategy=individual", "training.steps=null", "training.epochs=2"), [36, 36, 36]),
        (("mode=centralised", "strategy=dsl", "training.steps=null", "training.epochs=2"), [36, 36, 36]),
        (("strategy=individual",), [36, 36, 36]),  # 3 rounds of 2 steps
        (("strategy=dsl_mjap",), [12, 12, 12]),
        (("strategy=individual", "federation.local_epochs=2"), [108, 108, 108]),  # 18 slices, twice in each of 3 rounds
        (("strategy=dsl", "federation.local_epochs=2"), [108, 108, 108]),
    ],
)
def test_images_are_counted(words: tuple[str, ...], expected: list[int], folders: dict[str, Path]) -> None:
    cache = f"data.cache_dir='{next(iter(folders.values())).parent / 'cache'}'"
    config = compose("simulate", run_words(folders, cache, "autoencoder.batch_size=6", *words))
    count = (centralised if config.mode == "centralised" else federated).images_of_sites
    assert count(config, load_sites(config)) == dict(zip(SITES, expected, strict=True))


def test_a_site_that_is_not_always_asked_sees_fewer(folders: dict[str, Path]) -> None:
    """Two of three sites a round, in four rounds of two steps."""
    words = ("strategy=dsl", "federation.participation=0.67", "federation.rounds=4")
    cache = f"data.cache_dir='{next(iter(folders.values())).parent / 'cache'}'"
    config = compose("simulate", run_words(folders, cache, *words))
    counts = federated.images_of_sites(config, load_sites(config))
    assert sorted(counts.values()) == [8, 12, 12]


def test_only_what_is_not_as_many_is_warned_of() -> None:
    assert unequal_images({}) is unequal_images({"dsl": None, "shared": 100}) is None
    assert unequal_images({"individual": 102, "dsl": 100}) is None
    text = unequal_images({"dsl": 100, "individual": 300, "shared": 110})
    assert text.startswith("individual saw 3.0 times as many images of a site as dsl, ")
    assert all(word in text for word in ("training.epochs", "federation.local_epochs", "experiment=ladder"))


@pytest.mark.parametrize(("alone", "warned"), [(300, True), (104, False)])
def test_a_study_tells_images_beside_scores(alone: int, warned: bool, tmp_path: Path) -> None:
    """On the terminal, in the table and on the page; a run that an older version made has none."""
    sites = "sites={ankle: /nowhere, knee: /nowhere, shoulder: /nowhere}"
    words = ["experiment=study", sites, "study.strategies=[individual,dsl,shared]", "study.folds=[0,1]"]
    config = compose("simulate", words)
    for run in plan_runs(config, {"att_unet": compose_network(words, "att_unet")}, tmp_path):
        summary = finish(run)
        count = {"individual": alone, "dsl": 100}.get(run.key.strategy)
        if count is not None:
            images = {"ankle": count, "knee": count + 10 * run.key.fold, "shoulder": count}
            write_json(run.folder / SUMMARY, summary | {"images": images})
    with open(tmp_path / "printed", "w+", encoding="utf-8") as printed:
        simulate(replace(config), tmp_path, Console(file=printed, width=200), words)
        text = Path(printed.name).read_text(encoding="utf-8")
    with open(tmp_path / "study.csv", encoding="utf-8", newline="") as file:
        seen = {(row["strategy"], row["joint"]): row["images_a_site"] for row in csv.DictReader(file)}
    assert (seen["dsl", "ankle"], seen["dsl", "knee"], seen["individual", "ankle"]) == ("100", "105", str(alone))
    assert seen["shared", "ankle"] == ""
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "images a site" in text
    for shown in (text, page):
        assert ("times as many images of a site as dsl" in shown) is warned
    assert '<data value="102">102</data>' in page  # of dsl, both folds and all sites
