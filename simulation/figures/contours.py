"""Predictions beside ground truth (the paper, Figures 5 and 6): a row an exam, a column a strategy, a colour a bone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mtmd_core.data.site_data import CutExam
from mtmd_core.data.slices import cut_labels
from mtmd_core.inference import predict_exam

from ..pictures import bare, colour_of, fullest_slice, outline, show_slice, upright
from ..trained import TrainedNetwork

RANKS = ("worst", "median", "best")


@dataclass(frozen=True)
class Predicted:
    """What a strategy makes of a slice: labels [H, W], and the Dice of the whole exam."""

    labels: NDArray[np.uint8]
    dice: float


@dataclass(frozen=True)
class ComparedSlice:
    """A slice [H, W] of an exam, its ground truth, and the predictions that there are, by strategy."""

    title: str
    image: NDArray
    truth: NDArray
    predictions: Mapping[str, Predicted]


def choose_exams(dice: Mapping[str, float]) -> dict[str, str]:
    """Exam → its rank: the worst, the median and the best by Dice, so that no hand chooses; of two exams the worst and the best.

    >>> choose_exams({"a": 0.9, "b": 0.2, "c": 0.7, "d": 0.8})
    {'b': 'worst', 'c': 'median', 'a': 'best'}
    >>> choose_exams({"a": 0.9})
    {'a': 'only exam'}
    """
    order = sorted(dice, key=lambda exam: (dice[exam], exam))
    if len(order) == 1:
        return {order[0]: "only exam"}
    places = dict.fromkeys((0, (len(order) - 1) // 2, len(order) - 1))
    ranks = RANKS if len(places) == len(RANKS) else (RANKS[0], RANKS[-1])
    return {order[place]: rank for place, rank in zip(places, ranks, strict=True)} if order else {}


def compare(
    title: str, exam: CutExam, networks: Mapping[str, TrainedNetwork], dice: Mapping[str, float]
) -> ComparedSlice:
    """The slice of an exam with the most structure, as strategies segment it: what was scored, after post-processing.

    Args:
        title: of the row.
        exam: a test exam.
        networks: strategy → the network that serves the exam's site.
        dice: strategy → Dice of the exam.
    """
    place, content = fullest_slice(exam.labels), exam.grid.window
    predictions = {}
    for strategy, own in networks.items():
        labels = predict_exam(own.network, own.card.space, exam.images, exam.grid).labels
        predictions[strategy] = Predicted(cut_labels(labels, exam.grid)[place][content], dice[strategy])
    return ComparedSlice(
        f"{title}\nslice {place + 1} of {len(exam.images)}",
        exam.images[place][content],
        exam.labels[place][content],
        predictions,
    )


def draw_comparison(
    title: str, strategies: list[str], structures: tuple[str, ...], slices: list[ComparedSlice], path: Path
) -> None:
    """Write a PNG: outlines of ground truth and of every strategy's prediction; an empty place where a run is not finished."""
    figure = Figure(figsize=(1.9 * (1 + len(strategies)) + 0.6, 2.2 * len(slices) + 1.1), layout="constrained")
    panels = figure.subplots(len(slices), 1 + len(strategies), squeeze=False)
    for row, each in zip(panels, slices, strict=True):
        for panel in row:
            bare(panel)
        show_slice(row[0], upright(each.image))
        outline(row[0], upright(each.truth))
        row[0].set_ylabel(each.title, fontsize=8)
        for panel, strategy in zip(row[1:], strategies, strict=True):
            if strategy in each.predictions:
                found = each.predictions[strategy]
                show_slice(panel, upright(each.image))
                outline(panel, upright(found.labels))
                panel.set_xlabel(f"Dice {found.dice:.3f}", fontsize=8)
            else:
                panel.text(0.5, 0.5, "not finished", ha="center", va="center", fontsize=8, transform=panel.transAxes)
    for panel, column in zip(panels[0], ("ground truth", *strategies), strict=True):
        panel.set_title(column, fontsize=9)
    bones = [Line2D([], [], color=colour_of(label), lw=3, label=name) for label, name in enumerate(structures, start=1)]
    figure.suptitle(title, fontsize=10)
    figure.legend(handles=bones, loc="outside lower center", ncols=min(len(bones), 4), frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)
