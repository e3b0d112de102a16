"""``experiment=table5``: Table 5 of the paper, how alike the representations of domains are, at every scale.

It takes the runs that are finished in the same folder, those of table2 among them, and makes those that are not.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from mtmd_core.config import RunConfig
from mtmd_core.durable import write_csv
from mtmd_core.representations import DomainPair, domain_pairs
from mtmd_core.strategies import Sharing, strategy_named

from ..comparison import UNDEFINED, Row, empty_if_undefined, encoder_of
from ..data import load_sites
from ..paper.figures import like_with_like, similarity_limits
from ..similarities import Similarities, Similarity, similarities_of_run
from ..study import Outcome, conduct
from .study import account_of

SHOWN = ("s1", "s5", "s9")
"""The paper's scales: the encoder's first, the bottleneck, the decoder's last."""
PAPERS_NETWORK = "att_unet"


def run_table5(config: RunConfig, words: Sequence[str], folder: Path, console: Console) -> dict:
    """Make what is missing of the runs, then compute, print and write ``table5.csv``: a row a scale and two domains.

    Columns: ``domain`` and ``other_domain`` (the same for similarity within it); mean and standard deviation of the cosine
    similarity of 1e5 random pairs a fold, training and validation slices, all folds together; ``expected_mean``, the same of
    all pairs, from the domains' mean embeddings alone, as prototypes tell it; ``pairs``, ``folds``, ``encoder_weights``; and
    the limits that the paper states of its own, where its network is Att-UNet.
    """
    outcome = conduct(config, words, folder, console, has_row)
    found = _over_folds(outcome)
    rows = [_row(*method, scale, pair, own, outcome) for method, own in found.items() for scale, pair in own]
    write_csv(folder / "table5.csv", rows)
    _print(found, outcome, console)
    console.print(f"all scales: {folder / 'table5.csv'}", markup=False)
    return {"experiment": "table5", "rows": rows} | account_of(outcome)


def has_row(network: str, strategy: str) -> bool:
    """Whether a network can be asked how alike its domains are: networks of single sites have nothing in common."""
    return strategy_named(strategy).sharing is not Sharing.NOTHING


def together(parts: Iterable[Similarity]) -> Similarity:
    """Similarities of several folds as if their pairs had been drawn in one: the variance between folds is added.

    >>> together([Similarity(10, 0.2, 0.0, 0.2), Similarity(10, 0.6, 0.0, 0.6)])
    Similarity(pairs=20, mean=0.4, deviation=0.19..., expected=0.4)
    """
    pairs, means, deviations, expected = (np.array(column) for column in zip(*parts, strict=True))
    mean = np.average(means, weights=pairs)
    variance = np.average(deviations**2 + (means - mean) ** 2, weights=pairs)
    return Similarity(int(pairs.sum()), float(mean), float(np.sqrt(variance)), float(expected.mean()))


def _over_folds(outcome: Outcome) -> dict[tuple[str, str], Similarities]:
    """(Network, strategy) → similarities over its finished folds, scale by scale, within domains first."""
    by_method: dict[tuple[str, str], list[Similarities]] = {}
    for run in outcome.planned:
        if run.key in outcome.summaries:
            by_method.setdefault((run.key.network, run.key.strategy), []).append(
                similarities_of_run(run.config, load_sites(run.config), run.folder)
            )
    return {
        method: {
            entry: together(fold[entry] for fold in folds if entry in fold)
            for entry in dict.fromkeys(entry for fold in folds for entry in fold)
        }
        for method, folds in by_method.items()
    }


def _row(network: str, strategy: str, scale: str, pair: DomainPair, own: Similarities, outcome: Outcome) -> Row:
    similarity, weights = own[scale, pair], _encoder_weights(outcome, network)
    limits = _limits(network, weights, strategy, scale, "within" if pair[0] == pair[1] else "between")
    return {
        "backbone": network,
        "strategy": strategy,
        "scale": scale,
        "domain": pair[0],
        "other_domain": pair[1],
        "similarity_mean": empty_if_undefined(similarity.mean),
        "similarity_std": empty_if_undefined(similarity.deviation),
        "expected_mean": empty_if_undefined(similarity.expected),
        "pairs": similarity.pairs,
        "folds": sum((key.network, key.strategy) == (network, strategy) for key in outcome.summaries),
        "encoder_weights": weights,
        **{f"paper_{column}": limits.get(column) for column in ("mean_above", "mean_below", "std_above")},
    }


def _limits(network: str, weights: str, strategy: str, scale: str, domains: str) -> Mapping[str, float | None]:
    if network != PAPERS_NETWORK or not like_with_like(network, weights):
        return {}
    return similarity_limits().get((strategy, scale, domains), {})


def _encoder_weights(outcome: Outcome, network: str) -> str:
    return next(run.config.network.encoder_weights for run in outcome.planned if run.key.network == network)


def _print(found: Mapping[tuple[str, str], Similarities], outcome: Outcome, console: Console) -> None:
    for network in dict.fromkeys(network for network, _ in found):
        weights = _encoder_weights(outcome, network)
        console.print(f"{network}, {encoder_of(weights)}: cosine similarity within and between domains", markup=False)
        pairs = domain_pairs(dict.fromkeys(outcome.planned[0].config.sites))
        titles = [one if one == other else f"{one}\n{other}" for one, other in pairs]
        table = Table(Column("strategy", no_wrap=True), "scale", *titles, "the paper")
        for strategy in (strategy for name, strategy in found if name == network):
            own = found[network, strategy]
            for scale in SHOWN:
                cells = [_cell(own.get((scale, pair))) for pair in pairs]
                paper = _paper_cell(network, weights, strategy, scale)
                name, last = (strategy if scale == SHOWN[0] else ""), scale == SHOWN[-1]
                table.add_row(name, scale, *cells, paper, end_section=last)
        console.print(table)
    console.print("mean ± standard deviation over random pairs of training and validation slices of all folds")


def _paper_cell(network: str, weights: str, strategy: str, scale: str) -> str:
    """What the paper's text says of its own table, in words."""
    lines = []
    for domains in ("within", "between"):
        limits = _limits(network, weights, strategy, scale, domains)
        above, below, deviation = (limits.get(name) for name in ("mean_above", "mean_below", "std_above"))
        words = [f"{sign} {value}" for sign, value in ((">", above), ("<", below)) if value is not None]
        words += [] if deviation is None else [f"± > {deviation}"]
        lines += [f"{domains} {', '.join(words)}"] if words else []
    return "\n".join(lines)


def _cell(similarity: Similarity | None) -> str:
    if similarity is None or math.isnan(similarity.mean):
        return UNDEFINED
    return f"{similarity.mean:.2f} ± {similarity.deviation:.2f}"
