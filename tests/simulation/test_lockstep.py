import json
from pathlib import Path

import pytest
from rich.console import Console
from tiny_sites import run_words, write_sites

from mtmd_core.config_files import compose
from mtmd_core.errors import ConfigurationError
from simulation.command import simulate


def test_the_experiment_writes_how_far_apart_both_ways_end(tmp_path: Path) -> None:
    """Att-UNet with an anatomical prior: to 1e-10 in float64 with both optimisers, to 1e-5 in float32 by gradient descent."""
    words = [
        word for word in run_words(write_sites(tmp_path / "data")) if not word.startswith(("federation.", "data.slice"))
    ]
    words += [
        "experiment=lockstep",
        "study.networks=[att_unet]",
        "study.strategies=[dsl_mjap]",
        "autoencoder.batch_size=6",
    ]
    words += ["training.steps=3", "autoencoder.steps=2", f"data.cache_dir='{tmp_path / 'cache'}'"]
    simulate(compose("simulate", words), tmp_path / "run", Console(quiet=True), words)
    records = json.loads((tmp_path / "run" / "lockstep.json").read_text())
    cases = [(record["optimiser"], record["dtype"]) for record in records]
    assert cases == [("adam", "float32"), ("sgd", "float32"), ("adam", "float64"), ("sgd", "float64")]
    for record in records:
        assert (record["network"], record["strategy"], record["steps"]) == ("att_unet", "dsl_mjap", 3)
        limit = {"float64": 1e-10, "float32": 1e-5 if record["optimiser"] == "sgd" else float("inf")}[record["dtype"]]
        assert record["max_difference_shared"] <= limit
        assert record["max_difference_private"] <= limit
        assert record["max_change"] > 1e-6


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("study.strategies=[dsl,dsl_msc]", "study.strategies has dsl_msc, which lock-step does not reproduce"),
        ("training.steps=null", "training.steps is not given"),
    ],
)
def test_what_lockstep_cannot_show_is_an_error(tmp_path: Path, word: str, text: str) -> None:
    words = [*run_words(write_sites(tmp_path / "data")), "experiment=lockstep", word]
    words = [each for each in words if not each.startswith("training.steps=6")]
    words.append(f"data.cache_dir='{tmp_path / 'cache'}'")
    with pytest.raises(ConfigurationError, match=text):
        simulate(compose("simulate", words), tmp_path / "run", Console(quiet=True), words)
