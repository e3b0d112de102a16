"""The summaries of :mod:`mtmd_core.scores` as tables: sites, structures, exams. What is not there is left out."""

from collections.abc import Mapping
from typing import Any

from .html import Html, element, join
from .numbers import METRICS, number, score, spread
from .tables import folded, table

Summary = Mapping[str, Any]


def metrics_in(*values: Mapping[str, Any]) -> list[str]:
    """The metrics that any of some values has, in the order of the paper's tables."""
    return [metric for metric in METRICS if any(metric in each for each in values)]


def site_table(summary: Summary, caption: str = "Test exams: mean over structures") -> Html:
    """A row a site, then their mean ± standard deviation over sites, and what was undefined."""
    sites = {site: own.get("foreground_mean") or {} for site, own in summary["sites"].items()}
    metrics = metrics_in(*sites.values())
    if not metrics:
        return element("p", "No site has released or measured a score of its test exams.")
    worst = (summary.get("worst_site") or {}).get("name")
    rows = [
        [f"{site} (worst site)" if site == worst and len(sites) > 1 else site]
        + [score(metric, own.get(metric)) for metric in metrics]
        for site, own in sites.items()
    ]
    mean, deviation = summary.get("mean", {}), summary.get("deviation", {})
    if len(sites) > 1 and mean:
        rows.append(["mean of sites"] + [spread(metric, mean.get(metric), deviation.get(metric)) for metric in metrics])
    header = ["Site", *(METRICS[metric].heading for metric in metrics)]
    whole = table(caption, header, rows, emphasised=len(rows) - len(sites))
    silent = [site for site, own in sites.items() if not own]
    if silent:
        whole = join([whole, element("p", f"Without a score: {', '.join(silent)}.", class_="note")])
    return whole


def structure_table(summary: Summary) -> Html:
    """A row a site and structure, where their scores are known."""
    rows_of = [
        (site, structure, values)
        for site, own in summary["sites"].items()
        for structure, values in (own.get("mean") or {}).items()
    ]
    metrics = metrics_in(*(values for _, _, values in rows_of))
    rows = [
        [site, structure, *(score(metric, values.get(metric)) for metric in metrics)]
        for site, structure, values in rows_of
    ]
    return table("Test exams: each structure", ["Site", "Structure", *(METRICS[m].heading for m in metrics)], rows)


def exam_table(summary: Summary) -> Html:
    """A row a test exam and structure; where there are 2D scores, a second table with a row a test exam."""
    cases = [(site, case) for site, own in summary["sites"].items() for case in own.get("metric_per_case") or ()]
    rows_of = [(site, case["case"], *entry) for site, case in cases for entry in case["metrics"].items()]
    metrics = metrics_in(*(values for *_, values in rows_of))
    volumes = table(
        "Test exams one by one",
        ["Site", "Exam", "Structure", *(METRICS[metric].heading for metric in metrics)],
        (
            [site, exam, structure, *(score(metric, values.get(metric)) for metric in metrics)]
            for site, exam, structure, values in rows_of
        ),
    )
    flat = metrics_in(*(case.get("slices") or {} for _, case in cases))
    slices = table(
        "Test exams one by one: mean over slices, and voxels predicted as another site's",
        ["Site", "Exam", *(METRICS[metric].heading for metric in flat), "Foreign, %"],
        (
            [
                site,
                case["case"],
                *(score(metric, (case.get("slices") or {}).get(metric)) for metric in flat),
                number(case.get("foreign_share"), 2, 100),
            ]
            for site, case in cases
        ),
    )
    return folded(f"Test exams one by one ({len(cases)})", volumes, slices) if cases else Html()


def undefined_note(summary: Summary) -> Html:
    """How many values were left out of the means, if any."""
    counted = {
        site: sum((own.get("undefined") or {}).values())
        for site, own in summary["sites"].items()
        if own.get("undefined")
    }
    left_out = {site: count for site, count in counted.items() if count}
    if not left_out:
        return Html()
    said = ", ".join(f"{site} {count}" for site, count in left_out.items())
    return element("p", f"Undefined values, left out of every mean: {said}.", class_="note")


def scores(summary: Summary) -> Html:
    """All tables of a run's test scores."""
    return join([site_table(summary), structure_table(summary), exam_table(summary), undefined_note(summary)])
