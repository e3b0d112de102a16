"""The site's own page, for the site alone: its exams, its structures by name, its rounds, and what has left it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mtmd_core.durable import read_json_lines, write_json, write_text
from mtmd_core.page.configuration import versions, versions_table, words
from mtmd_core.page.document import Section, document
from mtmd_core.page.exams import exams
from mtmd_core.page.figures import figures
from mtmd_core.page.html import Html, element
from mtmd_core.page.numbers import number, score, size
from mtmd_core.page.rounds import rounds, totals
from mtmd_core.page.scores import scores
from mtmd_core.page.similarities import from_prototypes
from mtmd_core.page.tables import facts, table
from mtmd_core.prototype_similarities import prototype_similarities
from mtmd_core.strategies import Contrast, strategy_named
from mtmd_core.wire import RoundPlan

REPORT = "report.html"
ROUNDS = "round_metrics.jsonl"
"""Everything that the site measured in its rounds, whether it may leave or not."""
_WITHIN = "similarity_within/"
"""Begins the names of what a round's prototypes tell of the site's own slices."""


def note_round(results: Path, plan: RoundPlan, site: str, metrics: Mapping[str, float]) -> None:
    """Add a line to ``round_metrics.jsonl``: what a round's training and the model before it were measured to be."""
    measured_before = any(name.startswith("validation/") for name in metrics)
    line = {"run": plan.run, "round": plan.round, "site": site}
    line |= ({"validated_round": plan.round - 1} if measured_before else {}) | dict(metrics)
    results.mkdir(parents=True, exist_ok=True)
    with open(results / ROUNDS, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def similarity_within(plan: RoundPlan, prototypes: Mapping[str, np.ndarray] | None) -> dict[str, float]:
    """How alike the site's slices are to each other at each scale, by the prototypes that it sends; for its own page alone."""
    if prototypes is None:
        return {}
    single_scale = strategy_named(plan.strategy).contrast is Contrast.SINGLE_SCALE
    lines = prototype_similarities({"here": prototypes}, single_scale)
    return {f"{_WITHIN}{line['scale']}": line["mean"] for line in lines}


def write_report(
    results: Path, plan: RoundPlan, site: str, summary: Mapping[str, Any], data: Mapping[str, Any], ledger: Path | None
) -> None:
    """Write ``report.html`` and ``summary.json``, which holds every number of the page.

    Args:
        results: folder of the site's results.
        plan: of the visit in which the test exams were scored.
        site: its name.
        summary: of its test scores.
        data: its exams, from :func:`mtmd_core.page.exams.describe`.
        ledger: file of what has left; None if none is kept.
    """
    lines = {
        line["round"]: line for line in read_json_lines(results / ROUNDS) if line["run"] == plan.run
    }  # the last one counts
    content = dict(summary) | {
        "site": site,
        "data": data,
        "plan": asdict(plan),
        "round_metrics": [lines[round_] for round_ in sorted(lines)],
        "left": what_left(ledger, plan.run) if ledger is not None else [],
        "versions": versions(),
    }
    content["round_metrics_totals"] = totals(content["round_metrics"])
    content["prototypes"] = _told_by_prototypes(site, content["round_metrics"])
    write_json(results / "summary.json", content)
    write_text(results / REPORT, site_page(content, results))


def site_page(content: Mapping[str, Any], results: Path) -> str:
    """The page."""
    site, mean, plan = content["site"], content["foreground_mean"], content["plan"]
    lead = facts(
        {
            "Dice of test exams, %": score("dice", mean.get("dice")),
            "Test exams": number(len(content["metric_per_case"])),
            "Strategy": plan["strategy"],
            "Network": plan["network"],
            "Round that was chosen": number(content["round"]),
            "Run": plan["run"],
        }
    )
    own = rounds(content["round_metrics"], content["round_metrics_totals"])
    sections = [
        Section("result", "Result", scores({"sites": {site: content}})),
        Section("rounds", "Rounds", own),
        Section("representations", "Representations", from_prototypes(content["prototypes"], within=True)),
        Section("left", "What has left this site", _left(content["left"])),
        Section("exams", "Exams", exams({site: content["data"]})),
        Section("pictures", "Pictures", figures(results)),
        Section("plan", "What the coordinator asked", words(plan, {})),
        Section("versions", "Versions", versions_table(content["versions"])),
    ]
    notice = (
        "For this site alone: it names exams and structures. What has left the site stands below; this page has not."
    )
    return document(f"Site {site}", lead, sections, notice)


def _told_by_prototypes(site: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last round's similarities within the site; empty where it made no prototypes."""
    told = [line for line in lines if any(name.startswith(_WITHIN) for name in line)]
    if not told:
        return {}
    means = {name.removeprefix(_WITHIN): mean for name, mean in told[-1].items() if name.startswith(_WITHIN)}
    own = [{"scale": scale, "domain": site, "other_domain": site, "mean": mean} for scale, mean in means.items()]
    return {"rounds": {site: told[-1]["round"]}, "lines": own}


def what_left(ledger: Path, run: str) -> list[dict[str, Any]]:
    """What the ledger says of a run, a line a kind of record: how many messages, entries and bytes of arrays."""
    lines: dict[str, dict[str, Any]] = {}
    rounds_of: dict[str, set[tuple[str, int]]] = {}
    for entry in read_json_lines(ledger):
        if entry["run"] in (run, f"{run}-autoencoder"):
            own = lines.setdefault(entry["record"], {"record": entry["record"], "entries": 0, "bytes": 0})
            own["entries"] += 1
            own["bytes"] += entry.get("bytes", 0)
            rounds_of.setdefault(entry["record"], set()).add((entry["run"], entry["round"]))
    return [line | {"rounds": len(rounds_of[record])} for record, line in lines.items()]


def _left(lines: list[Mapping[str, Any]]) -> Html:
    rows = ([line["record"], number(line["rounds"]), number(line["entries"]), size(line["bytes"])] for line in lines)
    left = table("By the ledger, this run", ["Record", "Rounds", "Entries", "Bytes of arrays"], rows)
    return Html(left + element("p", "Every entry, with its digest: ledger.jsonl.", class_="note")) if left else left
