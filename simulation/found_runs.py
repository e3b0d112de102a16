"""The runs that a folder holds, read without knowing how they were asked for."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mtmd_core.config import RunConfig
from mtmd_core.config_files import load_config
from mtmd_core.errors import ConfigurationError
from mtmd_core.scores import dice_of_exams

from .runs import CONFIG, SUMMARY, read_summary
from .study import RunKey


@dataclass(frozen=True)
class FoundRun:
    """A finished run: which one, what it is called among the others (runs of several folds share a title), its configuration,
    where it lies, and its summary."""

    key: RunKey
    title: str
    config: RunConfig
    folder: Path
    summary: dict

    def __str__(self) -> str:
        return f"{self.key.network} {self.title} fold {self.key.fold}"

    def dice(self, site: str) -> dict[str, float]:
        """Test exam of a site → mean Dice over its structures; none where the run did not test the site."""
        return dice_of_exams(self.summary["sites"].get(site, {}))


@dataclass(frozen=True)
class FoundRuns:
    """What a folder holds: finished runs, and those that were begun and are not finished."""

    finished: list[FoundRun]
    unfinished: list[RunKey]


def find_runs(folder: Path) -> FoundRuns:
    """The runs below a folder (of a study, a ladder, a demo), or the one run that it is; centralised and federated alike.

    They come network by network, strategy by strategy, in the order of names, then of titles and folds.

    Raises:
        ConfigurationError: if it holds no finished run.
    """
    finished, unfinished = [], []
    for place in run_folders(folder):
        config = load_config(place / CONFIG)
        key = RunKey(config.network.name, config.strategy, config.fold)
        if (place / SUMMARY).is_file():
            finished.append(FoundRun(key, _title(folder, place, config), config, place, read_summary(place)))
        else:
            unfinished.append(key)
    if not finished:
        begun = f"; begun, but not finished: {', '.join(map(str, unfinished))}" if unfinished else ""
        raise ConfigurationError(
            f"{folder} holds no finished run{begun}. It must be the folder (hydra.run.dir) of a study or of a run that has ended."
        )
    return FoundRuns(sorted(finished, key=lambda run: (run.key[:2], run.title, run.key.fold)), sorted(unfinished))


def runs_asked_for(config: RunConfig, console: Console) -> tuple[list[FoundRun], list[RunKey]]:
    """The finished and the unfinished runs in ``study.folder``; the latter are told.

    Raises:
        ConfigurationError: without a folder, or if it holds no finished run.
    """
    if config.study.folder is None:
        raise ConfigurationError(
            "which runs are meant is not said: give study.folder=DIR, that of a study or of a run."
        )
    found = find_runs(Path(config.study.folder))
    for key in found.unfinished:
        console.print(f"{key} is not finished and left out", markup=False)
    return found.finished, found.unfinished


def run_folders(folder: Path) -> list[Path]:
    """The runs of a folder: itself, or those below it, in the order of their paths."""
    if (folder / CONFIG).is_file() and load_config(folder / CONFIG).experiment is None:
        return [folder]
    below = (path.parent for path in sorted(folder.glob(f"**/{CONFIG}")) if path.parent.name != "hydra")
    return [place for place in below if place != folder and load_config(place / CONFIG).experiment is None]


def _title(folder: Path, place: Path, config: RunConfig) -> str:
    """In a study the strategy, or the rung of a ladder; of a run by itself the strategy; elsewhere the folder's name besides."""
    within = place.relative_to(folder).parts
    if len(within) == 4 and (name := name_in_study(place)):
        return name
    return f"{config.strategy}, {'/'.join(within)}" if within else config.strategy


def name_in_study(place: Path) -> str | None:
    """What a study calls the method of a run in ``runs/<network>/<method>/fold_<fold>``; None for a run by itself."""
    return place.parent.name if place.parts[-4:-3] == ("runs",) else None
