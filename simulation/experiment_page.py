"""An experiment that is neither a run nor a study, on a page: the values and tables of its summary, and its pictures."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtmd_core.page.document import Section, document
from mtmd_core.page.figures import figures
from mtmd_core.page.html import Html, join
from mtmd_core.page.numbers import Number, duration, significant
from mtmd_core.page.tables import facts, narrow_tables

from .run_page import made_with

_SHOWN_ELSEWHERE = (
    "configuration",
    "versions",
    "accounts",
    "methods",
    "differences",
    "slice_statistics",
    "curves",
    "similarities",
    "data",
    "captions",
)


def experiment_page(folder: Path, content: Mapping[str, Any]) -> str:
    """The page of an experiment: numbers of its summary at the head, rows and nested values as tables."""
    own = {name: value for name, value in content.items() if name not in _SHOWN_ELSEWHERE}
    single = {
        name: _cell(value)
        for name, value in own.items()
        if isinstance(value, int | float | str) and name not in ("title", "interrupted")
    }
    single |= {"interrupted": "yes"} if content["interrupted"] else {}
    single |= {"seconds": duration(content["seconds"])} if "seconds" in content else {}
    tables = join(_table(name, value) for name, value in own.items())
    sections = [
        Section("result", "Result", tables),
        Section("pictures", "Pictures", figures(folder, content.get("captions"))),
        *made_with(content),
    ]
    notice = "This experiment is not finished." if content["interrupted"] else None
    return document(content["title"], facts(single), sections, notice)


def _table(name: str, value: object) -> Html:
    """Rows that are mappings, or a mapping of mappings, with the columns of the first; nothing for anything else."""
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        rows, heads = value, []
    elif isinstance(value, Mapping) and value and all(_is_flat(row) for row in value.values()):
        rows, heads = list(value.values()), list(value)
    else:
        return Html()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [
        [*heads[place : place + 1], *(_cell(row.get(column)) for column in columns)] for place, row in enumerate(rows)
    ]
    header = [*([""] if heads else []), *(column.replace("_", " ") for column in columns)]
    return narrow_tables(name, header, cells, _kept(rows, columns) + bool(heads))


def _kept(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> int:
    """How many of the first columns are words, that say what a row is about."""
    words = (all(isinstance(row.get(column, ""), str) for row in rows) for column in columns)
    return max(1, sum(1 for _ in itertools.takewhile(bool, words)))


def _is_flat(row: object) -> bool:
    return isinstance(row, Mapping) and not any(isinstance(value, Mapping | list) for value in row.values())


def _cell(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return Number(significant(value, 5))
