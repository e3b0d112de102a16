"""``mtmd-simulate`` from the words of its command line to the files it leaves."""

import io
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_sites import SITES, run_words, write_sites
from volumes import write_description

from mtmd_core.config_files import compose
from mtmd_core.data.dataset import load_dataset
from mtmd_core.errors import ConfigurationError, DataError
from mtmd_core.models import load_model
from mtmd_core.processes import in_turn
from mtmd_core.tensor_files import load_tensors
from simulation.command import simulate
from simulation.data import make_phantoms, phantom_folders
from simulation.experiments import phantoms
from simulation.found_runs import find_runs


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sites(tmp_path_factory.mktemp("sites"))


def run(folders: dict[str, Path], folder: Path, *words: str) -> dict:
    words = run_words(folders, f"data.cache_dir='{folder.parent / 'cache'}'", *words)
    return simulate(compose("simulate", words), folder, Console(quiet=True))


@pytest.fixture(scope="module")
def plain(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with no further words: dsl, federated, seed 0."""
    folder = tmp_path_factory.mktemp("plain") / "out"
    run(folders, folder)
    return folder


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "round_metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", ["federated", "centralised"])
@pytest.mark.parametrize("strategy", ["individual", "shared", "dsl"])
def test_every_strategy_trains_and_leaves_its_files(
    folders: dict[str, Path], tmp_path: Path, mode: str, strategy: str
) -> None:
    out = tmp_path / "out"
    run(folders, out, f"mode={mode}", f"strategy={strategy}")
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["mode"], summary["strategy"]) == (mode, strategy)
    assert set(summary["sites"]) == set(SITES)
    for site, structures in SITES.items():
        own = summary["sites"][site]
        assert list(own["mean"]) == [f"{site}_bone_{label}" for label in range(1, structures + 1)]
        assert [case["case"] for case in own["metric_per_case"]] == own["split"]["test"] == [f"{site}_exam_0"]
        assert own["split"]["validation"] == [f"{site}_exam_1"]
        assert 0 <= own["foreground_mean"]["dice"] <= 1
    assert summary["worst_site"]["name"] in SITES
    dice = [summary["sites"][site]["foreground_mean"]["dice"] for site in SITES]
    assert summary["mean"]["dice"] == pytest.approx(np.mean(dice))
    rounds = 3 if mode == "federated" else 2
    assert [(line["round"], line["site"]) for line in sorted(lines(out), key=lambda x: (x["round"], x["site"]))] == [
        (round_, site) for round_ in range(1, rounds + 1) for site in sorted(SITES)
    ]
    assert {path.stem for path in (out / "models").iterdir()} == (
        {"all_sites"} if mode == "centralised" and strategy != "individual" else set(SITES)
    )
    assert compose("simulate", []) != compose("simulate", run_words(folders))
    assert (out / "config.yaml").is_file()


def test_same_seed_gives_the_same_bits(folders: dict[str, Path], plain: Path, tmp_path: Path) -> None:
    run(folders, tmp_path / "again")
    first, second = (load_tensors(out / "models" / "knee.safetensors")[0] for out in (plain, tmp_path / "again"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_another_seed_gives_another_model(folders: dict[str, Path], plain: Path, tmp_path: Path) -> None:
    run(folders, tmp_path / "other", "seed=1")
    first, second = (load_tensors(out / "checkpoints" / "last.safetensors")[0] for out in (plain, tmp_path / "other"))
    assert not any(torch.equal(first[key], second[key]) for key in first)


def test_sites_share_convolutions_and_nothing_else(plain: Path) -> None:
    networks = {site: load_model(plain / "models" / f"{site}.safetensors")[0] for site in SITES}
    shared = load_tensors(plain / "checkpoints" / "chosen.safetensors")[0]
    for site, network in networks.items():
        state = network.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in shared.items())
        assert all(f"domains.{site}." in name for name in state.keys() - shared.keys())


def test_individual_training_sends_no_parameters(folders: dict[str, Path], tmp_path: Path) -> None:
    run(folders, tmp_path / "out", "strategy=individual")
    assert {(line["bytes_to_site"], line["bytes_from_site"]) for line in lines(tmp_path / "out")} == {(0, 0)}


def test_federated_individual_is_centralised_individual(folders: dict[str, Path], tmp_path: Path) -> None:
    """With nothing shared, rounds only cut the same training into pieces."""
    words = ("strategy=individual", "training.validate_every_steps=2")
    run(folders, tmp_path / "federated", "mode=federated", *words)
    run(folders, tmp_path / "centralised", "mode=centralised", *words)
    for site in SITES:
        one, other = (
            load_tensors(tmp_path / mode / "models" / f"{site}.safetensors")[0] for mode in ("federated", "centralised")
        )
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_training_learns(tmp_path: Path) -> None:
    sites = write_sites(tmp_path / "sites", sites={"knee": 1, "shoulder": 1})
    words = ("training.learning_rate=5e-3", "data.slice_size=32", "network.width=8", "training.batch_size=8")
    summary = run(sites, tmp_path / "out", *words, "federation.rounds=4", "federation.local_steps=20")
    assert summary["mean"]["dice"] > 0.5
    loss = {round_: [line["loss"] for line in lines(tmp_path / "out") if line["round"] == round_] for round_ in (1, 4)}
    assert np.mean(loss[4]) < 0.5 * np.mean(loss[1])


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (("fold=4",), ConfigurationError, "make folds 0 to 3"),
        (("training.batch_size=7",), ConfigurationError, "6 and 9"),
        (("sites={ankle: /nowhere}",), DataError, "/nowhere"),
    ],
)
def test_what_cannot_run_says_why(
    folders: dict[str, Path], tmp_path: Path, words: tuple[str, ...], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        run(folders, tmp_path / "out", *words)


def test_the_demo_compares_sites_alone_with_their_federation(folders: dict[str, Path], tmp_path: Path) -> None:
    summary = run(folders, tmp_path / "out", "experiment=demo", "federation.rounds=1", "federation.local_steps=1")
    assert list(summary["runs"]) == ["each site alone", "federation"]
    assert [run["strategy"] for run in summary["runs"].values()] == ["individual", "dsl"]
    assert (tmp_path / "out" / "predictions.png").read_bytes().startswith(b"\x89PNG")
    alone, together = (lines(tmp_path / "out" / name) for name in ("alone", "federation"))
    assert [line["steps"] for line in alone] == [line["steps"] for line in together] == [1, 1, 1]


def test_without_sites_phantom_joints_are_made_once(phantom_cache: Path) -> None:
    words = ("phantoms.exams=3", "phantoms.scale=0.06", f"data.cache_dir='{phantom_cache}'")
    config = compose("simulate", [*words])
    folders = make_phantoms(config, Console(quiet=True))
    assert {site: load_dataset(Path(folder)).structures for site, folder in folders.items()}["shoulder"] == (
        "humerus",
        "scapula",
    )
    stamps = {path: path.stat().st_mtime_ns for folder in folders.values() for path in Path(folder).rglob("*.nii.gz")}
    assert len(stamps) == 3 * 3 * 2
    assert make_phantoms(config, Console(quiet=True)) == folders
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_phantom_joint_that_is_missing_is_made_beside_the_others(phantom_cache: Path, tmp_path: Path) -> None:
    words = ("phantoms.exams=3", "phantoms.scale=0.06", f"data.cache_dir='{phantom_cache}'")
    before = make_phantoms(compose("simulate", [*words]), Console(quiet=True))
    place = Path(before["knee"]).parent
    shutil.copytree(place, tmp_path / "phantoms" / place.name)
    shutil.rmtree(tmp_path / "phantoms" / place.name / "shoulder")
    config = compose("simulate", [*words[:2], f"data.cache_dir='{tmp_path / 'slices'}'"])
    after = make_phantoms(config, Console(quiet=True))
    for joint, folder in after.items():
        for path in Path(folder).rglob("*.nii.gz"):
            assert path.read_bytes() == (Path(before[joint]) / path.relative_to(folder)).read_bytes()
    assert len(list(Path(after["shoulder"]).rglob("*.nii.gz"))) == 6


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("mode=centralised", "strategy=transfer_hip"), "takes the site 'hip', which is none of ankle, knee, shoulder"),
        (("experiment=demo", "training.batch_size=8"), "training.batch_size is 8"),
        (("experiment=demo", "training.batch_size=2"), "training.batch_size is 2"),
        (("experiment=phantoms", "strategy=dsl"), "leave strategy= and sites= out"),
        (("experiment=msc_fidelity", "strategy=dsl"), "has no contrast whose gradient"),
    ],
)
def test_what_cannot_be_done_with_phantoms_is_said_before_anything_is_trained(
    words: tuple[str, ...], text: str, phantom_cache: Path, tmp_path: Path
) -> None:
    config = compose(
        "simulate", ["phantoms.exams=3", "phantoms.scale=0.06", f"data.cache_dir='{phantom_cache}'", *words]
    )
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        simulate(config, tmp_path / "out", Console(quiet=True), words)
    assert not list((tmp_path / "out").rglob("round_metrics.jsonl"))


def test_of_two_commands_that_want_the_same_phantoms_one_makes_them(tmp_path: Path) -> None:
    config = compose("simulate", [f"data.cache_dir='{tmp_path / 'slices'}'"])
    made = phantom_folders(config)
    printed, found = io.StringIO(), []
    other = threading.Thread(target=lambda: found.append(make_phantoms(config, Console(file=printed))))
    with in_turn(Path(made["knee"]).parent):
        other.start()
        other.join(0.2)
        for folder in made.values():
            write_description(Path(folder), structures=("bone",))
    other.join()
    assert (found, printed.getvalue()) == ([made], "")


def test_the_phantoms_experiment_scores_fresh_children_under_every_scanner(
    phantom_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phantoms, "FRESH", range(1000, 1001))
    words = ("experiment=phantoms", "phantoms.exams=3", "phantoms.scale=0.06", "network.width=4", "data.slice_size=32")
    words += ("training.steps=2", "threads=1", f"data.cache_dir='{phantom_cache}'")
    summary = simulate(compose("simulate", [*words]), tmp_path / "out", Console(quiet=True))
    joints = {"ankle", "knee", "shoulder"}
    assert {joint: set(scanners) for joint, scanners in summary["dice"].items()} == dict.fromkeys(joints, joints)
    for joint in joints:
        for scanner in joints - {joint}:
            lost = summary["dice"][joint][joint] - summary["dice"][joint][scanner]
            assert summary["drop"][joint][scanner] == pytest.approx(lost)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["dice"] == summary["dice"]
    assert [run.title for run in find_runs(tmp_path / "out").finished] == ["individual, individual"]
