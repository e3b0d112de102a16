"""``experiment=table4``: Table 4 of the paper, statistics of the 2D scores of all sites and folds together.

It takes the runs of tables 2 and 3 that are finished in the same folder, and makes those that are not.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from mtmd_core.config import RunConfig
from mtmd_core.durable import write_csv
from mtmd_core.statistics import ALPHA, normality_p, same_distribution_p, significant, spread
from mtmd_core.strategies import TRANSFERS, strategy_named

from ..comparison import REFERENCE, UNDEFINED, Method, Row, empty_if_undefined, encoder_of, methods_of
from ..paper.figures import like_with_like, scores_2d
from ..slice_scores import FoldScores, read_slices, together
from ..study import Outcome, RunKey, conduct, run_folder
from .study import account_of

PROPOSED = "dsl_msc_mjap"
"""The strategy that every other one is tested against."""
COLUMNS = {"dice": "dice", "sensitivity": "sens", "specificity": "spec"}
"""2D metric → how the table's columns begin."""


def run_table4(config: RunConfig, words: Sequence[str], folder: Path, console: Console) -> dict:
    """Make what is missing of the runs, then compute, print and write ``table4.csv``.

    Columns: those of Table 4 (``…_p``: Kolmogorov–Smirnov against dsl_msc_mjap of the same backbone over the folds of both);
    ``n`` slices with a defined Dice, ``folds``, ``compared_folds``, ``encoder_weights``, ``…_normality_p`` (D'Agostino and
    Pearson), ``…_significant`` at α = 0.01, and the paper's figures, where its encoder starts in the same way.
    """
    outcome = conduct(config, words, folder, console, has_row)
    methods = methods_of(outcome)
    samples = {
        (method.network, method.strategy): collect_slices(folder, method, sorted(outcome.planned[0].config.sites))
        for method in methods
    }
    rows = [
        _row(method, samples[method.network, method.strategy], samples.get((method.network, PROPOSED), {}))
        for method in methods
    ]
    write_csv(folder / "table4.csv", rows)
    _print(rows, console)
    _say_what_is_missing(outcome, rows, console)
    return {"experiment": "table4", "rows": rows} | account_of(outcome)


def has_row(network: str, strategy: str) -> bool:
    """Whether Table 4 has a row for a backbone and a strategy; a transfer from any site counts as one."""
    return (network, _kind(strategy)) in {(backbone, _kind(name)) for backbone, name in scores_2d()}


def collect_slices(folder: Path, method: Method, sites: Sequence[str]) -> FoldScores:
    """A method's 2D scores of all sites together, in every fold that has them for each site.

    A transfer's source, which it is not tested on, is filled with individual's scores (the paper, section 3.4).

    Args:
        folder: of the study.
        method: whose finished folds are taken.
        sites: all sites of the study.
    """
    source, folds = strategy_named(method.strategy).source, {}
    for fold in sorted(method.folds):
        own = read_slices(run_folder(folder, RunKey(method.network, method.strategy, fold)))
        if source is not None:
            alone = read_slices(run_folder(folder, RunKey(method.network, REFERENCE, fold)))
            own = own | {site: alone[site] for site in alone if site == source}
        if all(site in own for site in sites):
            folds[fold] = together(own[site] for site in sites)
    return folds


def _row(method: Method, own: FoldScores, proposed: FoldScores) -> Row:
    row: Row = {"backbone": method.network, "strategy": method.strategy}
    more: Row = {}
    common = sorted(own.keys() & proposed.keys()) if method.strategy != PROPOSED else []
    pooled = together(own.values())
    for metric, column in COLUMNS.items():
        _, mean, up, down = spread(pooled[metric])
        p = same_distribution_p(*(together(each[fold] for fold in common)[metric] for each in (own, proposed)))
        row |= {
            f"{column}2d": empty_if_undefined(mean),
            f"{column}2d_up": empty_if_undefined(up),
            f"{column}2d_down": empty_if_undefined(down),
            f"{column}_p": _p_value(p),
        }
        more |= {
            f"{column}_normality_p": _p_value(normality_p(pooled[metric])),
            f"{column}_significant": {True: "yes", False: "no", None: None}[significant(p)],
        }
    paper_columns = [name for name in row if name not in ("backbone", "strategy")]
    row |= {
        "n": int(np.isfinite(pooled["dice"]).sum()),
        "folds": len(own),
        "compared_folds": len(common) if method.strategy != PROPOSED else None,
        "encoder_weights": method.encoder_weights,
    }
    known = scores_2d() if like_with_like(method.network, method.encoder_weights) else {}
    published = known.get((method.network, method.strategy), {})
    return row | more | {f"paper_{column}": published.get(column) for column in paper_columns}


def _print(rows: Sequence[Mapping], console: Console) -> None:
    for network in dict.fromkeys(row["backbone"] for row in rows):
        own = [row for row in rows if row["backbone"] == network]
        console.print(f"{network}, {encoder_of(own[0]['encoder_weights'])}: 2D scores in %", markup=False)
        table = Table(Column("strategy", no_wrap=True), *COLUMNS, "slices", "folds")
        for row in own:
            cells = (_cell(row, column) for column in COLUMNS.values())
            table.add_row(row["strategy"], *cells, str(row["n"]), str(row["folds"]))
        console.print(table)
    console.print(
        f"mean, distances to the 84th and the 16th percentile; p: Kolmogorov–Smirnov against {PROPOSED}, * below {ALPHA}"
    )


def _cell(row: Mapping, column: str) -> str:
    mean, up, down, p = (row[name] for name in (f"{column}2d", f"{column}2d_up", f"{column}2d_down", f"{column}_p"))
    if mean is None:
        return UNDEFINED
    star = "*" if row[f"{column}_significant"] == "yes" else ""
    return f"{mean:.1f}\n{up:+.1f} {-down:+.1f}" + ("" if p is None else f"\np {p:.1e}{star}")


def _say_what_is_missing(outcome: Outcome, rows: Sequence[Mapping], console: Console) -> None:
    finished = {(key.network, key.strategy) for key in outcome.summaries}
    for row in rows:
        if row["folds"] == 0 and (row["backbone"], row["strategy"]) in finished:
            console.print(
                f"{row['backbone']} {row['strategy']} has finished runs, but not the 2D scores of every site: a transfer "
                f"needs {REFERENCE} for its source.",
                markup=False,
            )


def _kind(strategy: str) -> str:
    return TRANSFERS if strategy_named(strategy).source is not None else strategy


def _p_value(p: float) -> float | None:
    """Three significant digits, None for NaN."""
    return None if np.isnan(p) else float(f"{p:.3g}")
