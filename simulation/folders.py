"""Whether an experiment may write into a folder: results of others that lie there stay.

Runs are guarded one by one (:func:`simulation.runs.finished_summary`); here it is about what an experiment itself leaves beside
them: its configuration, its summary and page, its tables.
"""

from dataclasses import replace
from pathlib import Path

from mtmd_core.config import RunConfig
from mtmd_core.config_checks import value_of
from mtmd_core.config_files import decisive_words, known_words, load_config
from mtmd_core.errors import ConfigurationError

from .data import phantom_folders
from .runs import ANOTHER_FOLDER, CONFIG, SUMMARY, say_changes

TABLES = ("study", "table1", "table2", "table3", "table4", "table5")
"""Experiments that may share a folder, as the paper's tables share runs: each has a table of its own name."""
GROWING = (*TABLES, "ladder")
"""Experiments whose ``study`` words may change from call to call: they only say which runs are made and compared."""
READING = ("external", "figures")
"""Experiments that read the runs of ``study.folder`` and leave them as they are."""


def check_folder(config: RunConfig, folder: Path) -> None:
    """That nothing in ``folder`` would be replaced but what the same words left there; nothing is written.

    Args:
        config: of a run or an experiment; its ``sites`` may still be missing where phantoms are to be made.
        folder: where its files are to go (``hydra.run.dir``).

    Raises:
        ConfigurationError: if the folder holds another experiment, or the same one with other words, or is the very folder whose
            runs are only to be read.
    """
    source = config.study.folder
    if config.experiment in READING and source is not None and Path(source).resolve() == folder.resolve():
        raise ConfigurationError(
            f"study.folder and hydra.run.dir are both {folder}: experiment={config.experiment} reads the runs there and would "
            "replace the summary and the page beside them; give another hydra.run.dir."
        )
    if not _holds_something(folder):
        return
    saved = load_config(folder / CONFIG)
    if saved.experiment == config.experiment is None:
        return  # the run itself looks whether it is the same one
    if saved.experiment != config.experiment and not {saved.experiment, config.experiment} <= {*TABLES}:
        raise ConfigurationError(
            f"{folder} holds {_kind(saved)}, whose files {_kind(config)} would replace: give {ANOTHER_FOLDER}."
        )
    changes = say_changes(_words(saved), _words(config))
    if saved.experiment == config.experiment and changes:
        raise ConfigurationError(
            f"{folder} holds {_kind(saved)} with other words ({changes}): give the same words to go on with it, or "
            f"{ANOTHER_FOLDER}."
        )


def _holds_something(folder: Path) -> bool:
    """Whether a run was begun there, or an experiment has results or runs; its mere configuration is worth nothing."""
    path = folder / CONFIG
    if not path.is_file():
        return False
    below = (other.parent for other in folder.glob(f"*/**/{CONFIG}"))
    return (
        load_config(path).experiment is None
        or (folder / SUMMARY).is_file()
        or any(place.name != "hydra" for place in below)
    )


def _words(config: RunConfig) -> dict[str, str]:
    """The words that decide an experiment's results, with their values."""
    words = decisive_words(replace(config, sites=config.sites or phantom_folders(config)))
    if config.experiment not in GROWING:
        own = (word for word in known_words() if word.startswith("study.") and word != "study.jobs")
        words |= {word: str(value_of(config, word)) for word in own}
    return words


def _kind(config: RunConfig) -> str:
    return "a run" if config.experiment is None else f"experiment={config.experiment}"
