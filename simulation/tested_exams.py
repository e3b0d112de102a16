"""What runs were tested on: scores of two runs are paired only where both are of the same exams."""

from collections.abc import Iterable, Mapping
from typing import Any

Content = Mapping[str, Any]
"""A finished run's summary, with the facts of its data where they were noted."""
Grid = tuple[list[int], list[float]]
"""Voxels along each axis and their spacing in mm."""


def same_exams(one: Content, other: Content, sites: Iterable[str]) -> bool:
    """Whether two runs were tested on the same exams of each of ``sites``.

    Exams are the same if their names are and, where both runs noted them, voxels and spacing: phantoms of another seed or scale
    have the same names. Where a summary names no test exam of a site, nothing says that they are the same.
    """
    return all(_same(_tested(one, site), _tested(other, site)) for site in sites)


def _same(one: Mapping[str, Grid | None], other: Mapping[str, Grid | None]) -> bool:
    if not one or one.keys() != other.keys():
        return False
    return all(one[name] == other[name] for name in one if None not in (one[name], other[name]))


def _tested(content: Content, site: str) -> dict[str, Grid | None]:
    """Name of a test exam → its grid, None where it was not noted."""
    noted = content.get("data", {}).get(site, {}).get("exams", ())
    grids = {exam["name"]: (exam["voxels"], exam["spacing_mm"]) for exam in noted}
    cases = content["sites"].get(site, {}).get("metric_per_case", ())
    return {case["case"]: grids.get(case["case"]) for case in cases}
