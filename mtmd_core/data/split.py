"""Which exams of a site test, validate and train in a fold."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mtmd_core.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class Split:
    """Names of a site's exams, each in exactly one part."""

    test: tuple[str, ...]
    validation: tuple[str, ...]
    train: tuple[str, ...]

    def as_dict(self) -> dict[str, list[str]]:
        """For JSON."""
        return {part: list(names) for part, names in asdict(self).items()}


def leave_one_out(exams: Sequence[str], fold: int) -> Split:
    """Fold ``fold``: exam ``fold`` tests, the one after it validates, the rest train (section 8 of the method).

    >>> leave_one_out(["A1", "A2", "A3"], fold=2)
    Split(test=('A3',), validation=('A1',), train=('A2',))

    Raises:
        DataError: if there are fewer than three exams.
        ConfigurationError: if there is no such fold.
    """
    count = len(exams)
    if count < 3:
        raise DataError(
            f"{count} labelled exam(s), but a fold needs at least 3 (test, validation, train): add exams to the folder."
        )
    if not 0 <= fold < count:
        raise ConfigurationError(f"fold={fold}, but {count} exams make folds 0 to {count - 1}.")
    test, validation = fold, (fold + 1) % count
    rest = tuple(name for index, name in enumerate(exams) if index not in (test, validation))
    return Split((exams[test],), (exams[validation],), rest)
