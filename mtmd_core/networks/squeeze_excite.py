"""Squeeze-and-excite (Hu et al. 2020) with a backward pass of its own, for MBConv blocks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """``x · sigmoid(W_e silu(W_r GAP(x) + b_r) + b_e)``: channels are weighed by what the whole feature map holds.

    Weights and biases are shared by all domains: no normalisation follows that could replace the biases. Names are those
    of timm's layer, so that one takes the place of the other.

    Args:
        channels: C of the input [B, C, H, W].
        squeezed: channels of the layer between the two convolutions.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, squeezed, kernel_size=1)
        self.conv_expand = nn.Conv2d(squeezed, channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        reduce, expand = self.conv_reduce, self.conv_expand
        return _Excite.apply(features, reduce.weight, reduce.bias, expand.weight, expand.bias)


class _Excite(torch.autograd.Function):
    """The formula in four passes over the feature map and back; composed of PyTorch's own operations it takes nine.

    Multiplication and mean each send a gradient of full size back to x; here their sum is written at once.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, reduce: Tensor, reduce_bias: Tensor, expand: Tensor, expand_bias: Tensor
    ) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):  # the small layers keep their precision
            mean = _pixel_sum(features).to(reduce.dtype) / features[0, 0].numel()  # [B, C]
            hidden = F.linear(mean, reduce.flatten(1), reduce_bias)
            weights = torch.sigmoid(F.linear(F.silu(hidden), expand.flatten(1), expand_bias))  # [B, C]
            ctx.save_for_backward(features, mean, hidden, weights, reduce, expand)
            return features * weights.to(features.dtype)[:, :, None, None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        features, mean, hidden, weights, reduce, expand = ctx.saved_tensors
        at_weights = _pixel_sum(gradient * features).to(weights.dtype) * weights * (1 - weights)  # before the sigmoid
        sigmoid = torch.sigmoid(hidden)
        at_hidden = (at_weights @ expand.flatten(1)) * sigmoid * (1 + hidden * (1 - sigmoid))
        at_mean = (at_hidden @ reduce.flatten(1)) / features[0, 0].numel()
        at_features = torch.addcmul(
            at_mean.to(gradient.dtype)[:, :, None, None], gradient, weights.to(gradient.dtype)[:, :, None, None]
        )
        return (
            at_features,
            (at_hidden.T @ mean).view_as(reduce),
            at_hidden.sum(0),
            (at_weights.T @ F.silu(hidden)).view_as(expand),
            at_weights.sum(0),
        )


def _pixel_sum(features: Tensor) -> Tensor:
    """[B, C, H, W] → [B, C], in the order in which the pixels lie in memory."""
    if features.is_contiguous(memory_format=torch.channels_last):
        return features.permute(0, 2, 3, 1).flatten(1, 2).sum(1)
    return features.sum((2, 3))
