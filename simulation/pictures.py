"""Slices of exams, with outlines of structures over them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#d55e00", "#0072b2", "#f0e442", "#cc79a7", "#009e73", "#56b4e9")
"""One a structure; told apart by the colour-blind (Okabe and Ito 2008)."""


@dataclass(frozen=True)
class LabelledSlice:
    """A slice [H, W], with label maps by title, each [H, W]."""

    title: str
    image: np.ndarray
    labels: Mapping[str, np.ndarray]


def draw_contours(rows: list[LabelledSlice], path: Path) -> None:
    """Write a PNG: a row a slice, a column a label map, outlines over the image."""
    from matplotlib.figure import Figure  # slow to import, and needed at the end of a run alone

    columns = list(rows[0].labels)
    figure = Figure(figsize=(3.2 * len(columns), 3.4 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for panels_of_row, row in zip(panels, rows, strict=True):
        for panel, column in zip(panels_of_row, columns, strict=True):
            show_slice(panel, row.image)
            outline(panel, row.labels[column])
            panel.set_title(f"{row.title}: {column}", fontsize=9)
            panel.set_axis_off()
    figure.savefig(path, dpi=100)


def fullest_slice(labels: np.ndarray) -> int:
    """The slice of an exam, [S, H, W], with the most structure; the first one if there are several."""
    return int(np.argmax((labels > 0).sum(axis=(1, 2))))


def upright(plane: np.ndarray) -> np.ndarray:
    """A slice as it is shown: canonical axes run right, anterior and superior, and the later one points upwards."""
    return np.rot90(plane)


def show_slice(panel: "Axes", image: np.ndarray) -> None:
    """Draw a slice [H, W] in grey, its darkest and brightest pixels saturated."""
    low, high = np.percentile(image, (1, 99.5))
    panel.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")


def outline(panel: "Axes", labels: np.ndarray) -> None:
    """Draw the outlines of a label map's structures, [H, W], each in its colour."""
    for label in range(1, int(labels.max()) + 1):
        mask = labels == label
        if mask.any():
            panel.contour(mask, levels=[0.5], colors=[colour_of(label)], linewidths=1.4)


def colour_of(label: int) -> str:
    """A structure's colour; from the seventh on they come again."""
    return COLOURS[(label - 1) % len(COLOURS)]


def bare(panel: "Axes") -> None:
    """Take away a panel's frame and ticks, and leave its labels."""
    panel.set(xticks=[], yticks=[])
    for side in panel.spines.values():
        side.set_visible(False)
