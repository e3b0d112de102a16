"""Tables: captions, row and column headings that a screen reader can follow, numbers to the right."""

import math
from collections.abc import Iterable, Mapping, Sequence

from .html import Html, element, join
from .numbers import UNDEFINED, Number

_LONG_WORD = 24
"""Characters."""


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]], emphasised: int = 0) -> Html:
    """A table whose first cell of each row is the row's heading; empty markup where there is no row.

    Args:
        caption: what the table shows.
        header: titles of the columns.
        rows: cells, as many as there are titles; None is undefined.
        emphasised: how many of the last rows sum up the others.
    """
    body = [[Number(UNDEFINED) if cell is None else cell for cell in row] for row in rows]
    if not body:
        return Html()
    numeric = [all(isinstance(row[place], Number) for row in body) for place in range(len(header))]
    heads = (
        element("th", title, scope="col", class_="n" if right else None)
        for title, right in zip(header, numeric, strict=True)
    )
    lines = []
    for place, (first, *cells) in enumerate(body):
        marked = (element("td", cell, class_=_kind(cell)) for cell in cells)
        summing = "sum" if place >= len(body) - emphasised else None
        lines.append(element("tr", element("th", first, scope="row"), *marked, class_=summing))
    whole = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *lines),
    )
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _kind(cell: object) -> str | None:
    """Numbers stand to the right; a long word, such as a path, may be broken anywhere."""
    if isinstance(cell, Number):
        return "n"
    longest = 0 if isinstance(cell, Html) else max(map(len, str(cell).split()), default=0)
    return "long" if longest > _LONG_WORD else None


def narrow_tables(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[object]], kept: int, most: int = 11
) -> Html:
    """A table with many columns as several that fit on a screen and on paper.

    Args:
        caption: of each, with the number of the part.
        header: titles of the columns.
        rows: as for :func:`table`.
        kept: how many of the first columns say what a row is about; every part has them.
        most: columns of a part, with these.
    """
    body, others = [list(row) for row in rows], max(1, most - kept)
    count = max(1, math.ceil((len(header) - kept) / others))
    parts = []
    for part in range(count):
        own = slice(kept + part * others, kept + (part + 1) * others)
        title = caption if count == 1 else f"{caption}, {part + 1} of {count}"
        parts.append(table(title, [*header[:kept], *header[own]], ([*row[:kept], *row[own]] for row in body)))
    return join(parts)


def facts(pairs: Mapping[str, object]) -> Html:
    """A few things worth knowing at a glance, each under its title; those that are None are left out."""
    return element(
        "dl",
        *(
            element("div", element("dt", title), element("dd", value))
            for title, value in pairs.items()
            if value is not None
        ),
        class_="facts",
    )


def folded(title: str, *content: object) -> Html:
    """What is worth keeping and seldom worth reading."""
    return element("details", element("summary", title), join(content))
