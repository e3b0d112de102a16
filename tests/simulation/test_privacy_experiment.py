"""``experiment=privacy``: more noise costs less ε and more of the gradient."""

import csv
from pathlib import Path

import pytest
from rich.console import Console
from tiny_sites import run_words, write_sites

from mtmd_core.config_files import compose
from simulation.command import simulate

WORDS = (
    "experiment=privacy",
    "network.width=4",
    "data.slice_size=32",
    "training.steps=4",
    "training.augment=false",
    "federation.local_steps=1",
    "federation.rounds=5",
)


def test_noise_is_priced_in_epsilon_and_in_the_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulation.experiments.privacy.MULTIPLIERS", (0.0, 0.3, 1.0, 3.0))
    sites = write_sites(tmp_path / "sites", exams=5, slices=18)
    words = run_words(sites, f"data.cache_dir='{tmp_path / 'cache'}'", *WORDS)
    simulate(compose("simulate", words), tmp_path / "out", Console(quiet=True), words)
    with open(tmp_path / "out" / "privacy.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "end"]
    assert rows[0]["epsilon"] == ""  # without noise there is no bound
    epsilons = [float(row["epsilon"]) for row in rows[1:]]
    assert epsilons == sorted(epsilons, reverse=True)
    assert all(float(row["epsilon_of_rounds"]) > float(row["epsilon"]) for row in rows[1:])
    assert {row["exams"] for row in rows} == {"3"}
    deviations = {row["noise_multiplier"]: float(row["deviation"]) for row in rows}
    assert deviations["1.0"] == round((4.5 * 9) ** 0.5 / 3, 6)
    assert float(rows[0]["cosine"]) > float(rows[-1]["cosine"])
