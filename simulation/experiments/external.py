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
from mtmd_core.config_files import refuse_unheeded, save_config
from mtmd_core.data.site_data import SiteData, load_site
from mtmd_core.durable import write_csv, write_json
from mtmd_core.errors import ConfigurationError
from mtmd_core.evaluation import SiteScores, evaluate_exams
from mtmd_core.scores import dice_of_exams
from mtmd_core.statistics import Difference, paired_difference
from mtmd_core.strategies import strategy_named
from mtmd_core.words import nearest

from ..comparison import (
    REFERENCE,
    Method,
    Row,
    difference_cell,
    interval_columns,
    number_cell,
    overall_columns,
    pair_columns,
)
from ..found_runs import FoundRun, name_in_study, runs_asked_for
from ..recalibration import recalibrate
from ..runs import CONFIG
from ..trained import segmentation_cards, segmentation_networks
from ..unseen import unseen_exams

NOT_CHOSEN = {"fold", "strategy", "mode", "study.networks", "study.strategies", "study.folds", "study.rungs"}
"""Words of other experiments that choose runs."""
WIDE = 100
"""Columns of a terminal that the whole table needs."""


def run_external(config: RunConfig, words: Sequence[str], folder: Path, console: Console) -> dict:
    """Score all finished runs of ``study.folder`` on all exams of ``sites``; print, write ``external.csv`` and ``external.json``.

    One row a method (strategy, or rung of a ladder): its Dice in percent over the exams of each site, of all sites, and of the
    worst one (means and sample standard deviations over folds, that is over trainings), and paired differences over folds with
    95 % confidence intervals (Student's t) to sites alone and, for a federation, to the pooled run of the same strategy.
    ``external.json``: method → fold → site → exam → Dice. With ``study.calibration_batches`` the networks' running statistics
    are measured anew first, alike for all.

    Raises:
        ConfigurationError: without a folder, if it holds no finished run or several studies, or if exams are not what can be
            scored: of unknown sites, with other structures, or seen by a run. Nothing has been scored by then.
        DataError: for exams that cannot be used.
    """
    refuse_unheeded(
        words, "external", dict.fromkeys(NOT_CHOSEN, "it scores every run of study.folder, so give that of one run")
    )
    runs = _runs(config, console)
    _check_sites(config.sites, runs)
    given, config = config, replace(config, sites=unseen_exams(config, words, runs, console))

    @cache
    def exams(site: str, size: int, axis: int) -> SiteData:
        return load_site(site, Path(config.sites[site]), size, str(axis), Path(config.data.cache_dir))

    wanted = [(run, chosen) for run in runs if (chosen := _tested_sites(run, config, exams, console))]
    if not wanted:
        raise ConfigurationError(f"no run of {config.study.folder} is tested on {', '.join(sorted(config.sites))}.")
    save_config(given, folder / CONFIG)
    tested: dict[tuple[str, str], Tested] = {}
    for place, (run, chosen) in enumerate(wanted, start=1):
        console.print(f"{place}/{len(wanted)} {run}", markup=False)
        own = tested.setdefault((run.key.network, run.title), Tested(run.title, run.config, {}))
        own.scores[run.key.fold] = _score(run, chosen, config, exams)
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

    def by_exam(self) -> dict[int, dict[str, dict[str, float]]]:
        """Fold → site → exam → mean Dice over its structures."""
        return {
            fold: {site: dice_of_exams(own.summary) for site, own in sites.items()}
            for fold, sites in self.scores.items()
        }


def _runs(config: RunConfig, console: Console) -> list[FoundRun]:
    finished, _ = runs_asked_for(config, console)
    places = sorted({study_of(run.folder) for run in finished})
    if len(places) > 1:
        raise ConfigurationError(
            f"{config.study.folder} holds {len(places)} studies or single runs, {places[0]} and {places[1]} among them: give one."
        )
    return finished


def study_of(run: Path) -> Path:
    """The folder of the study that a run belongs to, or the run's own."""
    return run if name_in_study(run) is None else run.parents[3]


def _check_sites(sites: Mapping[str, str], runs: Sequence[FoundRun]) -> None:
    """That each site is one of the runs'."""
    known = sorted({site for run in runs for site in run.config.sites})
    for site in sites:
        if site not in known:
            raise ConfigurationError(f"sites names '{site}', which no run knows; {nearest(site, known)}")


Exams = Callable[[str, int, int], SiteData]
"""Site, size of a slice and slice axis → its exams."""


def _tested_sites(run: FoundRun, config: RunConfig, exams: Exams, console: Console) -> list[str]:
    """The sites that a run is tested on; reads their exams, and of the run's networks the cards alone.

    Raises:
        ConfigurationError: if a site's exams have other structures, or a network is missing.
    """
    source = strategy_named(run.key.strategy).source
    cards = segmentation_cards(run.config, run.folder)
    chosen = sorted(cards.keys() & config.sites.keys() - {source})
    if not chosen:
        console.print(f"{run} is tested on none of these sites and left out", markup=False)
    for site in chosen:
        structures = exams(site, run.config.data.slice_size, cards[site].slice_axis).structures
        if structures != cards[site].structures:
            raise ConfigurationError(
                f"{run} knows {', '.join(cards[site].structures)} at {site}, {config.sites[site]} has {', '.join(structures)}: "
                "give exams with the same structures in the same order."
            )
    return chosen


def _score(run: FoundRun, sites: Sequence[str], config: RunConfig, exams: Exams) -> dict[str, SiteScores]:
    """Site → scores of its exams.

    The run's networks are in memory for as long as this takes: a study has many runs.
    """
    networks = segmentation_networks(replace(run.config, device=config.device), run.folder)
    if batches := config.study.calibration_batches:
        recalibrate(networks, run, batches, config.data.cache_dir)
    scores = {}
    for site in sites:
        own = networks[site]
        data = exams(site, run.config.data.slice_size, own.card.slice_axis)
        scores[site] = evaluate_exams(own.network, own.card.space, data, list(data.exams))
    return scores


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
    row |= overall_columns(method)
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
    return method.against(reference, common) if common else paired_difference([], [])


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
