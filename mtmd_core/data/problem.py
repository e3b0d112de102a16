"""One defect of one file, in the words that a person reads."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..errors import DataError


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file or folder and what to do about it.

    ``problem`` and ``remedy`` are sentences without their full stop. A ``warning`` leaves the data usable.
    The text names files, and a file's name may name a patient: it is for the site's own screen only.
    """

    file: Path
    problem: str
    remedy: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}. {self.remedy}."


# Receives each defect as it is found; one that returns lets the reading go on where it can.
Report = Callable[[Problem], None]


def refuse(problem: Problem) -> NoReturn:
    """Raise the problem as a `DataError`, whose only argument it is."""
    raise DataError(problem)
