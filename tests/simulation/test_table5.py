"""Table 5 from tiny runs: embeddings are those that evaluation sees, and their similarities those of all pairs."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_sites import SITES, run_words, write_sites

from mtmd_core.config_files import compose
from mtmd_core.errors import ConfigurationError
from mtmd_core.models import load_model
from mtmd_core.representations import PAIRS, SCALES
from simulation.command import simulate
from simulation.data import load_sites
from simulation.experiments.table5 import Similarity, has_row, together
from simulation.runs import run
from simulation.study import PlannedRun, compose_network, plan_runs
from simulation.trained import ALL_SITES, network_file


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sites(tmp_path_factory.mktemp("sites"))


@pytest.fixture(scope="module")
def study(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder with all its runs: shared and dsl_msc, two folds."""
    out = tmp_path_factory.mktemp("study")
    for planned in plan(folders, out):
        run(planned.config, load_sites(planned.config), planned.folder, Console(quiet=True))
    return out


def words(folders: dict[str, Path], folder: Path) -> list[str]:
    return [
        *run_words(folders, f"data.cache_dir='{folder.parent / 'cache'}'"),
        *("experiment=table5", "study.strategies=[shared,dsl_msc]", "study.folds=[0,1]"),
    ]


def plan(folders: dict[str, Path], folder: Path) -> list[PlannedRun]:
    own = words(folders, folder)
    return plan_runs(compose("simulate", own), {"att_unet": compose_network(own, "att_unet")}, folder)


def table5(folders: dict[str, Path], folder: Path, console: Console | None = None) -> list[dict[str, str]]:
    own = words(folders, folder)
    simulate(compose("simulate", own), folder, console or Console(quiet=True), own)
    with open(folder / "table5.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def printed(folders: dict[str, Path], study: Path) -> Iterator[tuple[list[dict[str, str]], str]]:
    """The table's rows, and what it prints."""
    with open(study.parent / "printed", "w+", encoding="utf-8") as file:
        rows = table5(folders, study, Console(file=file, width=160))
        file.seek(0)
        yield rows, file.read()


def all_embeddings(planned: PlannedRun, site: str, scale: int) -> np.ndarray:
    """By another way: all training and validation slices at once through the network in evaluation mode, [n, E]."""
    network, card = load_model(network_file(planned.folder, ALL_SITES))
    data = load_sites(planned.config)[site]
    test = list(data.exams)[planned.key.fold]
    images = torch.cat([torch.from_numpy(exam.images.copy()) for name, exam in data.exams.items() if name != test])
    with torch.no_grad():
        output = network(images[:, None], {card.site(site).space.domain: len(images)}, embeddings=True)
    return output.embeddings[scale].double().numpy()


def test_every_scale_and_every_two_domains_have_a_row(printed) -> None:
    rows, text = printed
    pairs = [(site, site) for site in SITES] + list(itertools.combinations(SITES, 2))
    assert [(row["strategy"], row["scale"], row["domain"], row["other_domain"]) for row in rows] == [
        (strategy, scale, *pair) for strategy in ("shared", "dsl_msc") for scale in SCALES for pair in pairs
    ]
    assert {(row["folds"], row["pairs"]) for row in rows} == {("2", str(2 * PAIRS))}
    assert "4 runs, 4 of them already finished" in text
    for line in ("between > 0.58, ± > 0.06", "within > 0.98", "between < 0.34", "between > 0.39, < 0.47"):
        assert line in text


@pytest.mark.parametrize(("strategy", "scale"), [("shared", 4), ("dsl_msc", 0), ("dsl_msc", 8)])
def test_similarities_are_those_of_all_slices_that_do_not_test(
    folders: dict[str, Path], study: Path, printed, strategy: str, scale: int
) -> None:
    """Mean and deviation over all pairs of both folds, those within without any slice's pair with itself."""
    runs = [planned for planned in plan(folders, study) if planned.key.strategy == strategy]
    for row in printed[0]:
        if (row["strategy"], row["scale"]) != (strategy, SCALES[scale]):
            continue
        values = []
        for planned in runs:
            one, other = (all_embeddings(planned, row[column], scale) for column in ("domain", "other_domain"))
            similarity = one @ other.T
            same = row["domain"] == row["other_domain"]
            values.append(similarity[~np.eye(len(one), dtype=bool)] if same else similarity.ravel())
        together = np.concatenate(values)
        assert float(row["expected_mean"]) == pytest.approx(together.mean(), abs=1e-4)
        assert float(row["similarity_mean"]) == pytest.approx(together.mean(), abs=5e-3)
        assert float(row["similarity_std"]) == pytest.approx(together.std(), abs=5e-3)


def test_the_papers_limits_stand_beside_its_own_scales_alone(printed) -> None:
    limits = {
        (row["strategy"], row["scale"]): (row["paper_mean_above"], row["paper_mean_below"], row["paper_std_above"])
        for row in printed[0]
        if row["domain"] != row["other_domain"]
    }
    assert {key: value for key, value in limits.items() if any(value)} == {
        **{("shared", scale): ("0.58", "", "0.06") for scale in ("s1", "s5", "s9")},
        **{("dsl_msc", scale): ("", "0.34", "") for scale in ("s1", "s5")},
        ("dsl_msc", "s9"): ("0.39", "0.47", ""),
    }


def test_a_run_whose_networks_were_removed_is_named(folders: dict[str, Path], study: Path) -> None:
    file = network_file(plan(folders, study)[0].folder, ALL_SITES)
    content = file.read_bytes()
    file.unlink()
    try:
        with pytest.raises(
            ConfigurationError, match=r"shared/fold_0/models/ankle.safetensors is missing.*make it again"
        ):
            table5(folders, study)
    finally:
        file.write_bytes(content)


def test_folds_are_put_together_as_their_pairs_would_be() -> None:
    random = np.random.default_rng(0)
    folds = [random.normal(mean, deviation, count) for mean, deviation, count in ((0.2, 0.1, 50), (0.5, 0.3, 150))]
    found = together(Similarity(len(own), own.mean(), own.std(), own.mean()) for own in folds)
    pooled = np.concatenate(folds)
    assert (found.pairs, found.mean, found.deviation) == pytest.approx((200, pooled.mean(), pooled.std()))


def test_networks_that_share_nothing_have_no_row() -> None:
    assert [
        name for name in ("individual", "transfer_knee", "shared", "dsl", "dsl_ssc") if has_row("att_unet", name)
    ] == [
        "shared",
        "dsl",
        "dsl_ssc",
    ]
