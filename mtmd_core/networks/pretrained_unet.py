"""The frame of the three U-Nets whose encoder is a classifier pre-trained on ImageNet."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import timm
import torch
from torch import Tensor, nn

from .blocks import AttentionGate, MergedUpConv, UpConv
from .domain_layers import DomainOutput, Routing, Shares
from .norm_conversion import make_domain_specific
from .output import NetworkOutput, embed

MERGE_UP_TO_CHANNELS = 256
"""Where up-sampling starts from more channels than this, merging kernels costs more than it saves."""


class PretrainedUNet(nn.Module, ABC):
    """U-Net of a timm encoder and a decoder out of the encoder's own kind of block (the paper, sections 2.1.1 and 3.2).

    The encoder's five features, at strides 2 to 32, are the scales s1…s5. The decoder goes from stride 32 to full
    resolution in five stages: 2×2 up-sampling and a shared 3×3 convolution block, the encoder's features of the same
    resolution through an attention gate (none at full resolution, where the encoder has no features), both concatenated,
    and blocks. Its first four stages, at strides 16, 8, 4 and 2, are the scales s6…s9, which mirror s4…s1 **[ours]**: the
    paper has nine scales, five of them in the encoder. Full resolution feeds the output layers and has no embedding.

    A subclass says what depends on the encoder: its name, the widths, the blocks of a stage.

    Args:
        domains: domain → number of classes, background included. May be empty: then only shared layers exist, which is
            all that a coordinator knows of the network.
    """

    stride = 32
    encoder_name: ClassVar[str]
    """What timm calls the encoder."""
    encoder_channels: ClassVar[tuple[int, ...]]
    """Channels of the encoder's features at strides 2, 4, 8, 16, 32."""
    up_channels: ClassVar[tuple[int, ...]]
    """Channels after up-sampling to strides 16, 8, 4, 2, 1."""
    decoder_channels: ClassVar[tuple[int, ...]]
    """Channels after the decoder's stages at strides 16, 8, 4, 2, 1."""
    activation: ClassVar[type[nn.Module]]
    """Follows the convolution after up-sampling."""
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    """Of the features, whatever the images'."""

    def __init__(self, domains: Mapping[str, int]) -> None:
        super().__init__()
        self.domains = names = list(domains)
        self.routing = routing = Routing()
        self.encoder = self._encoder(None)
        inputs = (self.encoder_channels[-1], *self.decoder_channels[:-1])
        skips = (*self.encoder_channels[-2::-1], 0)  # from coarse to fine; none at full resolution
        self.up = nn.ModuleList(self._up(size, outputs) for size, outputs in zip(inputs, self.up_channels, strict=True))
        self.gates = nn.ModuleList(
            AttentionGate(routing, names, skip, size)
            for skip, size in zip(skips[:-1], self.up_channels[:-1], strict=True)
        )
        self.decoder = nn.ModuleList(
            self._stage(stage, skip + size, routing, names)
            for stage, (skip, size) in enumerate(zip(skips, self.up_channels, strict=True))
        )
        self.output = DomainOutput(routing, domains, self.decoder_channels[-1])

    @staticmethod
    def adapt(encoder: nn.Module) -> None:
        """Change a timm encoder, in place, where the network needs it otherwise; its parameters keep their values."""

    @abstractmethod
    def _stage(self, stage: int, inputs: int, routing: Routing, domains: list[str]) -> nn.Module:
        """Blocks of a decoder stage: [B, inputs, h, w] → [B, decoder_channels[stage], h, w]; stage 0 is at stride 16."""

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Put pre-trained weights into the encoder, a normalisation's into every domain's copy.

        Args:
            weights: the state of timm's encoder with ``features_only``, complete.
        """
        self.encoder.load_state_dict(self._encoder(weights).state_dict())

    def _encoder(self, weights: Mapping[str, Tensor] | None) -> nn.Module:
        with torch.device("meta"):  # timm's own first values take seconds and are replaced anyway
            encoder = timm.create_model(self.encoder_name, pretrained=False, features_only=True)
        encoder.to_empty(device=torch.get_default_device())
        if weights is not None:
            encoder.load_state_dict(weights)
        else:
            for module in encoder.modules():
                if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):  # all that have parameters
                    module.reset_parameters()
        self.adapt(encoder)
        return make_domain_specific(encoder, self.routing, self.domains)

    def _up(self, inputs: int, outputs: int) -> nn.Module:
        kind = MergedUpConv if inputs <= MERGE_UP_TO_CHANNELS else UpConv
        return kind(self.routing, self.domains, inputs, outputs, activation=self.activation())

    def forward(self, images: Tensor, shares: Shares, embeddings: bool = False) -> NetworkOutput:
        """Segment a batch.

        Args:
            images: [B, 1, H, W], repeated to the three channels that the encoder knows; H and W multiples of 32.
            shares: domain → number of consecutive images, summing to B.
            embeddings: whether to compute the embeddings at the nine scales s1…s9 too.
        """
        self.routing.shares = shares
        encoded = self.encoder(images.expand(-1, 3, -1, -1).contiguous(memory_format=self.memory_format))
        decoded = self._decode(encoded)
        return NetworkOutput(
            logits=self.output(decoded[-1]),
            embeddings=[embed(features) for features in (*encoded, *decoded[:-1])] if embeddings else [],
        )

    def _decode(self, encoded: list[Tensor]) -> list[Tensor]:
        levels, features = [], encoded[-1]
        for stage, (up, blocks) in enumerate(zip(self.up, self.decoder, strict=True)):
            features = up(features)
            if stage < len(self.gates):
                skip = encoded[-2 - stage]
                features = torch.cat([self.gates[stage](skip, features), features], dim=1)
            features = blocks(features)
            levels.append(features)  # [B, decoder_channels[stage], H / 2^(4 − stage), W / 2^(4 − stage)]
        return levels
