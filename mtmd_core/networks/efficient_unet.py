"""Efficient-UNet: EfficientNet-B3 and a decoder of multi-domain MBConv blocks (the paper, Figure 3)."""

import torch
from torch import Tensor, nn

from .blocks import ConvBlock
from .domain_layers import DomainBatchNorm2d, Routing
from .excited_projection import ExcitedProjection, PointwiseConv2d
from .pretrained_unet import PretrainedUNet

STAGES = (
    ((136, 5, 5), (96, 3, 5)),
    ((48, 5, 3),),
    ((32, 3, 3),),
    ((24, 3, 2),),
    ((8, 3, 2),),
)
"""The decoder's stages at strides 16, 8, 4, 2 and 1, each of runs of MBConv blocks: (channels, kernel size, how many)."""
EXPANSIONS = (6, 6, 6, 1, 1)
"""How much the blocks of each stage widen their output's channels inside: MBConv6 and MBConv1 of Figure 3."""


class EfficientUNet(PretrainedUNet):
    """Efficient-UNet: EfficientNet-B3 (Tan and Le 2019) and a symmetric decoder of MBConv blocks (the paper, Figure 3).

    Figure 3 gives the blocks ×5 ×5 ×3 ×3 ×2 ×2 and the kinds MBConv6 and MBConv1 with 3×3 and 5×5 kernels. Widths are
    ours, as many parameters as Table 1 says where they cost least time. Each stage ends with the encoder's channels at its
    stride (136, then 96 at stride 16, where two of the encoder's stages lie), and full resolution, which the encoder does
    not have, gets 8: a block there costs four times one of the same width at stride 2. Up-sampling leads to 96, 48, 24, 16
    and 8. Squeeze-and-excite goes through as many channels as the block ends with, more than in the encoder, for next
    to no time.

    Runs in channels-last whatever the memory format of the images: depth-wise convolutions are several times as fast.
    """

    encoder_name = "efficientnet_b3"
    encoder_channels = (24, 32, 48, 136, 384)
    up_channels = (96, 48, 24, 16, 8)
    decoder_channels = tuple(runs[-1][0] for runs in STAGES)
    activation = nn.SiLU
    memory_format = torch.channels_last

    @staticmethod
    def adapt(encoder: nn.Module) -> None:
        """Activate out of place, which spares SiLU a copy, and weigh channels as :class:`ExcitedProjection` does."""
        for module in encoder.modules():
            if isinstance(module, nn.SiLU):
                module.inplace = False
        for stage in encoder.blocks:
            for block in stage:
                for name in ("conv_pw", "conv_pwl"):  # the second is the projection; without widening the first is
                    if hasattr(block, name):
                        setattr(block, name, _pointwise(getattr(block, name)))
                        last = name
                projection = ExcitedProjection(block.se.conv_reduce, block.se.conv_expand, getattr(block, last))
                setattr(block, last, projection)
                block.se = nn.Identity()

    def _stage(self, stage: int, inputs: int, routing: Routing, domains: list[str]) -> nn.Module:
        blocks = []
        for channels, kernel_size, count in STAGES[stage]:
            for _ in range(count):
                blocks.append(MBConv(routing, domains, inputs, channels, kernel_size, EXPANSIONS[stage]))
                inputs = channels
        return nn.Sequential(*blocks)


class MBConv(nn.Module):
    """Multi-domain MBConv block (the paper, Figure 3; Tan and Le 2019): a residual block that is wide inside.

    (Shared 1×1, DSBN, SiLU where it widens), shared depth-wise k×k, DSBN, SiLU, squeeze-and-excite, shared 1×1, DSBN; the
    input is added where it has as many channels as the output.

    Args:
        routing: the layout of the batch.
        domains: names of the domains.
        inputs: channels of the input.
        outputs: channels of the output.
        kernel_size: k.
        expansion: channels inside, as a multiple of the output's; 1 keeps the input's channels and has no first 1×1.
    """

    def __init__(
        self, routing: Routing, domains: list[str], inputs: int, outputs: int, kernel_size: int, expansion: int
    ) -> None:
        super().__init__()
        widens = expansion > 1
        inner = expansion * outputs if widens else inputs
        self.expand = ConvBlock(routing, domains, inputs, inner, 1, activation=nn.SiLU()) if widens else nn.Identity()
        self.depthwise = ConvBlock(routing, domains, inner, inner, kernel_size, activation=nn.SiLU(), groups=inner)
        self.project = ExcitedProjection(
            reduce=nn.Conv2d(inner, outputs, kernel_size=1),
            expand=nn.Conv2d(outputs, inner, kernel_size=1),
            project=PointwiseConv2d(inner, outputs),
        )
        self.norm = DomainBatchNorm2d(routing, domains, outputs)
        self.residual = inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """[B, inputs, H, W] → [B, outputs, H, W]."""
        outputs = self.norm(self.project(self.depthwise(self.expand(features))))
        return features + outputs if self.residual else outputs


def _pointwise(convolution: nn.Conv2d) -> PointwiseConv2d:
    replacement = PointwiseConv2d(convolution.in_channels, convolution.out_channels)
    replacement.weight = convolution.weight
    return replacement
