"""From an exam to a label map in the exam's own grid (section 6 of the method)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mtmd_core.data.slices import SliceGrid, planes_of_probabilities, stack_planes
from mtmd_core.postprocessing import postprocess
from mtmd_core.strategies import LabelSpace

SLICES_AT_ONCE = 16


@dataclass(frozen=True)
class Prediction:
    """Labels [X, Y, Z] uint8 in canonical orientation, after post-processing; and the share of voxels that a union label
    space gave to another site's structures (they count as background)."""

    labels: np.ndarray
    foreign_share: float


def predict_exam(network: nn.Module, space: LabelSpace, images: np.ndarray, grid: SliceGrid) -> Prediction:
    """Segment one exam.

    Args:
        network: in evaluation mode, on the device to use.
        space: where the site's structures lie among the network's classes.
        images: slices [S, size, size] float32.
        grid: how the slices lie in the exam.
    """
    planes, foreign = [], 0
    for start in range(0, len(images), SLICES_AT_ONCE):
        probabilities = predict_probabilities(network, space.domain, images[start : start + SLICES_AT_ONCE])
        classes = planes_of_probabilities(probabilities, grid).argmax(dim=1)
        own = (classes > space.offset) & (classes <= space.offset + space.structures)
        foreign += int(((classes > 0) & ~own).sum())
        planes.append(torch.where(own, classes - space.offset, 0).to(torch.uint8).cpu().numpy())
    labels = stack_planes(np.concatenate(planes), grid)
    return Prediction(postprocess(labels, space.structures), foreign / labels.size)


@torch.inference_mode()
def predict_probabilities(network: nn.Module, domain: str, images: np.ndarray) -> Tensor:
    """Slices [S, H, W] of one domain → class probabilities [S, N, H, W] (Eq. 4)."""
    like = next(network.parameters())
    batch = torch.from_numpy(np.array(images))[:, None].to(like.device, like.dtype)
    logits = network(batch, {domain: len(batch)}).logits[domain]
    return logits.float().softmax(dim=1)
