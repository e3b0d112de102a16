"""``report.html`` of runs, studies and runs side by side."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from finished_runs import finish
from page_checks import check_page
from rich.console import Console
from tiny_sites import run_words, write_sites

from mtmd_core.config_files import compose, save_config
from mtmd_core.errors import ConfigurationError
from simulation.command import simulate
from simulation.contenders import Contender, curve, validation_curve
from simulation.progress import VALIDATION_DICE
from simulation.report import report
from simulation.study import compose_network, plan_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A federated and a centralised run of one strategy over the same sites."""
    place = tmp_path_factory.mktemp("runs")
    folders = write_sites(place / "sites")
    for mode in ("federated", "centralised"):
        words = run_words(folders, f"data.cache_dir='{place / 'cache'}'", f"mode={mode}")
        simulate(compose("simulate", words), place / mode, Console(quiet=True))
    return {mode: place / mode for mode in ("federated", "centralised")}


@pytest.mark.parametrize("mode", ["federated", "centralised"])
def test_a_run_ends_with_a_page_whose_numbers_are_in_its_summary(runs: dict[str, Path], mode: str) -> None:
    page = (runs[mode] / "report.html").read_text(encoding="utf-8")
    summary = json.loads((runs[mode] / "summary.json").read_text(encoding="utf-8"))
    check_page(page, summary)
    for word in ("knee_exam_0", "ankle_bone_3", "Training loss", "Validation Dice", "torch", "federation.rounds"):
        assert word in page
    assert f'value="{summary["sites"]["knee"]["foreground_mean"]["assd_mm"]!r}"' in page
    assert "not finished" not in page
    exams = summary["data"]["knee"]["exams"]
    assert [exam["part"] for exam in exams] == ["test", "validation", "train", "train"]
    assert summary["data"]["knee"]["slices"] == {"train": 12, "validation": 6, "test": 6}


@pytest.mark.parametrize("mode", ["federated", "centralised"])
def test_a_run_says_how_alike_its_sites_representations_are(runs: dict[str, Path], mode: str) -> None:
    summary = json.loads((runs[mode] / "summary.json").read_text(encoding="utf-8"))
    page = (runs[mode] / "report.html").read_text(encoding="utf-8")
    lines = summary["similarities"]
    assert {line["scale"] for line in lines} == {f"s{number}" for number in range(1, 10)}
    assert len(lines) == 9 * (3 + 3)
    for line in lines:  # of pairs drawn, and of all there are
        assert line["mean"] == pytest.approx(line["from_means"], abs=0.02)
    assert "within knee" in page
    if mode == "federated":  # dsl sends no prototypes
        assert "sends no prototypes" in page
        between = [line for line in lines if line["domain"] != line["other_domain"]]
        told = [line for line in summary["prototypes"]["lines"] if line["domain"] != line["other_domain"]]
        assert [line["mean"] for line in told] == [line["from_means"] for line in between]
    else:
        assert "prototypes tell" not in page


