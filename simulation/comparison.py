"""A study's methods side by side: 3D scores over folds, in the columns of Tables 2 and 3 of the paper."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Column, Table

from mtmd_core.config import NO_WEIGHTS
from mtmd_core.scores import METRICS_3D
from mtmd_core.statistics import Difference, mean_and_deviation, paired_difference
from mtmd_core.strategies import strategy_named

from .images import images_a_site, unequal_images
from .paper.figures import like_with_like, scores_3d
from .study import Outcome, RunKey

PERCENT = ("dice", "sensitivity", "specificity", "ravd")
"""Metrics that tables give in percent; the others are in mm."""
REFERENCE = "individual"
UNDEFINED = "–"

Row = dict[str, str | int | float | None]
Foreground = dict[str, float | None]  # metric → mean over structures and test exams


@dataclass(frozen=True)
class Method:
    """A network trained with a strategy, in all folds that are finished."""

    network: str
    strategy: str
    encoder_weights: str
    sites: tuple[str, ...]  # that it is tested on: a transfer's source is none of them
    folds: dict[int, dict[str, Foreground]]  # fold → site → scores
    images: dict[int, dict[str, int]] = field(default_factory=dict)  # fold → site → images that it was trained on

    def dice(self, sites: Iterable[str]) -> dict[int, float | None]:
        """Fold → mean Dice over some sites in percent; None where a site has none."""
        means = {}
        for fold, scores in self.folds.items():
            values = [scores[site]["dice"] for site in sites]
            means[fold] = None if not values or None in values else 100 * sum(values) / len(values)
        return means

    def over_folds(self, site: str, metric: str) -> tuple[float, float]:
        """Mean and sample standard deviation over folds, in percent or mm; NaN where they are undefined."""
        scale = 100 if metric in PERCENT else 1
        values = [scores[site][metric] for scores in self.folds.values()]
        return mean_and_deviation([None if value is None else scale * value for value in values])

    def worst_site(self) -> tuple[str, float] | None:
        """The site with the lowest mean Dice, and that Dice; the first by name if there are several."""
        means = {site: self.over_folds(site, "dice")[0] for site in self.sites}
        defined = {site: mean for site, mean in means.items() if not math.isnan(mean)}
        return min(defined.items(), key=lambda entry: entry[1], default=None)

    def against(self, reference: "Method | None", sites: Iterable[str]) -> Difference:
        """Difference of mean Dice over some sites to another method's, in percentage points, over the folds of both.

        Undefined without a reference, and against the method itself.
        """
        sites = list(sites)
        own, other = self.dice(sites), {} if reference in (None, self) else reference.dice(sites)
        common = sorted(own.keys() & other.keys())
        return paired_difference([own[fold] for fold in common], [other[fold] for fold in common])


def methods_of(outcome: Outcome) -> list[Method]:
    """The study's methods in the order of its networks, then of its strategies; also those without a finished run."""
    found: dict[tuple[str, str], Method] = {}
    for run in outcome.planned:
        network, strategy, fold = run.key
        source = strategy_named(strategy).source
        sites = tuple(site for site in sorted(run.config.sites) if site != source)
        method = found.setdefault(
            (network, strategy), Method(network, strategy, run.config.network.encoder_weights, sites, {})
        )
        summary = outcome.summaries.get(RunKey(network, strategy, fold))
        if summary is not None:
            method.folds[fold] = {site: summary["sites"][site]["foreground_mean"] for site in sites}
            method.images[fold] = summary.get("images", {})  # unknown in runs of older versions
    return list(found.values())


def reference_of(method: Method, methods: Sequence[Method]) -> Method | None:
    """The same network trained on each site alone."""
    return next((each for each in methods if (each.network, each.strategy) == (method.network, REFERENCE)), None)


def rows_3d(methods: Sequence[Method]) -> list[Row]:
    """One row for each backbone, joint (site) and strategy that is tested there.

    Columns: those of Tables 2 and 3; ``folds`` that are finished; ``images_a_site``: how many images of this one a network was
    trained on, mean over folds, those that come again counted again; ``encoder_weights``; ``dice_difference`` to individual
    with its 95 % confidence interval (Student's t over the folds of both); the strategy's worst site; and the paper's
    figures, where it has that joint and backbone, trained from the same kind of encoder. Standard deviations are those of
    a sample (n − 1 in the denominator), empty for one fold.
    """
    networks = dict.fromkeys(method.network for method in methods)
    sites = sorted({site for method in methods for site in method.sites})
    return [
        _row(method, site, reference_of(method, methods))
        for network in networks
        for site in sites
        for method in methods
        if method.network == network and site in method.sites
    ]


