"""The multi-joint auto-encoder of label maps (the paper, section 2.3 and Figure 3)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .blocks import ConvBlock, DoubleConv, UpConv
from .domain_layers import DomainBatchNorm2d, DomainInput, DomainOutput, Routing
from .output import Embedder, NetworkOutput

LEVELS = 5


class Autoencoder(nn.Module):
    """AE = G∘F: from one-hot label maps to a code at the bottleneck, and back to the label maps.

    Two 3×3 convolutions a level, 2×2 max-pooling between levels, an extra 3×3 convolution after each up-sampling; neither
    skip connections nor attention. The first convolution and the output layer belong to each domain, whose classes they
    know; 7.9 M parameters at ``width=32``. The code is the bottleneck's feature map, kept as a map.

    Args:
        domains: domain → number of classes, background included. May be empty: then only shared layers exist.
        width: channels at full resolution; level i has ``width · 2^i``.
    """

    stride = 2 ** (LEVELS - 1)

    def __init__(self, domains: Mapping[str, int], width: int = 32) -> None:
        super().__init__()
        names = list(domains)
        channels = [width * 2**level for level in range(LEVELS)]
        decoder = channels[-2::-1]  # from coarse to fine
        self.routing = routing = Routing()
        self.input = DomainInput(routing, domains, width)
        self.input_norm = DomainBatchNorm2d(routing, names, width)
        self.encoder = nn.ModuleList(
            [
                ConvBlock(routing, names, width, width),
                *(DoubleConv(routing, names, size // 2, size) for size in channels[1:]),
            ]
        )
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(UpConv(routing, names, 2 * size, size) for size in decoder)
        self.decoder = nn.ModuleList(DoubleConv(routing, names, size, size) for size in decoder)
        self.output = DomainOutput(routing, domains, width)

    def forward(self, maps: Mapping[str, Tensor], embeddings: bool = False) -> NetworkOutput:
        """Reconstruct label maps.

        Args:
            maps: domain → [B_k, N_k, H, W], one-hot or probabilities; H and W multiples of 16.
            embeddings: whether to compute the embeddings z̃ at the nine scales too.
        """
        embedder = Embedder(embeddings)
        encoded = self._encode(maps, embedder)
        decoded = self._decode(encoded[-1], embedder)
        return NetworkOutput(
            logits=self.output(decoded[-1]),
            embeddings=embedder.found,
        )

    def encode(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """F alone: domain → codes [B_k, 16 · width, H / 16, W / 16]."""
        code = self._encode(maps, Embedder(wanted=False))[-1]
        return dict(zip(maps, code.split([len(each) for each in maps.values()]), strict=True))

    def _encode(self, maps: Mapping[str, Tensor], embedder: Embedder) -> list[Tensor]:
        self.routing.shares = {domain: len(each) for domain, each in maps.items()}
        features = torch.relu(self.input_norm(self.input(maps)))
        levels = []
        for level, block in enumerate(self.encoder):
            features = embedder(block(self.pool(features) if level else features))
            levels.append(features)  # [B, width · 2^level, H / 2^level, W / 2^level]
        return levels

    def _decode(self, code: Tensor, embedder: Embedder) -> list[Tensor]:
        levels, features = [], code
        for up, block in zip(self.up, self.decoder, strict=True):
            features = embedder(block(up(features)))
            levels.append(features)
        return levels


def one_hot(labels: Mapping[str, Tensor], classes: Mapping[str, int]) -> dict[str, Tensor]:
    """Label maps [B_k, H, W] by domain → one-hot maps [B_k, N_k, H, W], float32."""
    return {
        domain: (label[:, None] == torch.arange(classes[domain], device=label.device)[:, None, None]).float()
        for domain, label in labels.items()
    }
