"""Efficient-UNet: EfficientNet-B3 and a decoder of multi-domain MBConv blocks (the paper, Figure 3)."""

from torch import Tensor, nn

from .blocks import ConvBlock
from .domain_layers import DomainBatchNorm2d, Routing
from .pretrained_unet import PretrainedUNet
from .squeeze_excite import ExcitedProjection

STAGES = (((136, 5, 5), (96, 3, 5)), ((48, 5, 3),), ((32, 3, 3),), ((24, 3, 2),), ((8, 3, 2),))
"""Decoder stages at strides 16 to 1, each of runs of MBConv blocks: (channels, kernel size, how many)."""
EXPANSIONS = (6, 6, 6, 1, 1)


class EfficientUNet(PretrainedUNet):
    encoder_name = "efficientnet_b3"
    encoder_channels = (24, 32, 48, 136, 384)
    up_channels = (136, 48, 32, 24, 8)
    decoder_channels = tuple(runs[-1][0] for runs in STAGES)
    activation = nn.SiLU

    def _stage(self, stage: int, inputs: int, routing: Routing, domains: list[str]) -> nn.Module:
        blocks = []
        for channels, kernel_size, count in STAGES[stage]:
            for _ in range(count):
                blocks.append(MBConv(routing, domains, inputs, channels, kernel_size, EXPANSIONS[stage]))
                inputs = channels
        return nn.Sequential(*blocks)


class MBConv(nn.Module):
    """Multi-domain MBConv block."""

    def __init__(
        self, routing: Routing, domains: list[str], inputs: int, outputs: int, kernel_size: int, expansion: int
    ) -> None:
        super().__init__()
        inner = expansion * outputs if expansion > 1 else inputs
        self.expand = (
            nn.Identity()
            if expansion == 1
            else ConvBlock(routing, domains, inputs, inner, 1, activation=nn.SiLU())
        )
        self.depthwise = ConvBlock(
            routing, domains, inner, inner, kernel_size, activation=nn.SiLU(), groups=inner
        )
        self.project = ExcitedProjection(nn.Conv2d(inner, outputs, 1), nn.Conv2d(outputs, inner, 1), nn.Conv2d(inner, outputs, 1, bias=False))
        self.norm = DomainBatchNorm2d(routing, domains, outputs)
        self.residual = inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        inner = self.depthwise(self.expand(features))
        outputs = self.norm(self.project(inner))
        return features + outputs if self.residual else outputs