def print_comparison(methods: Sequence[Method], console: Console) -> None:
    """Two tables a network: Dice of every site, then each strategy's worst site, its distance to every site alone, and how many
    images of a site it saw, with a warning where strategies did not see as many."""
    for network in dict.fromkeys(method.network for method in methods):
        own = [method for method in methods if method.network == network]
        sites = sorted({site for method in own for site in method.sites})
        dice = Table(Column("strategy", no_wrap=True), *sites, "mean")
        dice.add_column("folds", justify="right")
        contrast = Table(Column("strategy", no_wrap=True), "worst site", f"mean − {REFERENCE}", "95 % CI")
        contrast.add_column("images a site", justify="right")
        seen = {method.strategy: images_a_site(method.images.values()) for method in own}
        for method in own:
            dice.add_row(method.strategy, *_dice_cells(method, sites), str(len(method.folds)))
            contrast.add_row(
                method.strategy,
                *_contrast_cells(method, reference_of(method, methods)),
                number_cell(seen[method.strategy], 0),
            )
        console.print(f"{network}, {encoder_of(own[0].encoder_weights)}: Dice in %", markup=False)
        console.print(dice)
        console.print(contrast)
        if (warning := unequal_images(seen)) is not None:
            console.print(warning, markup=False)
    console.print(
        "mean ± sample standard deviation over folds; a transfer is compared on the sites that it is tested on"
    )


def encoder_of(weights: str) -> str:
    """What a printed table says of where an encoder starts from."""
    return "not pre-trained" if weights == NO_WEIGHTS else f"encoder from {weights}"


def empty_if_undefined(value: float, digits: int = 4) -> float | None:
    """A number for a table's cell, None for NaN."""
    return None if math.isnan(value) else round(value, digits)


def overall_columns(method: Method) -> Row:
    """Mean Dice over all sites, its standard deviation over folds, the worst site and its Dice."""
    row = pair_columns("dice", *mean_and_deviation(list(method.dice(method.sites).values())))
    worst = method.worst_site()
    row["worst_site"], row["worst_site_dice"] = (worst[0], empty_if_undefined(worst[1])) if worst else (None, None)
    return row


def pair_columns(name: str, mean: float, deviation: float) -> Row:
    """A mean and its standard deviation as two columns of a table."""
    return {f"{name}_mean": empty_if_undefined(mean), f"{name}_std": empty_if_undefined(deviation)}


def interval_columns(name: str, difference: Difference) -> Row:
    """A difference and the ends of its confidence interval as three columns of a table."""
    return {
        name: empty_if_undefined(difference.mean),
        f"{name}_low": empty_if_undefined(difference.low),
        f"{name}_high": empty_if_undefined(difference.high),
    }


def difference_cell(row: Row, name: str) -> str:
    """What a terminal shows of :func:`interval_columns`: the difference and half of its interval."""
    if row[name] is None:
        return ""
    half = "" if row[f"{name}_low"] is None else f" ±{(row[f'{name}_high'] - row[f'{name}_low']) / 2:.1f}"
    return f"{row[name]:+.1f}{half}"


def number_cell(value: float | None, digits: int = 1) -> str:
    """What a terminal shows of a number that may be undefined."""
    return UNDEFINED if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _row(method: Method, site: str, reference: Method | None) -> Row:
    row: Row = {"backbone": method.network, "joint": site, "strategy": method.strategy}
    for metric in METRICS_3D:
        mean, deviation = method.over_folds(site, metric)
        row |= {f"{metric}_mean": empty_if_undefined(mean), f"{metric}_std": empty_if_undefined(deviation)}
    difference, worst = method.against(reference, [site]), method.worst_site()
    row |= {
        "folds": len(method.folds),
        "images_a_site": images_a_site({site: own[site]} for own in method.images.values() if site in own),
        "encoder_weights": method.encoder_weights,
        "dice_difference": empty_if_undefined(difference.mean),
        "dice_difference_low": empty_if_undefined(difference.low),
        "dice_difference_high": empty_if_undefined(difference.high),
        "worst_site": worst[0] if worst else None,
        "worst_site_dice_mean": empty_if_undefined(worst[1]) if worst else None,
    }
    known = scores_3d() if like_with_like(method.network, method.encoder_weights) else {}
    published = known.get((method.network, site, method.strategy), {})
    columns = [f"{metric}_{part}" for metric in METRICS_3D for part in ("mean", "std")]
    return row | {f"paper_{column}": published.get(column) for column in columns}


def _dice_cells(method: Method, sites: Sequence[str]) -> list[str]:
    mean, _ = mean_and_deviation(list(method.dice(method.sites).values()))
    cells = [_spread(*method.over_folds(site, "dice")) if site in method.sites else "" for site in sites]
    return [*cells, _spread(mean, math.nan)]


def _contrast_cells(method: Method, reference: Method | None) -> list[str]:
    worst, difference = method.worst_site(), method.against(reference, method.sites)
    cells = [f"{worst[0]} {worst[1]:.1f}" if worst else UNDEFINED]
    if reference is method:
        return [*cells, "", ""]
    cells.append(UNDEFINED if math.isnan(difference.mean) else f"{difference.mean:+.1f}")
    cells.append(UNDEFINED if math.isnan(difference.low) else f"{difference.low:+.1f} to {difference.high:+.1f}")
    return cells


def _spread(mean: float, deviation: float) -> str:
    if math.isnan(mean):
        return UNDEFINED
    return f"{mean:.1f}" + ("" if math.isnan(deviation) else f" ± {deviation:.1f}")
