"""Predictions beside ground truth, drawn on the slices of whole exams."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
        low, high = np.percentile(row.image, (1, 99.5))
        for panel, column in zip(panels_of_row, columns, strict=True):
            panel.imshow(row.image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            for label in range(1, int(row.labels[column].max()) + 1):
                mask = row.labels[column] == label
                if mask.any():
                    panel.contour(mask, levels=[0.5], colors=[COLOURS[(label - 1) % len(COLOURS)]], linewidths=1.4)
            panel.set_title(f"{row.title}: {column}", fontsize=9)
            panel.set_axis_off()
    figure.savefig(path, dpi=100)
