"""Everything that is wrong with a site's data, found in one go."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from .dataset import Case, Description, load_description, load_image, load_labels, pair_files
from .orientation import ExamGrid
from .problem import Problem

# One exam each to test, to validate and to train.
MIN_EXAMS = 3
# Exams of one protocol differ less; more is a scout, another protocol or a lost unit.
UNLIKE_SPACING_RATIO = 2.0


@dataclass(frozen=True)
class ExamSummary:
    """What was read of one exam, in canonical orientation; fields are None where it could not be read."""

    name: str
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    intensity_min: float | None = None
    intensity_max: float | None = None
    voxels_per_structure: dict[str, int] | None = None


@dataclass(frozen=True)
class CheckReport:
    """Problems in the order in which the files are listed, and one summary an exam that has both files."""

    problems: list[Problem]
    exams: list[ExamSummary]

    @property
    def is_usable(self) -> bool:
        """Whether nothing worse than warnings was found."""
        return all(problem.warning for problem in self.problems)


def check_dataset(folder: Path) -> CheckReport:
    """Read all of an nnU-Net raw folder and report every defect. Bad data never raise."""
    folder = Path(folder)
    problems: list[Problem] = []
    try:
        description = load_description(folder)
    except DataError as error:
        return CheckReport([_problem_of(error)], [])
    cases = pair_files(folder, description.file_ending, problems.append)
    exams = [_check_exam(case, description.structures, problems) for case in cases]
    problems += _check_together(folder, description, exams)
    return CheckReport(problems, exams)


def _check_exam(case: Case, structures: tuple[str, ...], problems: list[Problem]) -> ExamSummary:
    image = grid = counts = None
    try:
        image, grid = load_image(case.image_path, problems.append)
    except DataError as error:
        problems.append(_problem_of(error))
    try:
        counts = _count_labels(case, structures, grid, problems)
    except DataError as error:
        problems.append(_problem_of(error))
    if image is None:
        return ExamSummary(case.name, voxels_per_structure=counts)
    low, high = float(image.min()), float(image.max())
    return ExamSummary(case.name, grid.shape, grid.spacing_mm, low, high, counts)


def _count_labels(
    case: Case, structures: tuple[str, ...], grid: ExamGrid | None, problems: list[Problem]
) -> dict[str, int]:
    """Voxels of each structure. Without the image's ``grid`` the label map is checked alone."""
    labels = load_labels(case.label_path, len(structures), grid, problems.append)
    counts = np.bincount(labels.ravel(order="K"), minlength=len(structures) + 1)[1:]
    if not counts.any():
        remedy = "Check that the right label map was saved, or leave the exam out"
        problems.append(Problem(case.label_path, "no voxel is labelled", remedy, warning=True))
    return dict(zip(structures, counts.tolist(), strict=True))


def _check_together(folder: Path, description: Description, exams: list[ExamSummary]) -> list[Problem]:
    """What no single exam shows."""
    problems = []
    if 0 < len(exams) < MIN_EXAMS:
        count = "1 exam" if len(exams) == 1 else f"{len(exams)} exams"
        remedy = f"Add exams: at least {MIN_EXAMS} are needed, to test, to validate and to train"
        problems.append(Problem(folder, f"it holds {count}", remedy))
    counted = [exam.voxels_per_structure for exam in exams if exam.voxels_per_structure is not None]
    if counted and len(counted) == len(exams):
        for structure in description.structures:
            if not any(counts[structure] for counts in counted):
                remedy = "Remove it from dataset.json and renumber the label maps, or add exams that show it"
                problem = f"no exam has a voxel of structure {structure!r}"
                problems.append(Problem(folder / "dataset.json", problem, remedy))
    if description.exam_count not in (None, len(exams)):
        problem = f"'numTraining' is {description.exam_count}, found are {len(exams)} exams"
        remedy = "Correct it, or add what is missing"
        problems.append(Problem(folder / "dataset.json", problem, remedy, warning=True))
    return problems + _unlike_spacings(folder, exams)


def _unlike_spacings(folder: Path, exams: list[ExamSummary]) -> list[Problem]:
    """Warnings for exams whose voxels are far from the usual ones, axes sorted by length."""
    read = [exam for exam in exams if exam.spacing_mm is not None]
    if not read:
        return []
    spacings = np.sort([exam.spacing_mm for exam in read], axis=1)  # [exams, 3], finest first
    usual = np.median(spacings, axis=0)
    ratios = np.maximum(spacings / usual, usual / spacings).max(axis=1)
    return [
        Problem(
            folder,
            f"exam {exam.name!r} has voxels of {_lengths(spacing)} mm, usual are {_lengths(usual)} mm",
            "Check that it is of the same protocol and its units are right",
            warning=True,
        )
        for exam, spacing, ratio in zip(read, spacings, ratios, strict=True)
        if ratio > UNLIKE_SPACING_RATIO
    ]


def _problem_of(error: DataError) -> Problem:
    """The problem that a reading function raised."""
    (problem,) = error.args
    assert isinstance(problem, Problem)
    return problem


def _lengths(values: np.ndarray) -> str:
    return "×".join(f"{value:.3g}" for value in values)
