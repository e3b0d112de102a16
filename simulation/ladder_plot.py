"""The ladder as a picture: Dice of every rung in every fold."""

from collections.abc import Mapping
from pathlib import Path

from mtmd_core.statistics import mean_and_deviation

from .comparison import Method
from .ladder import CONSENSUS, LOCAL, LOCKSTEP, POOLED, Rung

COLOURS = {LOCAL: "#000000", CONSENSUS: "#000000", POOLED: "#d55e00", LOCKSTEP: "#009e73", "federated": "#0072b2"}
"""Kind → colour; told apart by the colour-blind (Okabe and Ito 2008), and by their markers."""
MARKERS = {LOCAL: "s", CONSENSUS: "D", POOLED: "^", LOCKSTEP: "v", "federated": "o"}


def draw_ladder(methods: Mapping[Rung, Method], path: Path) -> None:
    """Write a PNG: a row a rung; small marks are folds' mean Dice over sites, the large one their mean."""
    from matplotlib.figure import Figure  # slow to import, and needed at the end of a run alone

    rungs = [rung for rung, method in methods.items() if method.folds]
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(rungs)), layout="constrained")
    axes = figure.subplots()
    labelled = set()
    for place, rung in enumerate(rungs):
        values = [value for value in methods[rung].dice(methods[rung].sites).values() if value is not None]
        if not values:
            continue
        colour, marker = COLOURS[rung.kind], MARKERS[rung.kind]
        filled = "none" if rung.variant else colour
        axes.plot(values, [place] * len(values), marker, color=colour, markerfacecolor="none", markersize=4, alpha=0.6)
        axes.plot(
            mean_and_deviation(values)[0], place, marker, color=colour, markerfacecolor=filled, markersize=9,
            label=None if rung.kind in labelled else rung.kind,
        )  # fmt: skip
        labelled.add(rung.kind)
    axes.set_yticks(range(len(rungs)), [rung.name for rung in rungs])
    axes.invert_yaxis()
    axes.set_xlabel("Dice in %, mean of sites (small: one fold)")
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.savefig(path, dpi=120)
