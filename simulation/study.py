"""Several runs that belong together: every network with every strategy in every fold, each in a process of its own.

A run's folder is ``FOLDER/runs/<network>/<strategy>/fold_<fold>``. Runs that are finished there are not repeated, so a study
that was stopped goes on with the same command.
"""

import os
import time
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mtmd_core.config import NETWORKS, RunConfig, StudyConfig
from mtmd_core.config_checks import checked
from mtmd_core.config_files import compose, save_config
from mtmd_core.errors import ConfigurationError
from mtmd_core.processes import uninterrupted
from mtmd_core.quantities import say_duration
from mtmd_core.strategies import TRANSFERS

from .data import load_sites, make_phantoms
from .run_exams import check_exams, noted_exams
from .run_page import REPORT
from .runs import CONFIG, SUMMARY, finished_summary
from .worker import RunProcess

CHOSEN_BY = {
    "network": "study.networks",
    "network.name": "study.networks",
    "strategy": "study.strategies",
    "fold": "study.folds",
}
"""Words of one run → the words of a study that take their place."""
TAKERS = {
    "network.width": ("att_unet",),
    "network.encoder_weights": tuple(network for network in NETWORKS if network != "att_unet"),
}
"""Words that not every network knows → those that do."""
LOOK_SECONDS = 0.1
"""Pause between two looks at the running processes."""


class RunKey(NamedTuple):
    """Which of a study's runs."""

    network: str
    strategy: str
    fold: int

    def __str__(self) -> str:
        return f"{self.network} {self.strategy} fold {self.fold}"


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: what tells it from the others, its whole configuration, and where its files go."""

    key: Hashable
    config: RunConfig
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a study's runs: summaries of those that are finished, and why the others are not."""

    planned: list[PlannedRun]
    summaries: dict[Hashable, dict]
    failures: dict[Hashable, str]


def conduct(
    config: RunConfig,
    words: Sequence[str],
    folder: Path,
    console: Console,
    wanted: Callable[[str, str], bool] = lambda network, strategy: True,
) -> Outcome:
    """Plan a study's runs and carry out those that are not finished yet.

    Args:
        config: of the study; without sites, phantom joints are made.
        words: of the command line; they are composed anew with every network's own file.
        folder: of the study.
        console: where a line for every finished run goes.
        wanted: whether a network and a strategy are to be combined.

    Raises:
        ConfigurationError: before anything runs, if a run cannot be as it is asked for, or its folder holds another one, or the
            same with other exams.
        DataError: before anything runs, for exams that cannot be used.
    """
    configs = {network: compose_network(words, network, config.study.networks) for network in config.study.networks}
    sites = config.sites or make_phantoms(config, console)
    planned = plan_runs(replace(config, sites=sites), configs, folder, wanted)
    return carry_out(planned, config, folder, console)


def carry_out(planned: Sequence[PlannedRun], config: RunConfig, folder: Path, console: Console) -> Outcome:
    """Make those of the planned runs that are not finished yet, ``study.jobs`` at a time, with a line for each.

    Once all of them can be made, ``folder`` gets the study's configuration, as it was given.

    Raises:
        ConfigurationError: before anything runs, if a run's folder holds another one, or the same with other exams.
        DataError: before anything runs, for exams that cannot be used.
    """
    summaries = {
        run.key: summary for run in planned if (summary := finished_summary(run.config, run.folder)) is not None
    }
    pending = [run for run in planned if run.key not in summaries]
    _check_exams(planned, summaries)
    save_config(config, folder / CONFIG)
    if pending:
        for name in (SUMMARY, REPORT):  # of fewer runs; until they are written anew, the study is not finished
            (folder / name).unlink(missing_ok=True)
    jobs = config.study.jobs
    already = f", {len(summaries)} of them already finished" if summaries else ""
    threads = planned[0].config.threads
    console.print(f"{len(planned)} runs{already}; {jobs} at a time, threads each: {threads}", markup=False)
    failures = _make(pending, jobs, console, summaries)
    return Outcome(planned, {run.key: summaries[run.key] for run in planned if run.key in summaries}, failures)


