"""Maps of representations (the paper, Figure 8): a dot a slice, a row a strategy, a column a scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mtmd_core.plane_maps import FEWEST_FOR_A_MAP, LEARNING_RATE, PlaneMap, plane_maps
from mtmd_core.representations import SCALES

from ..embeddings import SiteEmbeddings

SITE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito 2008, without yellow, which white swallows."""
MOST_DOTS, FEWEST_DOTS = 3000, 300
"""Slices on the maps of one scale, of all strategies and sites together, and on one map at least: t-SNE takes seconds for
thousands, so that a picture of any number of strategies takes about as long as one of a single strategy with all its slices."""


def draw_representations(
    title: str, strategies: Mapping[str, Mapping[str, SiteEmbeddings]], seed: int, path: Path, processes: int = 1
) -> None:
    """Write a PNG with a t-SNE map for every strategy and scale.

    Of each site the same number of slices is taken, evenly along its exams.

    Args:
        title: of the whole.
        strategies: strategy → site → embeddings.
        seed: of the maps.
        path: of the picture.
        processes: how many maps to make at a time.
    """
    sites = sorted({site for embeddings in strategies.values() for site in embeddings})
    colours = {site: SITE_COLOURS[place % len(SITE_COLOURS)] for place, site in enumerate(sites)}
    most = max(MOST_DOTS // len(strategies), FEWEST_DOTS) // len(sites)
    shown = {strategy: _shown(embeddings, most, colours) for strategy, embeddings in strategies.items()}
    maps = _maps(shown, seed, processes)
    figure = Figure(figsize=(1.5 * len(SCALES) + 0.6, 1.6 * len(strategies) + 1.3), layout="constrained")
    panels = figure.subplots(len(strategies), len(SCALES), squeeze=False)
    for row, (strategy, dots) in zip(panels, shown.items(), strict=True):
        for place, panel in enumerate(row):
            _draw_map(panel, dots, maps.get((strategy, place)))
        row[0].set_ylabel(strategy, fontsize=10)
    for scale, panel in zip(SCALES, panels[0], strict=True):
        panel.set_title(scale, fontsize=10)
    perplexities = {own.perplexity for own in maps.values()}
    figure.suptitle(f"{title}\n{_how(strategies, perplexities, most)}", fontsize=10)
    figure.legend(
        handles=_legend(colours), loc="outside lower center", ncols=len(sites) + 2, frameon=False, fontsize=10
    )
    figure.savefig(path, dpi=130)


@dataclass(frozen=True)
class _Dots:
    """What of a strategy's slices is on its maps: one [n, E_s] a scale, their colours, and which are of validation exams."""

    scales: list[NDArray[np.float32]]
    colours: NDArray[np.str_]
    validation: NDArray[np.bool_]


def _shown(embeddings: Mapping[str, SiteEmbeddings], most: int, colours: Mapping[str, str]) -> _Dots:
    taken = {site: _evenly(len(own), most) for site, own in embeddings.items()}
    scales = [
        np.concatenate([own.scales[place][taken[site]] for site, own in embeddings.items()])
        for place in range(len(SCALES))
    ]
    whose = np.concatenate([np.full(len(taken[site]), colours[site]) for site in embeddings])
    return _Dots(scales, whose, np.concatenate([own.validation[taken[site]] for site, own in embeddings.items()]))


def _maps(shown: Mapping[str, _Dots], seed: int, processes: int) -> dict[tuple[str, int], PlaneMap]:
    """(Strategy, place of the scale) → its map; without those that have too few slices for one."""
    enough = {
        (strategy, place): points
        for strategy, dots in shown.items()
        for place, points in enumerate(dots.scales)
        if len(points) >= FEWEST_FOR_A_MAP
    }
    return dict(zip(enough, plane_maps(list(enough.values()), seed, processes), strict=True))


def _draw_map(panel: Axes, dots: _Dots, own: PlaneMap | None) -> None:
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_color("#bbbbbb")
    if own is None:
        panel.text(0.5, 0.5, "too few slices", ha="center", va="center", fontsize=8, transform=panel.transAxes)
        return
    train, size = ~dots.validation, 5 if len(own.places) <= FEWEST_DOTS else 2.5
    panel.scatter(*own.places[train].T, c=dots.colours[train], s=size, linewidths=0, alpha=0.7)
    panel.scatter(
        *own.places[~train].T,
        c=dots.colours[~train],
        s=2.8 * size,
        marker="^",
        edgecolors="black",
        linewidths=0.06 * size + 0.1,
    )
    panel.margins(0.06)


def _evenly(count: int, wanted: int) -> NDArray[np.intp]:
    """``wanted`` numbers below ``count`` at equal distances, or all of them where there are no more."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.intp))


def _how(strategies: Mapping[str, Mapping[str, SiteEmbeddings]], perplexities: set[float], most: int) -> str:
    largest = max(len(own) for embeddings in strategies.values() for own in embeddings.values())
    shown = f"{most} slices a site at most, of {largest}" if largest > most else "all slices"
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
