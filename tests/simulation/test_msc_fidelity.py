"""``experiment=msc_fidelity``: its truth against Eq. 5's own gradient, and what it writes."""

import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_sites import run_words, write_sites
from torch.nn import functional as F

from mtmd_core.config_files import compose
from mtmd_core.errors import ConfigurationError, DataError
from mtmd_core.losses.contrastive import contrastive_loss
from simulation.command import simulate
from simulation.experiments import msc_fidelity
from simulation.experiments.msc_fidelity import full_gradients, minibatch_gradients

KEYS = {"dataset", "stage", "scale", "estimator", "age_rounds", "cosine", "norm_error"}


def embeddings(counts: dict[str, int]) -> dict[str, list[torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    return {
        name: [F.normalize(1 + torch.randn(count, size, generator=random), dim=1) for size in (6, 9)]
        for name, count in counts.items()
    }


def test_the_truth_is_the_gradient_of_eq_5():
    """By autograd; domains of equal size, for which Eq. 5 weighs them alike."""
    given = embeddings({"a": 12, "b": 12, "c": 12})
    truth = full_gradients(given, 3, 0.1)
    for place in range(2):
        everything = torch.cat([scales[place] for scales in given.values()]).double().requires_grad_()
        loss = contrastive_loss([everything], torch.arange(3).repeat_interleave(12), 0.1) * 36
        (expected,) = torch.autograd.grad(loss, everything)
        for name, own in zip(given, expected.split(12), strict=True):
            torch.testing.assert_close(truth[name][place], own, rtol=1e-9, atol=1e-9)


def test_unequal_domains_weigh_alike():
    """Every slice twice in one domain changes nothing but that a slice is its twin's positive and negative too."""
    small = embeddings({"a": 40, "b": 30})
    large = small | {"b": [scale.repeat(2, 1) for scale in small["b"]]}
    for ours, theirs in zip(full_gradients(small, 5, 1.0)["a"], full_gradients(large, 5, 1.0)["a"], strict=True):
        assert float((ours - theirs).norm() / ours.norm()) < 0.05


def test_a_mini_batch_of_all_slices_is_the_truth():
    given = embeddings({"a": 8, "b": 8})
    truth, ours = full_gradients(given, 8, 0.1), minibatch_gradients(given, 8, 0.1)
    for name in given:
        for right, own in zip(truth[name], ours[name], strict=True):
            torch.testing.assert_close(own.double(), right, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Of a small run, with tiny sites in the phantoms' place."""
    place = tmp_path_factory.mktemp("fidelity")
    words = words_of(place, exams=11)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(msc_fidelity, "make_phantoms", lambda config, console: config.sites)
        summary = simulate(compose("simulate", words), place / "out", Console(quiet=True), words)
    written = json.loads((place / "out/msc_fidelity.json").read_text())
    assert summary["records"] == len(written)
    return written


def words_of(place: Path, exams: int) -> list[str]:
    cache = f"data.cache_dir='{place / 'cache'}'"
    return run_words(
        write_sites(place / "sites", exams), "experiment=msc_fidelity", cache, "training.steps=8", "data.slice_size=32"
    )


def test_records_are_of_every_stage_scale_and_estimator(records):
    assert all(set(record) == KEYS and record["dataset"] == "phantoms" for record in records)
    assert {record["scale"] for record in records} == {f"s{number}" for number in range(1, 10)}
    combinations = [(r["stage"], r["age_rounds"], r["estimator"]) for r in records if r["scale"] == "s1"]
    fresh = {"default", "first_order", "own_batch", "minibatch"}
    expected = {(stage, 0, name) for stage in ("start", "first_round", "middle", "end") for name in fresh}
    old = {"default", "first_order", "own_batch", "not_refreshed"}
    expected |= {(stage, 1, name) for stage in ("first_round", "middle", "end") for name in old}
    assert len(combinations) == len(expected)
    assert set(combinations) == expected


def test_fresh_prototypes_follow_the_truth_more_closely_than_mini_batches(records):
    fresh = {(r["stage"], r["scale"], r["estimator"]): r for r in records if r["age_rounds"] == 0}
    for (stage, scale, estimator), record in fresh.items():
        assert -1 - 1e-9 <= record["cosine"] <= 1 + 1e-9
        assert 0 <= record["norm_error"] < math.inf
        if estimator == "default":
            # 54 slices are one component, whatever clusters they form; larger sites reach 0.99.
            assert record["cosine"] > 0.85
            assert record["cosine"] > fresh[stage, scale, "minibatch"]["cosine"]


def test_what_cannot_be_measured_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(msc_fidelity, "make_phantoms", lambda config, console: config.sites)
    words = words_of(tmp_path, exams=5)
    with pytest.raises(DataError, match=r"ankle: 3 exams with 18 slices to train on; a prototype needs 3 with 50"):
        simulate(compose("simulate", words), tmp_path / "out", Console(quiet=True), words)
    words = [*words, "federation.local_steps=3"]
    with pytest.raises(ConfigurationError, match="stages need four rounds"):
        simulate(compose("simulate", words), tmp_path / "out", Console(quiet=True), words)
