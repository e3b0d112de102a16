"""1×1 convolutions of MBConv blocks: widening, and squeeze-and-excite (Hu et al. 2020) with the projection that follows."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PointwiseConv2d(nn.Conv2d):
    """1×1 convolution, in channels-last one product of matrices over all pixels of a batch.

    PyTorch's own goes image by image on one thread, half as slow again where images have few pixels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        if features.is_contiguous(memory_format=torch.channels_last):
            return F.linear(features.permute(0, 2, 3, 1), self.weight.flatten(1)).permute(0, 3, 1, 2)
        return super().forward(features)


class ExcitedProjection(nn.Module):
    """``W (x · sigmoid(W_e silu(W_r GAP(x) + b_r) + b_e))``: channels are weighed, then mixed by a 1×1 convolution.

    Weighing the channels of x is weighing the columns of W. Where an image has more pixels than W has rows, the second is
    less work and spares several passes over feature maps, here and in the backward pass.

    All weights and biases are shared by all domains; no normalisation follows the first two that could replace biases.

    Args:
        reduce: 1×1 convolution from C to fewer channels, with bias.
        expand: 1×1 convolution back to C channels, with bias.
        project: 1×1 convolution from C to O channels, without bias.
    """

    def __init__(self, reduce: nn.Conv2d, expand: nn.Conv2d, project: nn.Conv2d) -> None:
        super().__init__()
        self.reduce = reduce
        self.expand = expand
        self.project = project

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] → [B, O, H, W]."""
        batch, channels, height, width = features.shape
        outputs, pixels = self.project.out_channels, height * width
        last = features.is_contiguous(memory_format=torch.channels_last)
        rows = features.permute(0, 2, 3, 1).flatten(1, 2) if last else features.flatten(2)  # [B, P, C] or [B, C, P]
        weights = self._weights(rows.sum(1 if last else 2) / pixels)
        if pixels < outputs:
            return self.project(features * weights[:, :, None, None])
        kernels = self.project.weight.view(1, outputs, channels) * weights[:, None]  # [B, O, C]
        if last:
            return (rows @ kernels.mT).view(batch, height, width, outputs).permute(0, 3, 1, 2)
        return (kernels @ rows).view(batch, outputs, height, width)

    def _weights(self, means: Tensor) -> Tensor:
        """[B, C] → [B, C]."""
        hidden = F.silu(F.linear(means, self.reduce.weight.flatten(1), self.reduce.bias))
        return torch.sigmoid(F.linear(hidden, self.expand.weight.flatten(1), self.expand.bias))
