"""Att-UNet: U-Net with attention gates on its skip connections, DSBN everywhere and one output layer a domain."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .blocks import AttentionGate, DoubleConv, UpConv
from .domain_layers import DomainOutput, Routing, Shares
from .output import Embedder, NetworkOutput

LEVELS = 5


class AttUNet(nn.Module):
    """Att-UNet (Oktay et al. 2018) made multi-domain (the paper, section 2.1).

    Five levels of two 3×3 convolutions, 2×2 max-pooling between them; 8.7 M parameters at ``width=32``.

    Args:
        domains: domain → number of classes, background included. May be empty: then only shared layers exist, which is
            all that a coordinator knows of the network.
        width: channels at full resolution; level i has ``width · 2^i``.
        in_channels: channels of an image.
    """

    stride = 2 ** (LEVELS - 1)

    def __init__(self, domains: Mapping[str, int], width: int = 32, in_channels: int = 1) -> None:
        super().__init__()
        names = list(domains)
        channels = [width * 2**level for level in range(LEVELS)]
        self.routing = routing = Routing()
        self.encoder = nn.ModuleList(
            DoubleConv(routing, names, inputs, outputs)
            for inputs, outputs in zip([in_channels, *channels[:-1]], channels, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        decoder = channels[-2::-1]  # from coarse to fine
        self.up = nn.ModuleList(UpConv(routing, names, 2 * size, size) for size in decoder)
        self.gates = nn.ModuleList(AttentionGate(routing, names, size) for size in decoder)
        self.decoder = nn.ModuleList(DoubleConv(routing, names, 2 * size, size) for size in decoder)
        self.output = DomainOutput(routing, domains, width)

    def forward(self, images: Tensor, shares: Shares, embeddings: bool = False) -> NetworkOutput:
        """Segment a batch.

        Args:
            images: [B, in_channels, H, W]; H and W multiples of 16.
            shares: domain → number of consecutive images, summing to B.
            embeddings: whether to compute the embeddings at the nine scales s1…s9 too.
        """
        self.routing.shares = shares
        embedder = Embedder(embeddings)
        encoded = self._encode(images, embedder)
        decoded = self._decode(encoded, embedder)
        return NetworkOutput(
            logits=self.output(decoded[-1]),
            embeddings=embedder.found,
        )

    def _encode(self, images: Tensor, embedder: Embedder) -> list[Tensor]:
        levels, features = [], images
        for level, block in enumerate(self.encoder):
            features = embedder(block(self.pool(features) if level else features))
            levels.append(features)  # [B, width · 2^level, H / 2^level, W / 2^level]
        return levels

    def _decode(self, encoded: list[Tensor], embedder: Embedder) -> list[Tensor]:
        levels, features = [], encoded[-1]
        for skip, up, gate, block in zip(encoded[-2::-1], self.up, self.gates, self.decoder, strict=True):
            features = up(features)
            features = embedder(block(torch.cat([gate(skip, features), features], dim=1)))
            levels.append(features)
        return levels
