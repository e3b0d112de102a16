"""``mtmd-client check``: every problem of a site's data, then a table of its exams."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtmd_core.data.validation import CheckReport, ExamSummary, check_dataset
from mtmd_core.errors import DataError

NOT_READ = "–"
WIDTH_OF_A_FILE = 160


def check(data_folder: Path, site: str) -> int:
    """Read all of ``data_folder`` and print what is wrong and what is there; 0 if it can be used, else 4."""
    console = Console(highlight=False, width=None if Console().is_terminal else WIDTH_OF_A_FILE)
    with console.status(f"reading {data_folder}"):
        report = check_dataset(data_folder)
    console.print(Text(f"Site {site}: {data_folder}"), soft_wrap=True)
    for problem in report.problems:
        level, style = ("warning", "yellow") if problem.warning else ("problem", "red")
        console.print(Text(level, style=style), Text(str(problem)), soft_wrap=True)
    if report.exams:
        table = _exam_table(report, by_column=True)
        unbounded = console.options.update_width(10_000)
        if console.measure(table, options=unbounded).maximum > console.width:
            table = _exam_table(report, by_column=False)
        console.print(table)
    console.print(Text(_verdict(report)), soft_wrap=True)
    return 0 if report.is_usable else DataError.exit_code


def _exam_table(report: CheckReport, by_column: bool) -> Table:
    """One row an exam; voxels in a column for each structure, or in one column for all."""
    structures = next((list(exam.voxels_per_structure) for exam in report.exams if exam.voxels_per_structure), [])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("exam", overflow="fold")
    for heading in ("shape", "spacing, mm", "intensity"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in structures if by_column else ["voxels per structure"]:
        table.add_column(Text(heading), justify="right" if by_column else "left", overflow="fold")
    for exam in report.exams:
        cells = list(_image_cells(exam))
        counts = exam.voxels_per_structure
        if counts is None:
            cells += [NOT_READ] * (len(structures) if by_column else 1)
        elif by_column:
            cells += [str(counts[name]) for name in structures]
        else:
            cells.append("\n".join(f"{name}: {counts[name]}" for name in structures))
        table.add_row(*map(Text, cells))
    return table


def _image_cells(exam: ExamSummary) -> tuple[str, str, str, str]:
    if exam.shape is None:
        return exam.name, NOT_READ, NOT_READ, NOT_READ
    return (
        exam.name,
        "×".join(map(str, exam.shape)),
        "×".join(f"{length:.3g}" for length in exam.spacing_mm),
        f"{exam.intensity_min:.5g} to {exam.intensity_max:.5g}",
    )


def _verdict(report: CheckReport) -> str:
    warnings = sum(problem.warning for problem in report.problems)
    problems = len(report.problems) - warnings
    found = [_count(problems, "problem")] if problems else ["no problem"]
    if warnings:
        found.append(_count(warnings, "warning"))
    return f"{_count(len(report.exams), 'exam')}, {', '.join(found)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
