"""What a run's rounds left, one line a site and round, as curves and sums."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtmd_core.event_log import events
from mtmd_core.quantities import say_bytes, say_duration

from .charts import Line, legend, line_chart
from .html import Html, element, join
from .numbers import Number, duration, number, significant, size
from .tables import folded, narrow_tables, table

Lines = Sequence[Mapping[str, Any]]
"""Lines of ``round_metrics.jsonl``."""

VALIDATION_DICE = "validation/foreground_mean/dice"
_SUMMED = (
    "steps",
    "seconds_training",
    "seconds_evaluation",
    "bytes_to_site",
    "bytes_from_site",
    "prototype_bytes_from_site",
)
_SEPARATORS = re.compile("/foreground_mean/|[/_]")
"""Of the words in a number's name; a heading is broken between words."""
_PLACES = ("run", "round", "step", "network", "site")


def totals(lines: Lines) -> dict[str, dict[str, float]]:
    """Site → how many rounds it has lines of, and the sums of its steps, seconds and bytes, where they were measured."""
    sums: dict[str, dict[str, float]] = {}
    for line in sorted(lines, key=lambda line: line["site"]):
        own = sums.setdefault(line["site"], {"rounds": 0})
        own["rounds"] += 1
        for name in _SUMMED:
            if name in line:
                own[name] = own.get(name, 0) + line[name]
    return sums


def curves(lines: Lines) -> Html:
    """Loss, validation Dice, bytes and seconds over rounds, or over steps where there are no rounds; a line a site.

    Where one network is trained on several sites, its loss is the network's own and has its name.
    """
    x_title = "step" if any("step" in line for line in lines) else "round"
    sites = sorted({line["site"] for line in lines})
    names = sites + sorted({line.get("network", line["site"]) for line in lines} - set(sites))

    def chart(
        title: str,
        value: Callable[[Mapping[str, Any]], float | None],
        write: Callable[[float], str],
        name: str = "site",
        place: Callable[[Mapping[str, Any]], float] = lambda line: line[x_title],
        enclosing: Sequence[float] = (),
    ) -> Html:
        points: dict[str, dict[float, float]] = {}
        for line in lines:
            if (found := value(line)) is not None:
                points.setdefault(line.get(name, line["site"]), {})[place(line)] = found
        drawn = [Line(each, sorted(points.get(each, {}).items())) for each in names]
        return line_chart(title, drawn, x_title, write, enclosing)

    charts = (
        chart("Training loss", lambda line: line.get("loss"), "{:.3g}".format, "network"),
        chart(
            "Validation Dice, %",
            lambda line: None if line.get(VALIDATION_DICE) is None else 100 * line[VALIDATION_DICE],
            "{:.3g}".format,
            place=lambda line: line.get("validated_round", line[x_title]),
        ),
        chart("Bytes to and from the site", _sum("bytes_to_site", "bytes_from_site"), say_bytes, enclosing=(0,)),
        chart(
            "Seconds of training and evaluation",
            _sum("seconds_training", "seconds_evaluation"),
            say_duration,
            enclosing=(0,),
        ),
    )
    drawn = [each for each in charts if each]
    return join([legend(names), element("div", *drawn, class_="charts")]) if drawn else Html()


def totals_table(sums: Mapping[str, Mapping[str, float]]) -> Html:
    """The sums of :func:`totals`."""
    columns: dict[str, tuple[str, Callable[[Any], Html]]] = {
        "rounds": ("Lines", number),
        "steps": ("Steps", number),
        "seconds_training": ("Training", duration),
        "seconds_evaluation": ("Evaluation", duration),
        "bytes_to_site": ("To the site", size),
        "bytes_from_site": ("From the site", size),
        "prototype_bytes_from_site": ("of these, prototypes", size),
    }
    known = {name: kind for name, kind in columns.items() if any(name in own for own in sums.values())}
    rows = [[site, *(write(own.get(name)) for name, (_, write) in known.items())] for site, own in sums.items()]
    return table("All rounds together", ["Site", *(title for title, _ in known.values())], rows)


def lines_table(lines: Lines) -> Html:
    """Every number of every round, folded away."""
    if not lines:
        return Html()
    names = [name for name in dict.fromkeys(name for line in lines for name in line) if name not in _PLACES]
    places = [name for name in _PLACES if any(name in line for line in lines)]
    header = [*(name.capitalize() for name in places), *(_SEPARATORS.sub(" ", name) for name in names)]
    rows = ([*(line.get(place) for place in places), *(_exact(line.get(name)) for name in names)] for line in lines)
    return folded(
        f"Every number of every round ({len(lines)} lines)", narrow_tables("As measured", header, rows, len(places))
    )


def _exact(value: float | None) -> Number:
    return number(value) if isinstance(value, int) else significant(value, 4)


def rounds(lines: Lines, sums: Mapping[str, Mapping[str, float]]) -> Html:
    """Curves, sums, and every number."""
    return join([curves(lines), totals_table(sums), lines_table(lines)]) if lines else Html()


def refusals(audit: Path, run: str | None) -> list[dict[str, Any]]:
    """What of a run's replies was left out: phase, round, site and why, from its log for machines; each once.

    Args:
        audit: the log; it may hold other runs too.
        run: the run's name.
    """
    found: dict[tuple, dict[str, Any]] = {}
    for event in events(audit):
        if event.get("run") == run and event["event"] in ("refused", "prototypes_left_out"):
            line = {word: event.get(word) for word in ("phase", "round", "site", "detail")}
            found[tuple(line.values())] = line
    return list(found.values())


def refusals_table(refused: Lines) -> Html:
    """Which replies a federation could not use, and why; from :func:`refusals`."""
    rows = ([line["phase"], number(line["round"]), line["site"], line["detail"]] for line in refused)
    return table("Replies that were left out", ["Phase", "Round", "Site", "Reason"], rows)


def _sum(*names: str) -> Callable[[Mapping[str, Any]], float | None]:
    def value(line: Mapping[str, Any]) -> float | None:
        found = [line[name] for name in names if name in line]
        return sum(found) if found else None

    return value


def last_round(lines: Iterable[Mapping[str, Any]]) -> int:
    """The last round that left a line; 0 if none did."""
    return max((line["round"] for line in lines), default=0)
