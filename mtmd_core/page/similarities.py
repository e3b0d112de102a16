"""How alike the domains' representations are, as tables: a row two sites, a column a scale."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .html import Html, element, join
from .numbers import Number, number, plus_minus
from .tables import table

Lines = Sequence[Mapping[str, Any]]
"""Each with ``scale``, ``domain``, ``other_domain`` (the same for what lies within one) and ``mean``."""


def sampled(lines: Lines, method: str = "") -> Html:
    """Of pairs of slices: mean ± standard deviation; what lies within sites first.

    Args:
        lines: with ``pairs`` and ``deviation`` besides.
        method: whose embeddings they are, where a page shows several.
    """
    pairs = max((line["pairs"] for line in lines), default=0)
    rows = _rows(lines, lambda line: plus_minus(_value(line["mean"]), _value(line["deviation"])))
    title = "Cosine similarity of embeddings: mean ± standard deviation of random pairs of slices"
    shown = table(f"{method}: {title}" if method else title, _header(lines), rows)
    note = element("p", number(pairs), " pairs each, of training and validation slices. s5: bottleneck.", class_="note")
    return join([shown, note]) if shown else Html()


def from_prototypes(told: Mapping[str, Any], within: bool) -> Html:
    """Of sites' prototypes, as a federation knows it, and how far that is from pooled pairs where somebody knows both.

    Args:
        told: ``lines``, with ``minus_pooled`` where that is known, and ``rounds``: site → round of its prototypes; without it
            the means are those that prototypes would have held.
        within: whether to show what lies within sites, too.
    """
    lines = [line for line in told.get("lines", ()) if within or line["domain"] != line["other_domain"]]
    rows = _rows(lines, lambda line: _value(line["mean"]))
    title = "Cosine similarity that prototypes tell: no embedding leaves its site"
    between = any(line["domain"] != line["other_domain"] for line in lines)
    note = element("p", _how(told.get("rounds", {}), between), class_="note")
    shown = [table(title, _header(lines), rows), note]
    if any("minus_pooled" in line for line in lines):
        off = _rows(lines, lambda line: number(line.get("minus_pooled"), 3, sign=True))
        shown.insert(1, table("The same minus the mean of pooled pairs, which a simulation knows", _header(lines), off))
    return join(shown) if lines else Html()


def _how(rounds: Mapping[str, int], between: bool) -> str:
    means = "Between two sites: the product of the mean embeddings, which is the mean over all pairs of their slices. "
    means = means if between else ""
    if not rounds:
        return f"{means}This strategy sends no prototypes: the means are those that they would have held."
    which = sorted(set(rounds.values()))
    if len(which) == 1:
        said = f"round {which[0]}"
    else:
        said = "rounds " + ", ".join(f"{round_} ({site})" for site, round_ in sorted(rounds.items()))
    return (
        f"{means}From the prototypes of {said}: of slices as training saw them, in a network that was still changing, with "
        "the noise, if any, that a site put on them."
    )


def _header(lines: Lines) -> list[str]:
    return ["Sites", *_scales(lines)]


def _scales(lines: Lines) -> list[str]:
    return list(dict.fromkeys(line["scale"] for line in lines))


def _rows(lines: Lines, cell: Any) -> Iterable[list[object]]:
    by_pair: dict[tuple[str, str], dict[str, Number]] = {}
    for line in lines:
        by_pair.setdefault((line["domain"], line["other_domain"]), {})[line["scale"]] = cell(line)
    scales = _scales(lines)
    for (one, other), cells in sorted(by_pair.items(), key=lambda entry: entry[0][0] != entry[0][1]):
        title = f"within {one}" if one == other else f"{one} – {other}"
        yield [title, *(cells.get(scale) for scale in scales)]


def _value(value: float | None) -> Number:
    return number(value, 2)
