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
        images: [B, C, H, W], float32.
        labels: [B, H, W], integers.
        maps: [B, 2, 3], as :func:`draw_geometry` makes them.

    Returns:
        New tensors of the same shapes and dtypes.
    """
    moved, moved_labels = torch.empty_like(images), torch.empty_like(labels)
    at_once = 1 if images.device.type == "cpu" else len(images)  # what one image needs stays in a processor's cache
    for part in torch.arange(len(images)).split(at_once):
        here = slice(int(part[0]), int(part[-1]) + 1)
        grid = F.affine_grid(maps[here].to(images), [len(part), 1, *images.shape[2:]], align_corners=False)
        floor = images[here].amin(dim=(1, 2, 3), keepdim=True)
        moved[here] = _sample(images[here] - floor, grid, "bilinear") + floor
        moved_labels[here] = _sample(labels[here][:, None].float(), grid, "nearest")[:, 0]
    return moved, moved_labels


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


def _sample(images: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)
