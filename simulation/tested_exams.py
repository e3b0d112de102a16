"""What runs were tested on: scores of two runs are paired only where both are of the same exams."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mtmd_core.data.identity import ExamRecord

from .run_exams import noted_exams


class FinishedRun(NamedTuple):
    """A finished run's summary, and which exams it was made with: site → record, nothing where a run did not note it."""

    summary: Mapping[str, Any]
    exams: Mapping[str, ExamRecord]


def finished_run(summary: Mapping[str, Any], folder: Path) -> FinishedRun:
    """A finished run and the exams that were noted in its folder."""
    return FinishedRun(summary, noted_exams(folder))


def same_exams(one: FinishedRun, other: FinishedRun, sites: Iterable[str]) -> bool:
    """Whether two runs were tested on the same exams of each of ``sites``.

    Exams are the same if their names are and, where both runs noted them, what is in them: phantoms of another seed or scale
    have the same names. Where a summary names no test exam of a site, nothing says that they are the same.
    """
    return all(_same(_tested(one, site), _tested(other, site)) for site in sites)


def _same(one: ExamRecord, other: ExamRecord) -> bool:
    if not one or one.keys() != other.keys():
        return False
    return all(one[name] == other[name] for name in one if one[name] and other[name])


def _tested(run: FinishedRun, site: str) -> ExamRecord:
    """Name of a test exam → what was noted of it, nothing if it was not."""
    cases = run.summary["sites"].get(site, {}).get("metric_per_case", ())
    noted = run.exams.get(site, {})
    return {case["case"]: noted.get(case["case"], {}) for case in cases}
