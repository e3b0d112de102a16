"""One run: data that are ready, a configuration, and the files that the run leaves."""

import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mtmd_core.config import RunConfig
from mtmd_core.config_files import decisive_words, load_config, save_config
from mtmd_core.data.site_data import SiteData
from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError
from mtmd_core.page.best_effort import best_effort

from .centralised import images_of_sites, run_centralised, total_steps
from .progress import RunDisplay
from .run_exams import check_exams, note_exams
from .run_page import REPORT, note_facts, told_by, write_run_page
from .similarities import similarity_facts
from .unfinished import Stopwatch, forget_progress

CONFIG, SUMMARY, SLICE_SCORES = "config.yaml", "summary.json", "slice_scores.json"
"""What every run leaves: its configuration, its scores, and the 2D scores of every slice of its test exams."""
ANOTHER_FOLDER = "another folder (hydra.run.dir=, or hydra.sweep.subdir= in a multirun)"
"""What messages advise where a folder is taken."""


def run(config: RunConfig, sites: dict[str, SiteData], folder: Path, console: Console) -> dict:
    """One run over sites that are ready; one that was made in this folder before is not made again.

    Raises:
        ConfigurationError: if the folder holds another run, or this one with other exams.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = finished_summary(config, folder)
    check_exams(sites, folder)
    if saved is not None:
        forget_progress(folder)  # in case the last session ended before it had
        console.print(f"this run was made before; to make it again, remove {folder}", markup=False)
        _print_scores(saved, folder, console)
        return saved
    watch = Stopwatch(folder)
    save_config(config, folder / CONFIG)
    note_facts(config, sites, folder)
    note_exams(sites, folder)
    if config.mode == "federated":
        from . import federated  # Flower is slow to import, and runs on pooled data do without

        train, steps = federated.run_federated, federated.total_local_steps(config, sites)
        images = federated.images_of_sites(config, sites)
    else:
        train, steps, images = run_centralised, total_steps(config, sites), images_of_sites(config, sites)
    with RunDisplay(steps, console, on_scores=watch.keep) as display:
        summary, scores = train(config, sites, folder, display)
    watch.keep()
    facts = {"mode": config.mode, "strategy": config.strategy, "seconds": watch.seconds, "images": images}
    facts["encoder_weights"] = config.network.encoder_weights
    summary = facts | summary
    write_json(folder / SLICE_SCORES, {site: own.slices for site, own in scores.items()})
    with best_effort("the run's page"):
        summary |= told_by(folder)
        with best_effort("how alike its representations are"):
            summary |= similarity_facts(config, sites, folder, summary.get("prototypes", {}))
        write_run_page(folder, summary)
    write_json(folder / SUMMARY, summary)  # it says that the run is finished; until it is there, the run can go on
    forget_progress(folder)
    _print_scores(summary, folder, console)
    return summary


def finished_summary(config: RunConfig, folder: Path) -> dict | None:
    """The summary of this very run, if the folder holds it; whether with the same exams, :func:`.run_exams.check_exams` says.

    Raises:
        ConfigurationError: if the folder holds another run.
    """
    if not (folder / CONFIG).is_file():
        return None
    words, others = decisive_words(config), decisive_words(load_config(folder / CONFIG))
    changes = say_changes(others, words)
    if changes:
        raise ConfigurationError(
            f"{folder} holds another run ({changes}): give the same words to go on with it, or {ANOTHER_FOLDER}."
        )
    if not (folder / SUMMARY).is_file():
        return None
    return read_summary(folder)


def read_summary(folder: Path) -> dict:
    """What a finished run or experiment left.

    Raises:
        ConfigurationError: if the file is damaged.
    """
    try:
        return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(
            f"{folder / SUMMARY} is damaged ({error}): remove it, and give the words of {folder / CONFIG} again to make it anew."
        ) from None


def say_changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Words with another value than before, the first three of them; empty if there is none.

    >>> say_changes({"fold": "0", "seed": "0"}, {"fold": "1", "seed": "0"})
    'fold was 0, is 1'
    """
    changed = sorted(word for word in now if now[word] != before.get(word))
    return ", ".join(f"{word} was {before.get(word)}, is {now[word]}" for word in changed[:3])


def _print_scores(summary: dict, folder: Path, console: Console) -> None:
    columns = {
        "dice": "Dice",
        "sensitivity": "sensitivity",
        "mssd_mm": "MSSD mm",
        "assd_mm": "ASSD mm",
        "ravd": "RAVD",
    }
    table = Table("test exams of", *columns.values(), title=f"{summary['mode']} {summary['strategy']}")
    rows = {site: values["foreground_mean"] for site, values in summary["sites"].items()}
    for name, values in (rows | {"mean of sites": summary["mean"]}).items():
        cells = ["–" if values.get(key) is None else f"{values[key]:.3f}" for key in columns]
        table.add_row(name, *cells)
    console.print(table)
    worst = summary["worst_site"]
    if worst is not None:
        console.print(f"worst site: {worst['name']}, Dice {worst['foreground_mean']['dice']:.3f}")
    console.print(f"{summary['seconds']:.0f} s; all files are in {folder}, for reading: {REPORT}", markup=False)
