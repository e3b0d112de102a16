"""A ladder's rungs as a table of its page: what each is worth beside its twin and beside sites alone, and what it costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtmd_core.page.html import Html, element, join
from mtmd_core.page.numbers import Number, number, plus_minus
from mtmd_core.page.tables import table

_NOTE = (
    "Twin: the pooled run of the same strategy; of a variant, the rung without it. Differences in percentage points, paired over "
    "folds, with a 95 % confidence interval where there are several. MB: megabytes of all sites in both directions, a fold."
)


def rungs_table(rows: Sequence[Mapping[str, Any]]) -> Html:
    """A row a rung, from the rows of ``ladder.csv``."""
    cells = (
        [
            row["rung"],
            plus_minus(number(row["dice_mean"], 1), number(row["dice_std"], 1)),
            number(row["worst_site_dice"], 1),
            _difference(row, "minus_twin"),
            _difference(row, "minus_local"),
            number(row["megabytes_to_sites"], 0),
            number(row["megabytes_from_sites"], 0),
            number(row["seconds"], 0),
            number(row["folds"]),
        ]
        for row in rows
    )
    header = ["Rung", "Dice, %", "worst site", "− twin", "− local", "MB to sites", "MB from sites", "s", "Folds"]
    shown = table("Rungs: mean of sites, test exams", header, cells)
    return join([shown, element("p", _NOTE, class_="note")]) if shown else Html()


def _difference(row: Mapping[str, Any], name: str) -> Number:
    low, high = (row[f"{name}_{end}"] for end in ("low", "high"))
    own = number(row[name], 1, sign=True)
    if low is None or high is None:
        return own
    interval = element("span", " (", number(low, 1, sign=True), "\u00a0to\u00a0", number(high, 1, sign=True), ")")
    return Number(element("span", own, interval, class_="spread"))
