"""The site's own page: everything about itself, with the numbers of its summary."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from page_checks import check_page
from tiny_sites import own_settings, write_sites

from client.report import note_round, what_left, write_report
from client.site import open_site
from mtmd_core.config import NetworkConfig
from mtmd_core.networks.build import build_network
from mtmd_core.parameters import partition, take
from mtmd_core.strategies import Sharing
from mtmd_core.wire import ContrastPlan, RoundPlan, Terms

PLAN = RoundPlan(
    *("run", 1, "dsl", "att_unet", 4, "none", 16, "auto", 0, 0, 1, 2, 1e-3),
    *(True, False, 1, False, False, 0, 0, 0),
)
CONTRAST = ContrastPlan(0.5, 0.1, False, False, False, False, 3, 50, 0, 100, 0.0)


def test_a_site_that_has_tested_has_a_page_with_exams_and_structures(tmp_path: Path) -> None:
    folder = write_sites(tmp_path, sites={"knee": 2})["knee"]
    site = open_site(own_settings("knee", tmp_path / "state", folder))
    network = build_network(NetworkConfig(width=4), {}, seed=0)
    shared = take(network, partition(network, Sharing.CONVOLUTIONS).shared)
    receipt, metrics, _ = site.train(PLAN, shared)
    site.outbox.trained(receipt, metrics, site.learner.contribution, site.learner.partition)
    site.evaluate(replace(PLAN, test=True), shared)
    results = tmp_path / "state" / "results"
    page, content = (
        (results / "report.html").read_text(encoding="utf-8"),
        json.loads((results / "summary.json").read_text(encoding="utf-8")),
    )
    check_page(page, content)
    for word in ("knee_exam_3", "knee_bone_2", "For this site alone", "What has left this site"):
        assert word in page
    assert [line["loss"] for line in content["round_metrics"]] == [metrics["loss"]]
    left = {line["record"]: line for line in content["left"]}
    assert left["shared"]["bytes"] == sum(array.nbytes for array in site.learner.contribution.arrays.values())


def test_a_site_shows_how_alike_its_own_slices_are_and_tells_nobody(tmp_path: Path) -> None:
    folder = write_sites(tmp_path, exams=5, slices=18, sites={"knee": 2})["knee"]  # just enough for a prototype
    site = open_site(own_settings("knee", tmp_path / "state", folder, strategies=["dsl_msc"]))
    plan = replace(PLAN, strategy="dsl_msc", slice_size=32)
    network = build_network(NetworkConfig(width=4), {}, seed=0)
    shared = take(network, partition(network, Sharing.CONVOLUTIONS).shared)
    receipt, metrics, prototypes = site.train(plan, shared, Terms(contrast=CONTRAST))
    assert not any("within" in name for name in metrics)  # those that leave
    site.outbox.trained(receipt, metrics, site.learner.contribution, site.learner.partition)
    site.evaluate(replace(plan, test=True), shared)
    results = tmp_path / "state" / "results"
    content = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    page = (results / "report.html").read_text(encoding="utf-8")
    check_page(page, content)
    mean, count = prototypes["s5/mean"].astype(np.float64), prototypes["counts"][0]
    (line,) = [line for line in content["prototypes"]["lines"] if line["scale"] == "s5"]
    assert line["mean"] == pytest.approx((count * mean @ mean - 1) / (count - 1), abs=1e-5)
    assert "within knee" in page
    assert "Between two sites" not in page


def test_a_round_that_came_twice_counts_once_and_other_runs_stay_out(tmp_path: Path) -> None:
    summary = {"foreground_mean": {"dice": None}, "mean": {}, "metric_per_case": [], "undefined": {}, "round": 1}
    data = {"structures": ["<b>"], "slice_axis": 0, "slices": {"train": 1, "validation": 1, "test": 0}, "exams": []}
    for run, loss in (("other", 9.0), ("run", 2.0), ("run", 1.0)):
        note_round(tmp_path, replace(PLAN, run=run), "knee", {"loss": loss})
    write_report(tmp_path, PLAN, "knee", summary, data, tmp_path / "ledger.jsonl")
    content = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert [line["loss"] for line in content["round_metrics"]] == [1.0]
    assert "&lt;b&gt;" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert what_left(tmp_path / "ledger.jsonl", "run") == []
