"""Attention maps (the paper, Figure 7): where the gate of the highest resolution looks, a row a site, a column a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.nn import functional as F

from ..pictures import bare, outline, show_slice, upright
from ..trained import TrainedNetwork

COLOURS = "RdYlBu_r"
"""From blue, 0, over yellow to red, 1: the paper's, in a scale that the colour-blind can read."""


@dataclass(frozen=True)
class AttendedSlice:
    """A slice [H, W] of a site, its ground truth, and the attention that networks pay to its pixels, by network."""

    site: str
    image: NDArray
    truth: NDArray
    attention: Mapping[str, NDArray[np.float32]]


@torch.inference_mode()
def attention_map(own: TrainedNetwork, image: NDArray) -> NDArray[np.float32]:
    """Coefficients α of the attention gate of the highest resolution, up-sampled bilinearly to the slice.

    Args:
        own: a segmentation network; its gates run from coarse to fine.
        image: [H, W].

    Returns:
        [H, W], from 0 to 1.
    """
    like, gate = next(own.network.parameters()), own.network.gates[-1]
    gate.keep_coefficients = True
    try:
        images = torch.from_numpy(np.array(image))[None, None].to(like.device, like.dtype)
        own.network(images, {own.card.space.domain: 1})
        coefficients = gate.coefficients
    finally:
        gate.keep_coefficients, gate.coefficients = False, None
    whole = F.interpolate(coefficients.float(), size=image.shape, mode="bilinear", align_corners=False)
    return whole[0, 0].cpu().numpy()


def draw_attention(title: str, slices: list[AttendedSlice], path: Path) -> None:
    """Write a PNG: each slice with the outlines of its ground truth, then every network's attention over it."""
    networks = list(dict.fromkeys(network for each in slices for network in each.attention))
    width, height = 2.3 * (1 + len(networks)) + 0.9, 2.4 * len(slices) + 0.7
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(len(slices), 1 + len(networks), squeeze=False)
    for row, each in zip(panels, slices, strict=True):
        for panel in row:
            bare(panel)
            show_slice(panel, upright(each.image))
        outline(row[0], upright(each.truth))
        row[0].set_ylabel(each.site, fontsize=10)
        for panel, network in zip(row[1:], networks, strict=True):
            if network in each.attention:
                drawn = panel.imshow(upright(each.attention[network]), cmap=COLOURS, vmin=0, vmax=1, alpha=0.6)
    for panel, column in zip(panels[0], ("ground truth", *networks), strict=True):
        panel.set_title(column, fontsize=10)
    figure.suptitle(title, fontsize=10)
    figure.colorbar(drawn, ax=panels, shrink=0.6, label="attention").solids.set_alpha(1)
    figure.savefig(path, dpi=130)
