"""A ladder's rungs as a table of its page: what each is worth beside its twin and beside sites alone, and what it costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtmd_core.page.html import Html, element, join
from mtmd_core.page.numbers import number, plus_minus
from mtmd_core.page.tables import table

from .statistics_tables import difference

_NOTE = (
    "Twin: the pooled run of the same strategy; of a variant, the rung without it. Differences in percentage points, paired over "
    "folds, with a 95 % confidence interval where there are several. MB, s: of a fold, all sites together."
)
_ENDS = ("", "_low", "_high")


def rungs_table(rows: Sequence[Mapping[str, Any]]) -> Html:
    """A row a rung, from the rows of ``ladder.csv``."""
    cells = (
        [
            row["rung"],
            plus_minus(number(row["dice_mean"], 1), number(row["dice_std"], 1)),
            number(row["worst_site_dice"], 1),
            difference(*(row[f"minus_twin{end}"] for end in _ENDS)),
            difference(*(row[f"minus_local{end}"] for end in _ENDS)),
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
