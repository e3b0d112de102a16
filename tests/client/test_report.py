"""The site's own page: everything about itself, with the numbers of its summary."""

import json
from dataclasses import replace
from pathlib import Path

from page_checks import check_page
from tiny_sites import write_sites

from client.report import note_round, what_left, write_report
from client.settings import SiteSettings
from client.site import open_site
from mtmd_core.config import NetworkConfig
from mtmd_core.networks.build import build_network
from mtmd_core.parameters import partition, take
from mtmd_core.strategies import Sharing
from mtmd_core.wire import RoundPlan

PLAN = RoundPlan(
    *("run", 1, "dsl", "att_unet", 4, "none", 16, "auto", 0, 0, 1, 2, 1e-3),
    *(True, False, 1, False, False, 0, 0, 0),
)


def test_a_site_that_has_tested_has_a_page_with_exams_and_structures(tmp_path: Path) -> None:
    folder = write_sites(tmp_path, sites={"knee": 2})["knee"]
    site = open_site(SiteSettings(site="knee", state=tmp_path / "state", data=folder, threads=1))
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
