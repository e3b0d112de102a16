"""``experiment=ladder``: what talking to each other buys, rung by rung from sites alone to pooled training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from mtmd_core.config import RunConfig
from mtmd_core.config_files import refuse_unheeded
from mtmd_core.durable import read_json_lines, write_csv
from mtmd_core.page.rounds import totals

from ..comparison import (
    Method,
    Row,
    difference_cell,
    empty_if_undefined,
    interval_columns,
    number_cell,
    overall_columns,
    pair_columns,
)
from ..data import make_phantoms
from ..ladder import LOCAL, Rung, plan_ladder, rungs_of
from ..ladder_plot import draw_ladder
from ..study import Outcome, carry_out

CHOSEN_BY_RUNGS = {
    "fold": "say study.folds=[…]",
    "mode": "say with study.rungs=[…] which rungs are wanted",
    "strategy": "say study.strategies=[…]",
    "study.networks": "all rungs have the same network, so say network=",
    "federation.rounds": "say training.steps= and study.local_steps=[…]",
    "federation.local_steps": "say study.local_steps=[…]",
    "federation.autoencoder_rounds": "say autoencoder.steps= and study.local_steps=[…]",
    "federation.validate_every_rounds": "say training.validate_every_steps=",
}
"""Words of one run → what says the same of a ladder's."""
MEGABYTE = 1e6
WIDE = 110
"""Columns of a terminal that the whole table needs."""


def run_ladder(config: RunConfig, words: Sequence[str], folder: Path, console: Console) -> dict:
    """Make all runs, print the rungs side by side, and write ``ladder.csv`` and ``ladder.png``.

    One row a rung: its Dice in percent on the test exams of all sites and of the worst one (mean and sample standard deviation
    over folds); the paired differences of the mean Dice to its twin (the pooled run of the same strategy; for a variant, the rung
    without it) and to local training, with 95 % confidence intervals (Student's t over folds); megabytes of all sites together in
    both directions, auto-encoder included; and seconds.

    Raises:
        ConfigurationError: for words that rungs choose for themselves, and if runs cannot be as they are asked for.
    """
    refuse_unheeded(words, "ladder", CHOSEN_BY_RUNGS)
    given, config = config, replace(config, sites=config.sites or make_phantoms(config, console))
    outcome = carry_out(plan_ladder(config, folder), given, folder, console)
    methods = {rung: _method(rung, outcome, config) for rung in rungs_of(config)}
    rows = [_row(rung, methods, outcome, config) for rung in methods]
    write_csv(folder / "ladder.csv", rows)
    _print(rows, sorted(config.sites), console)
    draw_ladder(methods, folder / "ladder.png")
    console.print(f"all columns: {folder / 'ladder.csv'}; picture: {folder / 'ladder.png'}", markup=False)
    return {
        "experiment": "ladder",
        "captions": {"ladder.png": "Mean Dice of every rung on the test exams, all folds"},
        "rows": rows,
        "failures": {str(key): reason for key, reason in outcome.failures.items()},
    }


def traffic(folder: Path) -> tuple[float, float]:
    """Bytes to the sites and from them in all rounds of a federation, its auto-encoder's too; 0 without a federation."""
    sums = [own for path in folder.glob("*round_metrics.jsonl") for own in totals(read_json_lines(path)).values()]
    return tuple(sum(own.get(word, 0) for own in sums) for word in ("bytes_to_site", "bytes_from_site"))


def _method(rung: Rung, outcome: Outcome, config: RunConfig) -> Method:
    sites = tuple(sorted(config.sites))
    folds = {
        key.fold: {site: summary["sites"][site]["foreground_mean"] for site in sites}
        for key, summary in outcome.summaries.items()
        if key.rung == rung
    }
    return Method(config.network.name, rung.name, config.network.encoder_weights, sites, folds)


def _row(rung: Rung, methods: Mapping[Rung, Method], outcome: Outcome, config: RunConfig) -> Row:
    method, local = methods[rung], methods[Rung("individual", LOCAL)]
    row: Row = {
        "rung": rung.name,
        "strategy": rung.strategy,
        "kind": rung.kind,
        "local_steps": rung.local_steps,
        "variant": rung.variant,
        "folds": len(method.folds),
        "encoder_weights": method.encoder_weights,
        "images_a_site": config.training.steps * (config.training.batch_size // len(config.sites)),
    }
    row |= overall_columns(method)
    for site in method.sites:
        row |= pair_columns(f"{site}_dice", *method.over_folds(site, "dice"))
        row[f"{site}_minus_local"] = empty_if_undefined(method.against(local, [site]).mean)
    twin = methods.get(rung.twin)
    row["twin"] = twin.strategy if twin else None
    row |= interval_columns("minus_twin", method.against(twin, method.sites))
    row |= interval_columns("minus_local", method.against(local, method.sites))
    folders = [run.folder for run in outcome.planned if run.key.rung == rung and run.key in outcome.summaries]
    sums = [traffic(folder) for folder in folders]
    for place, column in enumerate(("megabytes_to_sites", "megabytes_from_sites")):
        row[column] = round(sum(both[place] for both in sums) / len(sums) / MEGABYTE, 3) if sums else None
    seconds = [outcome.summaries[key]["seconds"] for key in outcome.summaries if key.rung == rung]
    row["seconds"] = round(sum(seconds) / len(seconds), 1) if seconds else None
    return row


def _print(rows: Sequence[Row], sites: Sequence[str], console: Console) -> None:
    """What fits: a terminal of 80 columns has no room for traffic and time."""
    wide = console.width >= WIDE
    titles = [*sites, "mean", "worst", "− twin", "− local", *(("MB", "s") if wide else ())]
    table = Table(Column("rung", no_wrap=True), title="Dice in % on the test exams", padding=(0, 1 if wide else 0))
    for title in titles:
        table.add_column(title, justify="right", min_width=4)
    for row in rows:
        cells = [number_cell(row[f"{site}_dice_mean"]) for site in sites]
        cells += [number_cell(row["dice_mean"]), number_cell(row["worst_site_dice"])]
        cells += [difference_cell(row, name) for name in ("minus_twin", "minus_local")]
        cells += [number_cell((row["megabytes_to_sites"] or 0) + (row["megabytes_from_sites"] or 0), 0)]
        cells += [number_cell(row["seconds"], 0)]
        table.add_row(row["rung"], *cells[: len(titles)])
    console.print(table)
    console.print(
        "twin: the pooled run of the same strategy; of a variant, the rung without it. ±: 95 % confidence interval"
    )
