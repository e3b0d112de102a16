"""Dense-UNet: DenseNet121 and a decoder of multi-domain dense blocks."""

from timm.models.densenet import DenseBlock, DenseTransition
from torch import nn

from .blocks import DoubleConv
from .domain_layers import Routing
from .norm_conversion import make_domain_specific
from .pretrained_unet import PretrainedUNet

LAYERS = (24, 12, 6)
"""Layers of the dense blocks at strides 16, 8 and 4: the encoder's own."""
GROWTH = 32
BOTTLENECK = 4


class DenseUNet(PretrainedUNet):
    """Dense-UNet: DenseNet121 (Huang et al. 2017) and a decoder symmetric to it (the paper, section 3.2 and Table 1).

    The paper says that the decoder is symmetric, with dense blocks; widths are ours. Up-sampling leads to half of the
    encoder's features at stride 16 (512) and to as many as the encoder's at strides 8, 4 and 2 (512, 256, 64), 32 at full
    resolution. At strides 16, 8 and 4 a dense block of the encoder's own 24, 12 or 6 layers of growth 32 follows,
    entered as the encoder enters its own, through DSBN, ReLU and a 1×1 convolution to 256, 128 or 64 channels, so that it
    ends with the encoder's 1024, 512 and 256. At stride 2, where the encoder has its stem, and at full resolution
    two 3×3 convolution blocks follow.
    """

    encoder_name = "densenet121"
    encoder_channels = (64, 256, 512, 1024, 1024)
    up_channels = (512, 512, 256, 64, 32)
    decoder_channels = (1024, 512, 256, 64, 32)
    activation = nn.ReLU

    def _stage(self, stage: int, inputs: int, routing: Routing, domains: list[str]) -> nn.Module:
        outputs = self.decoder_channels[stage]
        if stage >= len(LAYERS):
            return DoubleConv(routing, domains, inputs, outputs)
        start = outputs - LAYERS[stage] * GROWTH
        transition = DenseTransition(inputs, start)
        transition.pool = nn.Identity()  # an encoder's transition ends in pooling
        block = DenseBlock(LAYERS[stage], start, bn_size=BOTTLENECK, growth_rate=GROWTH)
        return make_domain_specific(nn.Sequential(transition, block), routing, domains)
