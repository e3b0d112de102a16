"""What holds for every page that the project writes."""

import math
import re
from collections.abc import Iterator


def values_on(page: str) -> list[float]:
    """The exact values of all numbers on a page."""
    return [float(value) for value in re.findall(r'<data value="([^"]+)"', page)]


def numbers_in(content: object) -> Iterator[float]:
    """All numbers of a JSON document, and the lengths of its lists and mappings, for counts are on pages too."""
    if isinstance(content, bool) or content is None or isinstance(content, str):
        return
    if isinstance(content, int | float):
        yield float(content)
        return
    yield float(len(content))
    for entry in content.values() if isinstance(content, dict) else content:
        yield from numbers_in(entry)


def check_page(page: str, content: object) -> None:
    """It fetches nothing, and each of its numbers is one of ``content``."""
    assert not re.search(r"""(src|href)="?\s*(https?:|//)|url\(|@import|<link|<script""", page)
    known = {*numbers_in(content)}
    # A distance below the mean is written with its sign.
    strange = [v for v in values_on(page) if not any(math.isclose(v, each) for each in (*known, *(-k for k in known)))]
    assert values_on(page)
    assert strange == []