def threads_each(config: RunConfig) -> int:
    """Threads of each of a study's runs: as configured, or an equal part of the cores."""
    return config.threads or max(1, _cores() // config.study.jobs)


def plan_runs(
    config: RunConfig,
    configs: Mapping[str, RunConfig],
    folder: Path,
    wanted: Callable[[str, str], bool] = lambda network, strategy: True,
) -> list[PlannedRun]:
    """All runs of a study, fold by fold, so that a study that is stopped early has compared all methods in some folds.

    Args:
        config: of the study, its sites known.
        configs: network → the configuration of its runs, from :func:`compose_network`.
        folder: of the study.
        wanted: whether a network and a strategy are to be combined.

    Raises:
        ConfigurationError: if a run cannot be as it is asked for, or nothing is wanted.
    """
    study, planned = config.study, []
    threads = threads_each(config)
    for fold in study.folds:
        for network, own in configs.items():
            for strategy in strategies_of(study, config.sites):
                if wanted(network, strategy):
                    key = RunKey(network, strategy, fold)
                    variant = replace(own, sites=config.sites, strategy=strategy, fold=fold, threads=threads)
                    planned.append(PlannedRun(key, checked(variant), run_folder(folder, key)))
    if not planned:
        raise ConfigurationError(
            f"experiment={config.experiment} has no row for any of study.networks={study.networks} with any of "
            f"study.strategies={study.strategies}."
        )
    return planned


def compose_network(words: Sequence[str], network: str, others: Sequence[str] = ()) -> RunConfig:
    """The configuration of a network's runs: its own file's hyper-parameters, then the words of the command line.

    A word that means nothing to this network, but does to ``others`` of the study, is theirs alone.

    Raises:
        ConfigurationError: for a word that chooses one run where a study makes several.
    """
    own = []
    for override in OverridesParser.create().parse_overrides(list(words)):
        takers = TAKERS.get(override.key_or_group, NETWORKS)
        if network in takers or not set(takers) & set(others):
            own.append(override.input_line)
        if override.key_or_group in CHOSEN_BY:
            raise ConfigurationError(
                f"this experiment makes several runs: instead of {override.input_line}, write "
                f"{CHOSEN_BY[override.key_or_group]}=[...]."
            )
    return replace(compose("simulate", [*own, f"network={network}"]), experiment=None)


def strategies_of(study: StudyConfig, sites: Iterable[str]) -> list[str]:
    """The study's strategies, ``transfer`` replaced by a transfer from every site.

    >>> strategies_of(StudyConfig(strategies=["individual", "transfer"]), ["knee", "ankle"])
    ['individual', 'transfer_ankle', 'transfer_knee']
    """
    names: dict[str, None] = {}
    for strategy in study.strategies:
        names |= dict.fromkeys(
            [f"{TRANSFERS}_{site}" for site in sorted(sites)] if strategy == TRANSFERS else [strategy]
        )
    return list(names)


def run_folder(folder: Path, key: RunKey) -> Path:
    """Where a study keeps one of its runs."""
    return folder / "runs" / key.network / key.strategy / f"fold_{key.fold}"


def dice_of(summary: dict) -> dict[str, float | None]:
    """Site → mean Dice over its structures and test exams."""
    return {site: values["foreground_mean"]["dice"] for site, values in summary["sites"].items()}


def _check_exams(planned: Sequence[PlannedRun], finished: Container[Hashable]) -> None:
    """Read all exams once: what cannot be used, or is not what a run was begun with, is said before anything runs, and the runs
    find their slices cut. For runs that are finished their exams need not be there any more.
    """
    last = max((run.config.fold for run in planned if run.key not in finished), default=0)
    by_cut: dict[tuple[int, str], list[PlannedRun]] = {}
    for run in planned:
        if run.key not in finished or (noted_exams(run.folder) and all(map(os.path.isdir, run.config.sites.values()))):
            by_cut.setdefault((run.config.data.slice_size, run.config.data.slice_axis), []).append(run)
    for runs in by_cut.values():
        sites = load_sites(replace(runs[0].config, fold=last))
        for run in runs:
            check_exams(sites, run.folder)


def _make(
    pending: Sequence[PlannedRun], jobs: int, console: Console, summaries: dict[Hashable, dict]
) -> dict[Hashable, str]:
    """Run what is pending and add its summaries to ``summaries``; returns why runs failed."""
    durations, failures = [], {}
    bar = Progress(
        TextColumn("[bold]study"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs ·"),
        TimeElapsedColumn(),
        TextColumn("· {task.fields[left]}"),
        console=console,
        disable=not console.is_terminal,
    )
    with bar, closing(_ended(pending, jobs)) as ended:
        task = bar.add_task("", total=len(pending), left="")
        for run, failure, seconds in ended:
            durations.append(seconds)
            left = len(pending) - len(durations)
            wait = sum(durations) / len(durations) * left / min(jobs, max(left, 1))
            rest = f"{left} left, about {say_duration(wait)}" if left else "all done"
            bar.update(task, advance=1, left=rest)
            if failure is None and (summary := finished_summary(run.config, run.folder)) is not None:
                summaries[run.key] = summary
                scores = " · ".join(f"{site} {_number(dice)}" for site, dice in dice_of(summary).items())
                line = f"{run.key}: Dice {scores}, {say_duration(seconds)}"
            else:
                failures[run.key] = failure or "it ended without a summary"
                line = f"{run.key} failed: {failures[run.key]}"
            console.print(f"{line} ({rest})", markup=False)
    return failures


def _ended(pending: Sequence[PlannedRun], jobs: int) -> Iterator[tuple[PlannedRun, str | None, float]]:
    """Keep ``jobs`` processes at work; each run as it ends, with the reason if it failed, and the seconds that it took.

    Closing the generator ends them all.
    """
    waiting, running = list(pending), []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                with uninterrupted():
                    running.append((run, RunProcess(run.config, run.folder)))
            time.sleep(LOOK_SECONDS)
            for run, process in [each for each in running if each[1].has_ended()]:
                running.remove((run, process))
                yield run, process.failure(), time.monotonic() - process.started
    finally:
        for _, process in running:
            process.end()


def _cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
