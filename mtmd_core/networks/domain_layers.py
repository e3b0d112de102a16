"""Layers that each domain has for itself: batch normalisation (Eq. 2) and output convolutions (Eq. 4).

What is private to a domain is decided here, by type and place: everything inside a :class:`DomainLayer` belongs to the
domain under whose name it is filed, and nothing else does.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shares = Mapping[str, int]
"""How a batch is laid out: domain → how many consecutive images are its, in the order of the batch."""


class Routing:
    """Tells all domain layers of one network how the batch at hand is laid out.

    The layers hold the same object, so that encoders built from plain sequences of modules need not pass it along.
    """

    def __init__(self) -> None:
        self.shares: Shares = {}


class DomainLayer(nn.Module):
    """A layer whose parameters and buffers are private to domains; ``domains`` files them by domain name."""

    domains: nn.ModuleDict

    def __init__(self, routing: Routing) -> None:
        super().__init__()
        self.routing = routing


class DomainBatchNorm2d(DomainLayer):
    """Domain-specific batch normalisation, Eq. 2: ``γ_k · (v − μ_k) / sqrt(σ_k² + ε) + β_k``.

    μ_k and σ_k² are the statistics of domain k's images in the batch while training, and its running statistics in
    evaluation.

    Args:
        routing: the layout of the batch, shared by the network's layers.
        domains: names of the domains.
        channels: C of the input [B, C, H, W].
        eps: ε of Eq. 2.
        momentum: weight of the batch in the running statistics.
    """

    def __init__(
        self, routing: Routing, domains: list[str], channels: int, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__(routing)
        self.eps = eps
        self.momentum = momentum
        self.domains = nn.ModuleDict({domain: NormStatistics(channels) for domain in domains})

    def forward(self, features: Tensor) -> Tensor:
        shares = self.routing.shares
        if len(shares) == 1:
            return self._normalise(features, next(iter(shares)))
        parts = features.split(list(shares.values()))
        return torch.cat([self._normalise(part, domain) for domain, part in zip(shares, parts, strict=True)])

    def _normalise(self, features: Tensor, domain: str) -> Tensor:
        own = self.domains[domain]
        return F.batch_norm(
            features,
            own.running_mean,
            own.running_var,
            own.weight,
            own.bias,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )


class NormStatistics(nn.Module):
    """Scale γ_k and shift β_k of one domain with its running mean and variance, each [C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))


class DomainOutput(DomainLayer):
    """Output layer of each domain, Eq. 4: ``W_k * u + b_k``, a 1×1 convolution to the domain's own classes.

    Args:
        routing: the layout of the batch.
        domains: domain → number of classes N_k, background included.
        channels: C of the input.
    """

    def __init__(self, routing: Routing, domains: Mapping[str, int], channels: int) -> None:
        super().__init__(routing)
        self.domains = nn.ModuleDict(
            {domain: nn.Conv2d(channels, classes, kernel_size=1) for domain, classes in domains.items()}
        )

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """[B, C, H, W] → domain → logits [B_k, N_k, H, W]."""
        shares = self.routing.shares
        parts = features.split(list(shares.values()))
        return {domain: self.domains[domain](part) for domain, part in zip(shares, parts, strict=True)}
