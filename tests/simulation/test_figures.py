"""Pictures of finished runs: which runs and exams they show, and that attention is the gate's own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from page_checks import check_page
from rich.console import Console
from tiny_sites import SITES, run_words, write_sites

from mtmd_core.config import AUTOENCODER
from mtmd_core.config_files import compose, save_config
from mtmd_core.errors import ConfigurationError
from mtmd_core.models import load_model
from simulation.command import simulate
from simulation.data import load_sites
from simulation.figures.attention import attention_map
from simulation.figures.contours import choose_exams
from simulation.found_runs import find_runs
from simulation.runs import CONFIG, SUMMARY, run
from simulation.trained import TrainedNetwork, segmentation_networks

WORDS = (
    "strategy=dsl_mjap",
    "training.steps=2",
    "autoencoder.width=4",
    "autoencoder.batch_size=6",
    "autoencoder.steps=2",
)
FEDERATED = ("mode=federated", "federation.rounds=1", "federation.autoencoder_rounds=1", "federation.local_steps=1")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one centralised and one federated run, and of a fold that was interrupted."""
    place = tmp_path_factory.mktemp("study")
    folders = write_sites(place / "sites")
    for strategy, more in (("dsl_mjap", ("mode=centralised",)), ("shared_mjap", FEDERATED)):
        words = [*WORDS, *more, f"strategy={strategy}", f"data.cache_dir='{place / 'cache'}'"]
        config = compose("simulate", run_words(folders, *words))
        run(config, load_sites(config), place / f"runs/att_unet/{strategy}/fold_0", Console(quiet=True))
    config.fold = 1
    save_config(config, place / "runs/att_unet/shared_mjap/fold_1" / CONFIG)
    return place


def test_pictures_of_what_is_finished(study: Path, tmp_path: Path) -> None:
    words = ["experiment=figures", f"study.folder='{study}'"]
    summary = simulate(compose("simulate", words), tmp_path, Console(quiet=True), words)
    assert summary["runs"] == ["att_unet shared_mjap fold 0", "att_unet dsl_mjap fold 0"]
    assert summary["unfinished"] == ["att_unet shared_mjap fold 1"]
    assert summary["pictures"] == [
        *(f"contours_att_unet_{site}.png" for site in SITES),
        "representations_att_unet.png",
        "representations_att_unet_autoencoder.png",
        "attention.png",
    ]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in summary["pictures"])


def test_runs_that_see_other_slices_are_not_drawn_side_by_side(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "runs", tmp_path / "study" / "runs")
    path = tmp_path / "study/runs/att_unet/dsl_mjap/fold_0" / CONFIG
    path.write_text(path.read_text().replace("slice_size: 16", "slice_size: 32"))
    words = ["experiment=figures", f"study.folder='{tmp_path / 'study'}'"]
    with pytest.raises(ConfigurationError, match=r"see other slices: data\.slice_size 16 and 32"):
        simulate(compose("simulate", words), tmp_path / "out", Console(quiet=True), words)
    with pytest.raises(ConfigurationError, match="every fold that is finished"):
        simulate(compose("simulate", [*words, "fold=1"]), tmp_path / "out", Console(quiet=True), [*words, "fold=1"])


def test_pictures_are_on_the_page_of_the_runs_that_they_show(study: Path, tmp_path: Path) -> None:
    """Of a federated run by itself, made with a graphics card and drawn without; into the folder that its page looks into."""
    run_folder = shutil.copytree(study / "runs/att_unet/shared_mjap/fold_0", tmp_path / "federated")
    config = (run_folder / CONFIG).read_text()
    (run_folder / CONFIG).write_text(config.replace("device: auto", "device: cuda"))
    words = ["experiment=figures", f"study.folder='{run_folder}'", "device=cpu"]
    summary = simulate(compose("simulate", words), run_folder / "figures", Console(quiet=True), words)
    assert summary["runs"] == ["att_unet shared_mjap fold 0"]
    assert {path.name for path in (run_folder / "figures").glob("*.png")} == set(summary["pictures"])
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(summary["pictures"]) == 6
    for caption in summary["captions"].values():
        assert caption in page
    check_page(page, json.loads((run_folder / "summary.json").read_text(encoding="utf-8")))


def test_runs_of_one_strategy_are_told_apart_by_where_they_lie(study: Path, tmp_path: Path) -> None:
    """Rungs of a ladder have their own names; runs anywhere else the folder's name."""
    source = study / "runs/att_unet/dsl_mjap/fold_0"
    for place in ("ladder/runs/att_unet/dsl_mjap_10/fold_0", "ladder/runs/att_unet/dsl_mjap_pooled/fold_0", "sweep/7"):
        for name in (CONFIG, SUMMARY):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, tmp_path / place / name)
    assert [own.title for own in find_runs(tmp_path / "ladder").finished] == ["dsl_mjap_10", "dsl_mjap_pooled"]
    assert [own.title for own in find_runs(tmp_path / "sweep").finished] == ["dsl_mjap, 7"]
    assert [own.title for own in find_runs(source).finished] == ["dsl_mjap"]


def test_a_federation_keeps_each_sites_auto_encoder(study: Path) -> None:
    models = study / "runs/att_unet/shared_mjap/fold_0/models"
    states = {site: load_model(models / AUTOENCODER / f"{site}.safetensors")[0].state_dict() for site in SITES}
    assert all(torch.equal(states["ankle"][name], states["knee"][name]) for name in states["ankle"] if "weight" in name)


def test_a_folder_without_the_runs_is_refused(study: Path, tmp_path: Path) -> None:
    for words, text in (
        (["experiment=figures"], "give study.folder=DIR"),
        (["experiment=figures", f"study.folder='{tmp_path}'"], "holds no finished run"),
        (["experiment=figures", f"study.folder='{study}'", "study.networks=[dense_unet]"], "none of study.networks"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            simulate(compose("simulate", words), tmp_path / "out", Console(quiet=True), words)


def test_attention_is_that_of_the_finest_gate(study: Path) -> None:
    """A gate whose last normalisation gives nothing but its shift lets sigmoid(shift) through everywhere."""
    found = find_runs(study).finished[0]
    own: TrainedNetwork = segmentation_networks(found.config, found.folder)["knee"]
    norm = own.network.gates[-1].score.norm.domains["knee"]
    with torch.no_grad():
        norm.weight.zero_()
        norm.bias.fill_(1.5)
    np.testing.assert_allclose(attention_map(own, np.ones((16, 16), np.float32)), 1 / (1 + np.exp(-1.5)), rtol=1e-6)
    assert own.network.gates[-1].coefficients is None


def test_exams_are_chosen_by_dice() -> None:
    assert choose_exams({"a": 0.3, "b": 0.1}) == {"b": "worst", "a": "best"}
    assert choose_exams({}) == {}
    five = {name: place / 10 for place, name in enumerate("edcba")}
    assert choose_exams(five) == {"e": "worst", "c": "median", "a": "best"}
