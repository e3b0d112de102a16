"""``experiment=external``: finished runs on exams that none of them has seen, nothing is trained.

A fold of leave-one-out tests one exam a site, and single exams differ more than methods do. Exams of another source tell methods
apart with the same networks, and say what these are worth elsewhere (external validation).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from mtmd_core.config import RunConfig
from mtmd_core.data.site_data import SiteData, load_site
from mtmd_core.durable import write_csv, write_json
from mtmd_core.errors import ConfigurationError
from mtmd_core.evaluation import SiteScores, evaluate_exams
from mtmd_core.statistics import Difference, mean_and_deviation
from mtmd_core.strategies import strategy_named

from ..comparison import (
    REFERENCE,
    Method,
    Row,
    difference_cell,
    empty_if_undefined,
    interval_columns,
    number_cell,
    pair_columns,
)
from ..data import make_phantoms
from ..found_runs import FoundRun, find_runs
from ..trained import segmentation_networks

WIDE = 100
"""Columns of a terminal that the whole table needs."""
NO_DIFFERENCE = Difference(0, math.nan, math.nan, math.nan)


def run_external(config: RunConfig, words: Sequence[str], folder: Path, console: Console) -> dict:
    """Score all finished runs of ``study.folder`` on all exams of ``sites``; print, write ``external.csv`` and ``external.json``.

    One row a method (strategy, or rung of a ladder): its Dice in percent over the exams of each site, of all sites, and of the
    worst one (mean and sample standard deviation over the folds, that is over trainings), and paired differences over folds with
    95 % confidence intervals (Student's t) to sites alone and, for a federation, to the pooled run of the same strategy.
    ``external.json``: method → fold → site → exam → Dice.

    Raises:
        ConfigurationError: without a folder, if it holds no finished run, or if runs were trained on the exams given.
        DataError: for exams that cannot be used.
    """
    runs = _runs(config, console)
    config.sites = config.sites or _fresh_phantoms(config, runs, console)
    _check_strange(config.sites, runs)

    @cache
    def exams(site: str, size: int, axis: int) -> SiteData:
        return load_site(site, Path(config.sites[site]), size, str(axis), Path(config.data.cache_dir))

    tested: dict[tuple[str, str], Tested] = {}
    for place, run in enumerate(runs, start=1):
        console.print(f"{place}/{len(runs)} {run}", markup=False)
        own = tested.setdefault((run.key.network, run.title), Tested(run.title, run.config, {}))
        own.scores[run.key.fold] = _score(run, config.sites, exams)
    rows = [_row(own, list(tested.values()), sorted(config.sites)) for own in tested.values()]
    write_csv(folder / "external.csv", rows)
    write_json(folder / "external.json", {" ".join(name): own.by_exam() for name, own in tested.items()})
    _print(rows, sorted(config.sites), console)
    console.print(f"all columns: {folder / 'external.csv'}; exam by exam: {folder / 'external.json'}", markup=False)
    return {"experiment": "external", "rows": rows}


@dataclass(frozen=True)
class Tested:
    """A method, the configuration of one of its runs, and its scores: fold → site → scores of all exams given."""

    title: str
    config: RunConfig
    scores: dict[int, dict[str, SiteScores]]

    @property
    def method(self) -> Method:
        """What tables compare."""
        network = self.config.network
        folds = {
            fold: {site: own.summary["foreground_mean"] for site, own in sites.items()}
            for fold, sites in self.scores.items()
        }
        sites = sorted(set.union(*(set(own) for own in folds.values())))
        return Method(network.name, self.title, network.encoder_weights, tuple(sites), folds)

    def by_exam(self) -> dict[int, dict[str, dict[str, float | None]]]:
        """Fold → site → exam → mean Dice over its structures."""
        return {fold: {site: _dice_of_exams(own) for site, own in sites.items()} for fold, sites in self.scores.items()}


def _dice_of_exams(scores: SiteScores) -> dict[str, float | None]:
    dice = {}
    for case in scores.summary["metric_per_case"]:
        values = [own["dice"] for own in case["metrics"].values() if own["dice"] is not None]
        dice[case["case"]] = sum(values) / len(values) if values else None
    return dice


def _runs(config: RunConfig, console: Console) -> list[FoundRun]:
    if config.study.folder is None:
        raise ConfigurationError("which runs to score is not said: give study.folder=DIR, that of a study or of a run.")
    found = find_runs(Path(config.study.folder))
    for key in found.unfinished:
        console.print(f"{key} is not finished and left out", markup=False)
    return found.finished


def _fresh_phantoms(config: RunConfig, runs: Sequence[FoundRun], console: Console) -> dict[str, str]:
    trained = runs[0].config.phantoms
    if config.phantoms.seed == trained.seed:
        raise ConfigurationError(
            f"phantoms.seed is {trained.seed}, that of the runs' own phantoms: give another one, for exams they have not seen."
        )
    return make_phantoms(replace(config, phantoms=replace(config.phantoms, scale=trained.scale)), console)


def _check_strange(sites: Mapping[str, str], runs: Sequence[FoundRun]) -> None:
    """That no run was trained on these exams, as far as folders tell."""
    for run in runs:
        trained = {Path(folder).resolve() for folder in run.config.sites.values()}
        for site, folder in sites.items():
            if Path(folder).resolve() in trained:
                raise ConfigurationError(
                    f"{folder} ({site}) is what {run} was trained on: give sites= with exams that it has not seen."
                )


def _score(
    run: FoundRun, sites: Mapping[str, str], exams: Callable[[str, int, int], SiteData]
) -> dict[str, SiteScores]:
    """Site → scores of its exams by the network that the run has for it; a site that the run does not test is left out."""
    networks = {site: own for site, own in segmentation_networks(run.config, run.folder).items() if site in sites}
    if not networks:
        raise ConfigurationError(
            f"{run} knows none of the sites {', '.join(sorted(sites))}: name them as the run does."
        )
    source = strategy_named(run.key.strategy).source
    scores = {}
    for site in networks.keys() - {source}:
        card = networks[site].card
        data = exams(site, run.config.data.slice_size, card.slice_axis)
        if data.structures != card.structures:
            raise ConfigurationError(
                f"{run} knows {', '.join(card.structures)} at {site}, {sites[site]} has {', '.join(data.structures)}: "
                "give exams with the same structures in the same order."
            )
        names, bf16 = list(data.exams), run.config.training.autocast
        scores[site] = evaluate_exams(networks[site].network, card.space, data, names, bf16)
    return dict(sorted(scores.items()))


def _row(own: Tested, everything: Sequence[Tested], sites: Sequence[str]) -> Row:
    method, config = own.method, own.config
    rivals = [other for other in everything if other.config.network.name == config.network.name]
    alone = _first(other for other in rivals if other.config.strategy == REFERENCE)
    pooled = _first(
        other
        for other in rivals
        if own.config.mode == "federated"
        and other.config.mode == "centralised"
        and other.config.strategy == config.strategy
    )
    row: Row = {"backbone": config.network.name, "method": own.title, "strategy": config.strategy, "mode": config.mode}
    row["folds"] = len(own.scores)
    row["exams"] = sum(len(dice) for dice in next(iter(own.by_exam().values())).values())
    row |= pair_columns("dice", *mean_and_deviation(list(method.dice(method.sites).values())))
    worst = method.worst_site()
    row["worst_site"], row["worst_site_dice"] = (worst[0], empty_if_undefined(worst[1])) if worst else (None, None)
    row |= interval_columns("minus_alone", _against(method, alone, method.sites))
    row |= interval_columns("minus_pooled", _against(method, pooled, method.sites))
    for site in sites:
        known = site in method.sites
        row |= pair_columns(f"{site}_dice", *(method.over_folds(site, "dice") if known else (math.nan, math.nan)))
        row |= interval_columns(f"{site}_minus_alone", _against(method, alone, [site] if known else []))
    return row


def _first(found: Iterable[Tested]) -> Method | None:
    return next((own.method for own in found), None)


def _against(method: Method, reference: Method | None, sites: Sequence[str]) -> Difference:
    """Over the sites that both are tested on."""
    common = [site for site in sites if reference is not None and site in reference.sites]
    return method.against(reference, common) if common else NO_DIFFERENCE


def _print(rows: Sequence[Row], sites: Sequence[str], console: Console) -> None:
    wide = console.width >= WIDE
    titles = [*sites, "mean", "− alone", "− pooled", *(("folds",) if wide else ())]
    table = Table(
        Column("method", no_wrap=True), title="Dice in % on exams that no run has seen", padding=(0, 1 if wide else 0)
    )
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = [number_cell(row[f"{site}_dice_mean"]) for site in sites]
        cells += [number_cell(row["dice_mean"])]
        cells += [difference_cell(row, name) for name in ("minus_alone", "minus_pooled")]
        table.add_row(str(row["method"]), *[*cells, str(row["folds"])][: len(titles)])
    console.print(table)
    console.print("over folds; ±: 95 % confidence interval of the paired difference")
