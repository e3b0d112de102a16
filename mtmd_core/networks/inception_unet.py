"""Inception-UNet: InceptionV3 and a decoder of multi-domain Inception modules."""

import torch
from timm.models.inception_v3 import InceptionA, InceptionB, InceptionC, InceptionD
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import ConvBlock, DoubleConv
from .domain_layers import Routing
from .norm_conversion import make_domain_specific
from .pretrained_unet import PretrainedUNet

WIDTHS_7X7 = (192, 160, 160, 128)
"""Channels inside the 7×7 branches of the four modules at stride 16: the encoder's own, from last to first."""
MODULES_AT_8 = 3
POOL_FEATURES = 64
"""Channels of the pooling branch of the modules at stride 8; the other branches give 224, which makes 288."""
STEM_WIDTH = 80
"""Channels between the two convolutions at stride 4, as in the encoder."""

REDUCTIONS = {
    InceptionB: (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")),
    InceptionD: (
        ("branch3x3_1", "branch3x3_2"),
        ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"),
    ),
}
"""Modules that halve the resolution: the layers of each branch besides the pooling, the last of them of stride 2."""


class InceptionUNet(PretrainedUNet):
    """Inception-UNet: InceptionV3 (Szegedy et al. 2016) and a decoder symmetric to it (the paper, section 3.2 and Table 1).

    The paper says that the decoder is symmetric, with Inception modules; widths are ours. Up-sampling leads to the
    encoder's 768, 288, 192, 64 channels at strides 16 to 2, and to 32 at full resolution. At strides 16 and 8 four modules with
    7×7 branches and three with 5×5 branches follow, as many and of the kinds that the encoder has there. At stride 4
    follow a 1×1 and a 3×3 convolution block, the encoder's mirrored; at stride 2 and at full resolution two 3×3.

    InceptionV3 does not pad some convolutions and poolings, so that its features do not lie at H/2, H/4 and so on; here all
    of them are padded. The auxiliary classifier is left out.
    """

    encoder_name = "inception_v3"
    encoder_channels = (64, 192, 288, 768, 2048)
    up_channels = (768, 288, 192, 64, 32)
    decoder_channels = (768, 288, 192, 64, 32)
    activation = nn.ReLU

    @staticmethod
    def adapt(encoder: nn.Module) -> None:
        """Pad what InceptionV3 does not pad."""
        for block in (encoder.Conv2d_1a_3x3, encoder.Conv2d_2a_3x3, encoder.Conv2d_4a_3x3):
            block.conv.padding = (1, 1)
        for pool in (encoder.Pool1, encoder.Pool2):
            pool.padding = 1
        encoder.Mixed_6a = PaddedReduction(encoder.Mixed_6a)
        encoder.Mixed_7a = PaddedReduction(encoder.Mixed_7a)

    def _stage(self, stage: int, inputs: int, routing: Routing, domains: list[str]) -> nn.Module:
        outputs = self.decoder_channels[stage]
        if stage == 0:
            sizes = [inputs] + [outputs] * (len(WIDTHS_7X7) - 1)
            modules = [InceptionC(size, channels_7x7=width) for size, width in zip(sizes, WIDTHS_7X7, strict=True)]
            return make_domain_specific(nn.Sequential(*modules), routing, domains)
        if stage == 1:
            sizes = [inputs] + [outputs] * (MODULES_AT_8 - 1)
            modules = [InceptionA(size, pool_features=POOL_FEATURES) for size in sizes]
            return make_domain_specific(nn.Sequential(*modules), routing, domains)
        if stage == 2:
            return nn.Sequential(
                ConvBlock(routing, domains, inputs, STEM_WIDTH, kernel_size=1),
                ConvBlock(routing, domains, STEM_WIDTH, outputs),
            )
        return DoubleConv(routing, domains, inputs, outputs)


class PaddedReduction(nn.Module):
    """A module of timm's InceptionV3 that halves the resolution, padded: [B, C, H, W] → [B, C', H / 2, W / 2].

    Args:
        module: an ``InceptionB`` or ``InceptionD``, whose layers are taken over under their names.
    """

    def __init__(self, module: InceptionB | InceptionD) -> None:
        super().__init__()
        self.branches = REDUCTIONS[type(module)]
        for branch in self.branches:
            for name in branch:
                self.add_module(name, getattr(module, name))
            getattr(self, branch[-1]).conv.padding = (1, 1)

    def forward(self, features: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            inner = features
            for name in branch:
                inner = getattr(self, name)(inner)
            outputs.append(inner)
        outputs.append(F.max_pool2d(features, kernel_size=3, stride=2, padding=1))
        return torch.cat(outputs, dim=1)
