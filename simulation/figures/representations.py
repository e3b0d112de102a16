"""Maps of representations (the paper, Figure 8): a dot a slice, a row a strategy, a column a scale."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mtmd_core.representations import FEWEST_FOR_A_MAP, LEARNING_RATE, plane_map

from ..embeddings import SCALES, SiteEmbeddings

SITE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito 2008, without yellow, which white swallows."""
MOST_DOTS = 300
"""Slices on a map, of all sites together: t-SNE takes seconds for these, and minutes for thousands."""


def draw_representations(
    title: str, strategies: Mapping[str, Mapping[str, SiteEmbeddings]], seed: int, path: Path
) -> None:
    """Write a PNG with a t-SNE map for every strategy and scale.

    Of each site the same number of slices is taken, evenly along its exams, so that 300 lie on a map at most.

    Args:
        title: of the whole.
        strategies: strategy → site → embeddings.
        seed: of the maps.
        path: of the picture.
    """
    sites = sorted({site for embeddings in strategies.values() for site in embeddings})
    colours = {site: SITE_COLOURS[place % len(SITE_COLOURS)] for place, site in enumerate(sites)}
    figure = Figure(figsize=(1.5 * len(SCALES) + 0.6, 1.6 * len(strategies) + 1.3), layout="constrained")
    panels = figure.subplots(len(strategies), len(SCALES), squeeze=False)
    perplexities = set()
    for row, (strategy, embeddings) in zip(panels, strategies.items(), strict=True):
        taken = {site: _evenly(len(own), MOST_DOTS // len(sites)) for site, own in embeddings.items()}
        for place, panel in enumerate(row):
            perplexities.add(_draw_map(panel, embeddings, taken, place, colours, seed))
        row[0].set_ylabel(strategy, fontsize=10)
    for scale, panel in zip(SCALES, panels[0], strict=True):
        panel.set_title(scale, fontsize=10)
    figure.suptitle(f"{title}\n{_how(strategies, perplexities - {None}, len(sites))}", fontsize=10)
    figure.legend(
        handles=_legend(colours), loc="outside lower center", ncols=len(sites) + 2, frameon=False, fontsize=10
    )
    figure.savefig(path, dpi=130)


def _draw_map(
    panel: Axes,
    embeddings: Mapping[str, SiteEmbeddings],
    taken: Mapping[str, NDArray],
    place: int,
    colours: Mapping[str, str],
    seed: int,
) -> float | None:
    """One scale of one strategy; returns the perplexity, None where there are too few slices for a map."""
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_color("#bbbbbb")
    points = np.concatenate([own.scales[place][taken[site]] for site, own in embeddings.items()])
    if len(points) < FEWEST_FOR_A_MAP:
        panel.text(0.5, 0.5, "too few slices", ha="center", va="center", fontsize=8, transform=panel.transAxes)
        return None
    places, perplexity = plane_map(points, seed)
    whose = np.concatenate([np.full(len(taken[site]), colours[site]) for site in embeddings])
    validation = np.concatenate([own.validation[taken[site]] for site, own in embeddings.items()])
    panel.scatter(*places[~validation].T, c=whose[~validation], s=5, linewidths=0, alpha=0.7)
    panel.scatter(*places[validation].T, c=whose[validation], s=14, marker="^", edgecolors="black", linewidths=0.4)
    panel.margins(0.06)
    return perplexity


def _evenly(count: int, wanted: int) -> NDArray[np.intp]:
    """``wanted`` numbers below ``count`` at equal distances, or all of them where there are no more."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.intp))


def _how(strategies: Mapping[str, Mapping[str, SiteEmbeddings]], perplexities: set[float], sites: int) -> str:
    counts = [len(own) for embeddings in strategies.values() for own in embeddings.values()]
    shown = (
        f"{MOST_DOTS // sites} slices a site at most, of {max(counts)}"
        if max(counts) > MOST_DOTS // sites
        else "all slices"
    )
    perplexity = ", ".join(f"{each:.3g}" for each in sorted(perplexities))
    return f"t-SNE, perplexity {perplexity or '–'}, learning rate {LEARNING_RATE:.0f}; {shown}"


def _legend(colours: Mapping[str, str]) -> list[Line2D]:
    sites = [Line2D([], [], ls="", marker="o", color=colour, label=site) for site, colour in colours.items()]
    grey = {"ls": "", "color": "#777777"}
    return [
        *sites,
        Line2D([], [], marker="o", markersize=4, label="training", **grey),
        Line2D([], [], marker="^", markeredgecolor="black", label="validation", **grey),
    ]
