"""Several methods on one page: scores, differences with their intervals, statistics of slices, curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtmd_core.page.charts import Line, legend, line_chart
from mtmd_core.page.document import Section, document
from mtmd_core.page.exams import exams
from mtmd_core.page.figures import figures
from mtmd_core.page.html import Html, element, join
from mtmd_core.page.numbers import METRICS, Number, duration, number, score, size, spread
from mtmd_core.page.scores import metrics_in
from mtmd_core.page.tables import facts, folded, table

from .contenders import MEAN
from .images import unequal_images
from .run_page import made_with
from .rungs_table import rungs_table
from .similarity_tables import of_methods, of_table5
from .statistics_tables import differences, slice_statistics

Methods = Sequence[Mapping[str, Any]]

_RUNS_NAMED = 3
"""Runs that a value is said to be of by name; of more, their number."""
_LINES_A_CHART = 5
_METHODS_SHOWN = 6
"""Of more methods than these, metrics but Dice are folded away."""


def contenders_page(folder: Path, content: Mapping[str, Any]) -> str:
    """The page of a study, or of runs that were laid side by side.

    Args:
        folder: of the study, for its pictures.
        content: its summary, with what :func:`simulation.contenders.compare` returns.
    """
    methods = content["methods"]
    sections = [
        Section("rungs", "Rungs", rungs_table(content["rows"]) if content.get("experiment") == "ladder" else Html()),
        Section("result", "Result", _result(methods)),
        Section("differences", "Differences of Dice", differences(content["differences"])),
        Section("structures", "Structures", _structures(methods)),
        Section("representations", "Representations", _representations(content)),
        Section("slices", "Statistics of slices", slice_statistics(content["slice_statistics"])),
        Section("curves", "Validation while training", _curves(content["curves"])),
        Section("pictures", "Pictures", figures(folder, content.get("captions"))),
        Section("exams", "Exams, as the first fold splits them", exams(content.get("data", {}))),
        Section("runs", "Runs", _runs(content)),
        Section("varying", "What the runs differ in", _varying(content.get("varying", {}))),
        *made_with(content),
    ]
    return document(content["title"], _lead(content), sections, _notice(content))


def _notice(content: Mapping[str, Any]) -> str | None:
    unfinished = sum(method["unfinished"] for method in content["methods"])
    if content.get("interrupted"):
        return "This study is not finished: what follows is of the runs that are. The same command goes on with it."
    return f"Runs that are not finished: {unfinished}. What follows is of the others." if unfinished else None


def _lead(content: Mapping[str, Any]) -> Html:
    methods = content["methods"]
    sites = sorted({site for method in methods for site in method["sites"]})
    folds = sorted({fold for method in methods for fold in method["folds"]})
    return facts(
        {
            "Methods": number(len(methods)),
            "Networks": ", ".join(dict.fromkeys(method["network"] for method in methods)),
            "Modes": ", ".join(dict.fromkeys(method["mode"] for method in methods)),
            "Sites": ", ".join(sites) or None,
            "Folds": ", ".join(map(str, folds)) or None,
            "Duration": duration(content["seconds"]) if content.get("seconds") is not None else None,
        }
    )


def _result(methods: Methods) -> Html:
    sites = sorted({site for method in methods for site in method["sites"]})
    dice = table(
        "Dice, % ↑",
        ["Method", *sites, MEAN, "Worst site", "Folds"],
        (
            [
                method["title"],
                *(_cell(method["sites"].get(site), "dice") for site in sites),
                _cell(method["mean"], "dice"),
                _worst(method["worst_site"]),
                number(len(method["folds"])),
            ]
            for method in methods
        ),
    )
    metrics = metrics_in(*(method["mean"] for method in methods))
    header = ["Method", *(METRICS[metric].heading for metric in metrics)]
    of_sites = {MEAN: [method["mean"] for method in methods]}
    of_sites |= {site: [method["sites"].get(site) for method in methods] for site in sites}
    all_metrics = [
        table(
            f"All metrics: {place}",
            header,
            ([m["title"], *(_cell(own, metric) for metric in metrics)] for m, own in zip(methods, each, strict=True)),
        )
        for place, each in of_sites.items()
        if metrics
    ]
    note = "Mean ± sample standard deviation over folds; a method that is not tested on a site has a dash there."
    said = element("p", note, class_="note")
    if len(methods) > _METHODS_SHOWN:
        of_mean, *of_each = all_metrics or [Html()]
        return join([dice, of_mean, folded("All metrics of each site", *of_each), _cost(methods), said])
    return join([dice, *all_metrics, _cost(methods), said])


def _cost(methods: Methods) -> Html:
    rows = (
        [
            method["title"],
            duration(method["seconds"]),
            size(method["bytes"]),
            number(method["images_a_site"]),
        ]
        for method in methods
    )
    header = ["Method", "Time", "Bytes between server and sites", "Images a site, mean of folds"]
    warnings = (
        unequal_images({m["title"]: m["images_a_site"] for m in methods if m["network"] == network})
        for network in dict.fromkeys(method["network"] for method in methods)
    )
    said = (element("p", warning, class_="note") for warning in warnings if warning is not None)
    return join([table("What it took, all folds together", header, rows), *said])


def _worst(worst: Mapping[str, Any] | None) -> object:
    return None if worst is None else element("span", f"{worst['name']} ", score("dice", worst["dice"]))


def _cell(values: Mapping[str, Mapping[str, float | None]] | None, metric: str) -> Number:
    own = (values or {}).get(metric, {})
    return spread(metric, own.get("mean"), own.get("deviation"))


def _structures(methods: Methods) -> Html:
    """A table a site and metric: a row a method, a column a structure."""
    names: dict[str, dict[str, None]] = {}
    for method in methods:
        for site, structures in method["structures"].items():
            names.setdefault(site, {}).update(dict.fromkeys(structures))
    metrics = metrics_in(
        *(own for method in methods for each in method["structures"].values() for own in each.values())
    )

    def of(metric: str) -> Html:
        return join(
            table(
                f"{METRICS[metric].heading}: {site}",
                ["Method", *structures],
                (
                    [m["title"], *(_cell(m["structures"][site].get(name), metric) for name in structures)]
                    for m in methods
                    if site in m["structures"]
                ),
            )
            for site, structures in names.items()
        )

    if not metrics:
        return Html()
    return join([of("dice"), folded("All other metrics", *(of(metric) for metric in metrics if metric != "dice"))])


def _representations(content: Mapping[str, Any]) -> Html:
    own = of_table5(content["rows"]) if content.get("experiment") == "table5" else Html()
    return own or of_methods(content["similarities"])


def _curves(curves: Mapping[str, Sequence[Sequence[float]]]) -> Html:
    """Charts of a few methods each, all to one scale: more lines in one could not be told apart."""
    lines = [Line(title, [(steps, 100 * dice) for steps, dice in points]) for title, points in curves.items() if points]
    values = [dice for line in lines for _, dice in line.points]
    title, x_title = "Validation Dice, mean of sites, %", "training steps of a site"
    charts = []
    for start in range(0, len(lines), _LINES_A_CHART):
        own = lines[start : start + _LINES_A_CHART]
        enclosing = (min(values), max(values))
        chart = line_chart(title, own, x_title, "{:.3g}".format, enclosing)
        charts.append(element("div", legend(line.name for line in own), chart))
    return element("div", *charts, class_="charts") if charts else Html()


def _runs(content: Mapping[str, Any]) -> Html:
    rows = (
        [
            element("a", name, href=f"{run['page']}") if run.get("page") else name,
            duration(run.get("seconds")),
            score("dice", (run.get("mean") or {}).get("dice")),
            "finished" if run.get("mean") else "not finished",
        ]
        for name, run in content["accounts"].items()
    )
    done = table("Runs", ["Run", "Duration", "Dice, mean of sites, %", "State"], rows)
    failed = table("Runs that failed", ["Run", "Reason"], content.get("failures", {}).items())
    return join([done, failed])


def _varying(words: Mapping[str, Mapping[str, Any]]) -> Html:
    rows = []
    for word, values in words.items():
        runs: dict[str, list[str]] = {}
        for run, value in values.items():
            runs.setdefault(str(value), []).append(run)
        for value, own in runs.items():
            rows.append(
                [word, value, ", ".join(own) if len(own) <= _RUNS_NAMED else f"{len(own)} of {len(values)} runs"]
            )
    return table("Words that are not the same for all runs", ["Word", "Value", "Runs"], rows)
