"""A run that ends between its last training step and its summary goes on from there, and says what it took in all."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_sites import run_words, write_sites

from mtmd_core.config_files import compose
from mtmd_core.durable import write_json
from mtmd_core.tensor_files import load_tensors
from simulation import runs
from simulation.command import simulate
from simulation.progress import RunDisplay
from simulation.unfinished import MEMORY

LEFT_OVER = ("checkpoints/*.resume.*", MEMORY, "seconds.json")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sites(tmp_path_factory.mktemp("sites"))


def run(folders: dict[str, Path], folder: Path, mode: str) -> dict:
    cache = f"data.cache_dir='{next(iter(folders.values())).parent / 'cache'}'"
    return simulate(compose("simulate", run_words(folders, cache, f"mode={mode}")), folder, Console(quiet=True))


def interrupt(*_: object) -> dict:
    raise KeyboardInterrupt


def no_step(*_: object) -> None:
    raise AssertionError("a step was made again")


@pytest.mark.parametrize("mode", ["centralised", "federated"])
def test_what_was_trained_is_not_trained_again(
    mode: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while representations are compared, after all training, and again after the summary was written."""
    with monkeypatch.context() as patch:
        patch.setattr(runs, "similarity_facts", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(folders, tmp_path, mode)
    assert not (tmp_path / "summary.json").exists()
    networks = {path: load_tensors(path)[0] for path in (tmp_path / "models").iterdir()}
    metrics = (tmp_path / "round_metrics.jsonl").read_text()
    assert (tmp_path / "seconds.json").is_file()
    write_json(tmp_path / "seconds.json", {"seconds": 5000.0})

    monkeypatch.setattr(RunDisplay, "step", no_step)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "forget_progress", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(folders, tmp_path, mode)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert 5000 <= summary["seconds"] < 6000
    for path, before in networks.items():
        again = load_tensors(path)[0]
        assert again.keys() == before.keys()
        assert all(torch.equal(again[name], tensor) for name, tensor in before.items()), path.name
    assert (tmp_path / "round_metrics.jsonl").read_text() == metrics

    assert run(folders, tmp_path, mode) == summary
    assert not [path for pattern in LEFT_OVER for path in tmp_path.glob(pattern)]
    if mode == "federated":
        assert json.loads((tmp_path / "run.json").read_text())["finished"] is True
