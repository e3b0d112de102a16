"""The paper's strategies on pooled data: what they train, and that a stopped run goes on as if it had not been."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from rich.console import Console
from tiny_sites import SITES, run_words, write_sites

from mtmd_core.config import NetworkConfig
from mtmd_core.config_files import compose
from mtmd_core.data.site_data import load_site
from mtmd_core.errors import ConfigurationError, RunFailedError
from mtmd_core.models import load_model
from mtmd_core.networks.build import build_network
from mtmd_core.objectives import Segmentation
from mtmd_core.tensor_files import load_tensors
from mtmd_core.training import Recipe
from simulation import fit
from simulation.command import simulate
from simulation.progress import VALIDATION_DICE, RunDisplay

AUTOENCODER = ("autoencoder.width=4", "autoencoder.batch_size=6", "autoencoder.steps=4")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sites(tmp_path_factory.mktemp("sites"))


def run(folders: dict[str, Path], folder: Path, *words: str) -> dict:
    cache = f"data.cache_dir='{next(iter(folders.values())).parent / 'cache'}'"
    words = run_words(folders, cache, "mode=centralised", *AUTOENCODER, *words)
    return simulate(compose("simulate", words), folder, Console(quiet=True))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "round_metrics.jsonl").read_text().splitlines()]


def model(folder: Path, name: str = "all_sites") -> dict[str, torch.Tensor]:
    return load_tensors(folder / "models" / f"{name}.safetensors")[0]


@pytest.mark.parametrize(
    ("strategy", "terms", "autoencoder_terms"),
    [
        ("shared_mjap", {"prior"}, set()),
        ("dsl_mjap", {"prior"}, set()),
        ("dsl_ssc", {"contrast"}, None),
        ("dsl_msc", {"contrast"}, None),
        ("dsl_msc_mjap", {"contrast", "prior"}, {"contrast"}),
    ],
)
def test_regularised_strategies_train_with_their_terms(
    folders: dict[str, Path], tmp_path: Path, strategy: str, terms: set, autoencoder_terms: set | None
) -> None:
    summary = run(folders, tmp_path, f"strategy={strategy}")
    assert set(summary["sites"]) == set(SITES)
    by_network = {line["network"]: line for line in lines(tmp_path)}
    assert set(by_network) == {"all_sites"} | ({"autoencoder"} if autoencoder_terms is not None else set())
    for network, expected in (("all_sites", terms), ("autoencoder", autoencoder_terms)):
        if network in by_network:
            line = by_network[network]
            for kind in ("loss", "gradient_norm"):
                found = {name.split("/")[1] for name in line if name.startswith(f"{kind}/")}
                assert found == {"cross_entropy"} | expected
            assert line["loss"] == pytest.approx(sum(v for name, v in line.items() if name.startswith("loss/")))
            assert all(v > 0 for name, v in line.items() if name.startswith("gradient_norm/"))
            assert 0 <= line["validation/foreground_mean/dice"] <= 1
    assert len(lines(tmp_path)) == 3 * (2 + 2 * (autoencoder_terms is not None))


def test_a_prior_trained_before_can_be_given(folders: dict[str, Path], tmp_path: Path) -> None:
    run(folders, tmp_path / "first", "strategy=dsl_mjap")
    path = tmp_path / "first" / "models" / "autoencoder.safetensors"
    again = run(folders, tmp_path / "second", "strategy=dsl_mjap", f"autoencoder.model='{path}'")
    assert set(again["sites"]) == set(SITES)
    assert {line["network"] for line in lines(tmp_path / "second")} == {"all_sites"}
    one, other = model(tmp_path / "first"), model(tmp_path / "second")
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ConfigurationError, match="the same sites, structures and sharing"):
        run(folders, tmp_path / "third", "strategy=shared_mjap", f"autoencoder.model='{path}'")
    others = write_sites(tmp_path / "others", sites={"elbow": 2, "wrist": 4}, exams=3)  # as many structures in all
    union = tmp_path / "union"
    run(folders, union, "strategy=shared_mjap", "training.steps=3", "autoencoder.steps=3")
    of_union = f"autoencoder.model='{union / 'models' / 'autoencoder.safetensors'}'"
    with pytest.raises(ConfigurationError, match=r"made for ankle \(ankle_bone_1, .*; this run has elbow \("):
        run(others, tmp_path / "elsewhere", "strategy=shared_mjap", of_union)
    network = tmp_path / "first" / "models" / "all_sites.safetensors"
    with pytest.raises(ConfigurationError, match="holds a att_unet, not an auto-encoder"):
        run(folders, tmp_path / "fourth", "strategy=dsl_mjap", f"autoencoder.model='{network}'")


def test_a_transfer_begins_with_its_source_and_is_not_tested_there(folders: dict[str, Path], tmp_path: Path) -> None:
    """The source is trained as individual trains it; the others begin with its weights."""
    words = ("training.validate_every_steps=6",)
    summary = run(folders, tmp_path / "transfer", "strategy=transfer_knee", *words)
    run(folders, tmp_path / "individual", "strategy=individual", *words)
    assert set(summary["sites"]) == {"ankle", "shoulder"}
    assert [line["network"] for line in lines(tmp_path / "transfer")] == ["knee", "ankle", "shoulder"]
    one, other = model(tmp_path / "transfer", "knee"), model(tmp_path / "individual", "knee")
    assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = model(tmp_path / "transfer", "ankle"), model(tmp_path / "individual", "ankle")
    assert not torch.equal(one["encoder.4.1.conv.weight"], other["encoder.4.1.conv.weight"])
    assert load_model(tmp_path / "transfer" / "models" / "ankle.safetensors")[1].strategy == "transfer_knee"


class _InterruptedError(Exception):
    pass


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The power fails while step number ``steps`` is being shown."""
    done, step = [0], RunDisplay.step

    def counted(self: RunDisplay, number: int, loss: float) -> None:
        done[0] += 1
        if done[0] == steps:
            raise _InterruptedError
        step(self, number, loss)

    monkeypatch.setattr(RunDisplay, "step", counted)


