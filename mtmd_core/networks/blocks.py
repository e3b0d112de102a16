"""Blocks shared by the networks: convolution with DSBN (Eq. 3), up-sampling, attention gate."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .domain_layers import DomainBatchNorm2d, Routing


class ConvBlock(nn.Sequential):
    """Eq. 3, ``u_{l+1} = σ(DSBN_k(Θ_l * u_l))``: convolution without bias, DSBN, activation."""

    def __init__(
        self,
        routing: Routing,
        domains: list[str],
        inputs: int,
        outputs: int,
        kernel_size: int = 3,
        activation: nn.Module | None = None,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
        self.norm = DomainBatchNorm2d(routing, domains, outputs)
        self.activation = nn.ReLU(inplace=True) if activation is None else activation


class DoubleConv(nn.Sequential):
    """Two 3×3 convolution blocks."""

    def __init__(self, routing: Routing, domains: list[str], inputs: int, outputs: int) -> None:
        super().__init__(ConvBlock(routing, domains, inputs, outputs), ConvBlock(routing, domains, outputs, outputs))


class UpConv(nn.Sequential):
    """2×2 up-sampling followed by a shared 3×3 convolution block (section 2 of the method)."""

    def __init__(
        self, routing: Routing, domains: list[str], inputs: int, outputs: int, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.block = ConvBlock(routing, domains, inputs, outputs, activation=activation)


class MergedUpConv(ConvBlock):
    """As :class:`UpConv`, without the up-sampled features: half the arithmetic and a fraction of the memory.

    Of the nine pixels under a 3×3 kernel on an image up-sampled 2×2 at most four differ, so that both are one transposed
    convolution of stride 2 with the 4×4 kernel ``M W Mᵀ``. Merging costs time by the weight and saves time by the pixel: it
    pays off at high resolutions with few channels.
    """

    def __init__(
        self, routing: Routing, domains: list[str], inputs: int, outputs: int, activation: nn.Module | None = None
    ) -> None:
        super().__init__(routing, domains, inputs, outputs, activation=activation)
        merge = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        self.register_buffer("merge", merge, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        kernel = self.merge @ self.conv.weight @ self.merge.T  # [outputs, inputs, 4, 4]
        features = F.conv_transpose2d(features, kernel.transpose(0, 1), stride=2, padding=1)
        return self.activation(self.norm(features))


class AttentionGate(nn.Module):
    """Multi-domain attention gate (Oktay et al. 2018; the paper, Figure 2d).

    ``α = sigmoid(DSBN(ψ * ReLU(DSBN(W_x * x) + DSBN(W_g * g))))`` and the skip connection x becomes ``α · x``. The
    convolutions are 1×1 and shared; ``coefficients`` holds the last α [B, 1, H, W] while ``keep_coefficients`` is set.

    Args:
        routing: the layout of the batch.
        domains: names of the domains.
        channels: C of the skip connection x.
        gate_channels: G of the gating signal g; C when not given. The sum inside has half of the smaller of both.
    """

    def __init__(self, routing: Routing, domains: list[str], channels: int, gate_channels: int | None = None) -> None:
        super().__init__()
        gating = channels if gate_channels is None else gate_channels
        inner = min(channels, gating) // 2
        self.skip = ConvBlock(routing, domains, channels, inner, kernel_size=1, activation=nn.Identity())
        self.gate = ConvBlock(routing, domains, gating, inner, kernel_size=1, activation=nn.Identity())
        self.score = ConvBlock(routing, domains, inner, 1, kernel_size=1, activation=nn.Sigmoid())
        self.keep_coefficients = False
        self.coefficients: Tensor | None = None

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Skip [B, C, H, W] and gate [B, G, H, W] → the attended skip connection, [B, C, H, W]."""
        coefficients = self.score(torch.relu(self.skip(skip) + self.gate(gate)))
        self.coefficients = coefficients.detach() if self.keep_coefficients else None
        return skip * coefficients
