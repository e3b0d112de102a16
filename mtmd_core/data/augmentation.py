"""Random geometry on a batch: the same for image (linear) and labels (nearest). The paper, section 3.3."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ROTATION_DEGREES = 22.5
SHIFT_FRACTION = 0.1


def move(images: Tensor, labels: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Apply affine maps to images (linear) and labels (nearest), on the device where these are.

    What comes from outside an image is its own minimum (air in MR) and background.

    Args:
        images: [B, C, H, W], float.
        labels: [B, H, W], integers.
        maps: [B, 2, 3], as :func:`draw_geometry` makes them.

    Returns:
        New tensors of the same shapes and dtypes.
    """
    grid = F.affine_grid(maps.to(images), [len(images), 1, *images.shape[2:]], align_corners=False)
    floor = images.amin(dim=(1, 2, 3), keepdim=True)
    moved = F.grid_sample(images - floor, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + floor
    return moved, sample_nearest(labels, grid)


def draw_geometry(count: int, random: torch.Generator) -> Tensor:
    """Rotations by up to ±22.5°, shifts by up to ±10 % and flips in both directions, each image by its own draw.

    Args:
        count: of images.
        random: stream of the draws, on the CPU.

    Returns:
        Affine maps [count, 2, 3] from output to input coordinates, both in −1 … 1 over a square slice.
    """
    draws = torch.rand(count, 5, generator=random)
    angle = (2 * draws[:, 0] - 1) * math.radians(ROTATION_DEGREES)
    shift = (2 * draws[:, 1:3] - 1) * (2 * SHIFT_FRACTION)
    flip = torch.where(draws[:, 3:] < 0.5, -1.0, 1.0)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(count, 2, 2)
    return torch.cat([rotation * flip[:, None, :], shift[:, :, None]], dim=2)


def sample_nearest(labels: Tensor, grid: Tensor) -> Tensor:
    """Labels [B, H, W] at the nearest pixel of sampling points [B, H, W, 2]; background outside."""
    batch, height, width = labels.shape
    column = (((grid[..., 0] + 1) * width - 1) / 2).round().long()
    row = (((grid[..., 1] + 1) * height - 1) / 2).round().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).view(batch, -1)
    return labels.view(batch, -1).gather(1, index).view_as(labels) * inside