def stop_after(
    monkeypatch: pytest.MonkeyPatch, steps: int, folders: dict[str, Path], folder: Path, *words: str
) -> None:
    """A run that ends in the middle."""
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        with pytest.raises(_InterruptedError):
            run(folders, folder, *words)


class Whole(NamedTuple):
    """A run that was not stopped: its words, folder and summary."""

    words: tuple[str, ...]
    folder: Path
    summary: dict


@pytest.fixture(scope="module", params=["false", "true"], ids=["contiguous", "channels_last"])
def whole(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Whole:
    words = ("strategy=dsl_msc_mjap", "training.validate_every_steps=2", f"training.channels_last={request.param}")
    folder = tmp_path_factory.mktemp("whole") / "out"
    return Whole(words, folder, run(folders, folder, *words))


@pytest.mark.parametrize("stops", [(3,), (6,), (8, 3)], ids=str)  # in the auto-encoder, in segmentation, in both
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    folders: dict[str, Path], whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: tuple[int, ...]
) -> None:
    for stop in stops:
        stop_after(monkeypatch, stop, folders, tmp_path / "stopped", *whole.words)
    resumed = run(folders, tmp_path / "stopped", *whole.words)
    for name in ("autoencoder", "all_sites"):
        one, other = model(whole.folder, name), model(tmp_path / "stopped", name)
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert lines(tmp_path / "stopped") == lines(whole.folder)
    one, other = (
        {key: value for key, value in each.items() if key not in ("seconds", "begun")}
        for each in (whole.summary, resumed)
    )
    assert one == other
    assert not list((tmp_path / "stopped" / "checkpoints").glob("*.resume.*"))


def test_a_damaged_checkpoint_costs_its_stage_and_nothing_else(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("strategy=dsl_mjap", "training.validate_every_steps=2")
    run(folders, tmp_path / "whole", *words)
    stop_after(monkeypatch, 9, folders, tmp_path / "stopped", *words)
    path = tmp_path / "stopped" / "checkpoints" / "all_sites.resume.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    run(folders, tmp_path / "stopped", *words)
    one, other = model(tmp_path / "whole"), model(tmp_path / "stopped")
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")


@pytest.mark.parametrize(("dice", "best"), [((0, 0, 0), 6), ((0.2, 0.5, 0.1), 4), ((0.5, 0.2, 0.5), 6)], ids=str)
def test_the_best_state_is_kept_and_of_equals_the_later_one(
    folders: dict[str, Path], tmp_path: Path, dice: tuple[float, ...], best: int
) -> None:
    scores = iter(dice)
    network = build_network(NetworkConfig(width=4), {"knee": 3}, seed=0)
    data = load_site("knee", folders["knee"], 16, "auto", tmp_path / "cache")
    states = []

    def validate() -> dict[str, dict[str, float]]:
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"knee": {VALIDATION_DICE: next(scores)}}

    trainee = fit.Trainee(
        "knee", network, Segmentation(), {"knee": [data.source(list(data.exams))]}, Recipe(2, 1e-3, 0), 6, 2, validate
    )
    assert fit.fit(trainee, tmp_path, RunDisplay(6, Console(quiet=True))) == best
    kept = states[best // 2 - 1]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())


def test_a_finished_run_is_not_made_again(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(folders, tmp_path, "strategy=dsl")
    interrupt_after(monkeypatch, 1)  # no step is made
    assert run(folders, tmp_path, "strategy=dsl", "study.jobs=2") == first
    with pytest.raises(ConfigurationError, match=r"holds another run \(seed was 0, is 1\)"):
        run(folders, tmp_path, "strategy=dsl", "seed=1")
    assert json.loads((tmp_path / "summary.json").read_text()) == first


def test_every_slice_of_a_test_exam_has_its_2d_scores(folders: dict[str, Path], tmp_path: Path) -> None:
    summary = run(folders, tmp_path, "strategy=dsl")
    scores = json.loads((tmp_path / "slice_scores.json").read_text())
    assert set(scores) == set(SITES)
    for site, exams in scores.items():
        (case,) = summary["sites"][site]["metric_per_case"]
        (own,) = exams.values()
        assert list(exams) == [case["case"]]
        assert len({len(values) for values in own.values()}) == 1
        assert sum(own["dice"]) / len(own["dice"]) == pytest.approx(case["slices"]["dice_2d"])


def test_a_loss_that_is_not_finite_stops_the_run(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match="lower the learning rate"):
        run(folders, tmp_path, "strategy=dsl_msc", "loss.msc_weight=1e38")


def test_a_network_that_its_last_step_broke_stops_the_run_though_the_loss_was_finite(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    network = build_network(NetworkConfig(width=4), {"knee": 3}, seed=0)
    next(network.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    sources = {"knee": [load_site("knee", folders["knee"], 16, "auto", tmp_path / "cache").source(["knee_exam_0"])]}
    trainee = fit.Trainee("knee", network, Segmentation(), sources, Recipe(2, 1e-3, 0), 1, 1, dict)
    with pytest.raises(
        RunFailedError, match=r"loss of steps 0 to 1 is \d.* left NaN or infinity in .*: lower the learning rate"
    ):
        fit.fit(trainee, tmp_path, RunDisplay(1, Console(quiet=True)))