def test_what_released_prototypes_tell_is_held_against_pooled_pairs(tmp_path: Path) -> None:
    folders = write_sites(tmp_path / "sites", exams=5, slices=18)  # just enough for a prototype
    words = run_words(folders, "mode=federated", "strategy=dsl_msc", "data.slice_size=32", "federation.rounds=2")
    summary = simulate(compose("simulate", words), tmp_path / "run", Console(quiet=True))
    told = summary["prototypes"]
    assert told["rounds"] == dict.fromkeys(folders, 2)
    pooled = {(own["scale"], own["domain"], own["other_domain"]): own["mean"] for own in summary["similarities"]}
    for line in told["lines"]:
        own = pooled[line["scale"], line["domain"], line["other_domain"]]
        assert line["minus_pooled"] == pytest.approx(line["mean"] - own, abs=2e-6)
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    check_page(page, json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8")))
    assert "prototypes of round 2" in page
    assert "minus the mean of pooled pairs" in page


def test_a_run_that_was_interrupted_has_a_page_that_says_so(runs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.yaml", "facts.json"):
        (tmp_path / name).write_text((runs["federated"] / name).read_text(encoding="utf-8"))
    lines = (runs["federated"] / "round_metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "round_metrics.jsonl").write_text("".join(lines[:5])[:-20])
    page = report([tmp_path]).read_text(encoding="utf-8")
    assert "This run is not finished" in page
    assert "Training loss" in page
    assert "knee_exam_0" in page
    assert not (tmp_path / "summary.json").exists()  # the run can still be gone on with


def test_two_runs_lie_side_by_side(runs: dict[str, Path], tmp_path: Path) -> None:
    page = report(list(runs.values()), tmp_path / "both").read_text(encoding="utf-8")
    content = json.loads((tmp_path / "both" / "summary.json").read_text(encoding="utf-8"))
    check_page(page, content)
    assert [method["title"] for method in content["methods"]] == ["dsl, federated", "dsl, centralised"]
    own, other = (
        json.loads((runs[m] / "summary.json").read_text(encoding="utf-8")) for m in ("centralised", "federated")
    )
    by_site = {line["site"]: line for line in content["differences"]}
    dice = {
        s: 100 * (own["sites"][s]["foreground_mean"]["dice"] - other["sites"][s]["foreground_mean"]["dice"])
        for s in own["sites"]
    }
    assert by_site["knee"]["mean"] == pytest.approx(dice["knee"], abs=1e-3)
    assert by_site["mean of sites"]["mean"] == pytest.approx(np.mean(list(dice.values())), abs=1e-3)
    assert (by_site["mean of sites"]["pairs"], by_site["mean of sites"]["over"]) == (3, "sites")
    assert content["varying"]["mode"] == {str(folder): mode for mode, folder in runs.items()}
    assert "Cosine similarity of embeddings between sites" in page
    similarity = {(line["method"], line["scale"]): line for line in content["similarities"]}
    lines = [line for line in own["similarities"] if line["scale"] == "s5" and line["domain"] != line["other_domain"]]
    expected = np.mean([line["mean"] for line in lines])
    assert similarity["dsl, centralised", "s5"]["between"] == pytest.approx(expected, abs=1e-6)


def test_a_study_compares_over_folds_and_counts_what_is_missing(tmp_path: Path) -> None:
    strategies = {"individual": 0.5, "dsl": 0.6}
    words = [
        *("experiment=study", "sites={ankle: /nowhere, knee: /nowhere}", "training.batch_size=6"),
        *("study.networks=[att_unet]", "study.strategies=[individual,dsl]", "study.folds=[0,1,2]"),
    ]
    config = compose("simulate", words)
    for run in plan_runs(config, {"att_unet": compose_network(words, "att_unet")}, tmp_path):
        finish(run, strategies[run.key.strategy] + 0.01 * run.key.fold * (run.key.strategy == "dsl"))
    simulate(config, tmp_path, Console(quiet=True), words)
    page, content = (
        (tmp_path / "report.html").read_text(encoding="utf-8"),
        json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")),
    )
    check_page(page, content)
    (mean,) = [line for line in content["differences"] if line["site"] == "mean of sites"]
    reach = 4.302653 * 1.0 / 3**0.5  # Student's t of two degrees of freedom, deviation of 10, 11, 12
    assert [mean[word] for word in ("mean", "low", "high")] == pytest.approx([11, 11 - reach, 11 + reach], abs=1e-3)
    dice = {line["method"]: line for line in content["slice_statistics"] if line["metric"] == "dice"}
    assert (dice["dsl"]["slices"], dice["dsl"]["significant"]) == (72, True)
    assert dice["individual"]["normality_p"] < 0.01

    (tmp_path / "runs/att_unet/dsl/fold_2/summary.json").unlink()
    (tmp_path / "summary.json").unlink()
    assert "This study is not finished" in report([tmp_path]).read_text(encoding="utf-8")


def test_methods_of_two_studies_keep_apart_and_to_their_own_study(tmp_path: Path) -> None:
    """Each against the sites alone of its own learning rate."""
    dice = {("one", "individual"): 0.5, ("one", "dsl"): 0.6, ("two", "individual"): 0.8, ("two", "dsl"): 0.7}
    for study, rate in (("one", "5e-4"), ("two", "1e-3")):
        words = [
            *("experiment=study", "sites={ankle: /nowhere, knee: /nowhere}", "training.batch_size=6"),
            *("study.strategies=[individual,dsl]", "study.folds=[0,1]", f"training.learning_rate={rate}"),
        ]
        config = compose("simulate", words)
        for run in plan_runs(config, {"att_unet": compose_network(words, "att_unet")}, tmp_path / study):
            finish(run, dice[study, run.key.strategy])
        save_config(config, tmp_path / study / "config.yaml")
    page = report([tmp_path / "one", tmp_path / "two"], tmp_path / "page")
    content = json.loads((page.parent / "summary.json").read_text(encoding="utf-8"))
    titles = [f"{strategy} ({study})" for study in ("one", "two") for strategy in ("individual", "dsl")]
    assert sorted(method["title"] for method in content["methods"]) == sorted(titles)
    differences = {
        (line["method"], line["reference"]): line["mean"]
        for line in content["differences"]
        if line["site"] == "mean of sites"
    }
    assert differences == {
        ("dsl (one)", "individual (one)"): pytest.approx(10),
        ("dsl (two)", "individual (two)"): pytest.approx(-10),
        ("individual (two)", "individual (one)"): pytest.approx(30),
    }


def test_a_site_that_a_method_is_not_tested_on_has_a_dash(tmp_path: Path) -> None:
    """A transfer is not tested on its source; one fold, so no deviation either."""
    words = [
        *("experiment=study", "sites={ankle: /nowhere, knee: /nowhere}", "training.batch_size=6"),
        *("study.networks=[att_unet]", "study.strategies=[transfer,individual]", "study.folds=[0]"),
    ]
    config = compose("simulate", words)
    for run in plan_runs(config, {"att_unet": compose_network(words, "att_unet")}, tmp_path):
        finish(run)
    simulate(config, tmp_path, Console(quiet=True), words)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    content = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    check_page(page, content)
    order = [method["title"] for method in content["methods"]]
    assert order == ["transfer_ankle", "transfer_knee", "individual"]  # the study's
    assert list(content["methods"][0]["sites"]) == ["knee"]
    assert re.search(r'transfer_ankle</th><td class="n">–</td><td class="n"><data value="0.5">', page)
    assert "±" not in page.partition("<main>")[2].partition("Mean ± sample")[0]


def test_a_page_elsewhere_leaves_results_alone_and_finds_the_runs_pages(runs: dict[str, Path], tmp_path: Path) -> None:
    before = (runs["federated"] / "summary.json").read_bytes()
    for folders in ([runs["federated"]], list(runs.values())):
        with pytest.raises(ConfigurationError, match="whose own results must stay"):
            report(folders, runs["federated"])
    assert (runs["federated"] / "summary.json").read_bytes() == before
    study = tmp_path / "study"
    for place, mode in enumerate(runs):
        shutil.copytree(runs[mode], study / f"runs/att_unet/dsl_{place}/fold_0")
    save_config(compose("simulate", ["experiment=study"]), study / "config.yaml")
    report([study], tmp_path / "elsewhere")
    page = (tmp_path / "elsewhere" / "report.html").read_text(encoding="utf-8")
    links = [link for link in re.findall('href="([^"#]+)"', page) if link.endswith(".html")]
    assert links
    assert all((tmp_path / "elsewhere" / link).is_file() for link in links)


def test_one_folder_under_two_names_is_one_method(runs: dict[str, Path], tmp_path: Path) -> None:
    same = runs["federated"] / ".." / runs["federated"].name
    summary = report([runs["federated"], same], tmp_path).with_name("summary.json")
    assert len(json.loads(summary.read_text(encoding="utf-8"))["methods"]) == 1


def test_a_damaged_summary_is_named(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["federated"], tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"run/summary\.json is damaged .* remove it"):
        report([tmp_path / "run"])


def test_pictures_in_a_folder_are_on_its_page_with_their_captions(runs: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(runs["federated"], tmp_path / "run")
    (copy / "figures").mkdir()
    (copy / "figures/maps.png").write_bytes(b"\x89PNG")
    (copy / "figures/captions.json").write_text(json.dumps({"maps.png": "Maps <of> slices"}))
    page = report([copy]).read_text(encoding="utf-8")
    assert '<img src="data:image/png;base64,iVBORw==" alt="Maps &lt;of&gt; slices">' in page
    check_page(page, json.loads((copy / "summary.json").read_text(encoding="utf-8")))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"holds no run \(config.yaml is missing\)"):
        report([tmp_path])


def test_validation_of_a_federation_is_drawn_over_steps_and_only_where_all_sites_measured() -> None:
    dice = "validation/foreground_mean/dice"
    lines = [{"round": 1, "site": site, "steps": 5} for site in "ab"]
    lines += [{"round": 2, "site": s, "steps": 5, "validated_round": 1, dice: d} for s, d in (("a", 0.2), ("b", 0.4))]
    lines += [{"round": 3, "site": "a", "steps": 5, "validated_round": 2, dice: 0.9}]
    assert validation_curve(lines) == [(5, pytest.approx(0.3))]


def test_folds_whose_rounds_are_of_unlike_length_are_one_curve() -> None:
    def run(steps: int, dice: Sequence[float]) -> tuple[Path, dict]:
        lines = [
            {"site": "knee", "round": n, "step": steps * n, VALIDATION_DICE: value} for n, value in enumerate(dice, 1)
        ]
        return Path(), {"round_metrics": lines}

    contender = Contender("dsl", {0: run(10, (0.2, 0.4, 0.5)), 1: run(14, (0.4, 0.8)), 2: (Path(), {})})
    assert curve(contender) == [(12, pytest.approx(0.3)), (24, pytest.approx(0.6))]


def test_a_validation_that_one_fold_lacks_moves_no_other() -> None:
    def run(rounds: Sequence[int]) -> tuple[Path, dict]:
        own = {round_: {VALIDATION_DICE: round_ / 10, "validated_round": round_} for round_ in rounds}
        lines = [{"site": "knee", "round": n, "steps": 10} | own.get(n - 1, {}) for n in range(1, 5)]
        return Path(), {"round_metrics": lines}

    contender = Contender("dsl", {0: run((1, 2, 3)), 1: run((2, 3))})
    assert curve(contender) == [(20, pytest.approx(0.2)), (30, pytest.approx(0.3))]
