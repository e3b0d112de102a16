"""Layers that each domain has for itself: batch normalisation (Eq. 2), input and output convolutions (Eq. 4).

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
        """[B, C, H, W] → the same shape, each domain's images by themselves.

        Raises:
            ValueError: while training, if a domain has a single value a channel, which has no variance.
            RuntimeError: if the shares of several domains do not sum to B.
        """
        shares = self.routing.shares
        if len(shares) == 1:
            return self._normalise(features, next(iter(shares)))
        if self.training and not torch.compiler.is_compiling():
            return self._normalise_parts(features, shares)
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

    def _normalise_parts(self, features: Tensor, shares: Shares) -> Tensor:
        own = [self.domains[domain] for domain in shares]
        sizes = list(shares.values())
        if min(sizes) * features[0, 0].numel() < 2:
            raise ValueError(
                f"a domain has one image of {tuple(features.shape[2:])} pixels here, and one value has no variance: "
                "put more slices of each domain into a batch, or make slices larger"
            )
        features = _dense(features)
        running = [(each.running_mean, each.running_var) for each in own]
        affine = [*(each.weight for each in own), *(each.bias for each in own)]
        return _BatchNormOfParts.apply(features, sizes, running, self.momentum, self.eps, *affine)


def _dense(features: Tensor) -> Tensor:
    """Features in one of the two layouts in which :class:`_BatchNormOfParts` reads and writes; a copy of any others."""
    if features.is_contiguous() or features.is_contiguous(memory_format=torch.channels_last):
        return features
    return features.contiguous()


class _BatchNormOfParts(torch.autograd.Function):
    """``torch.cat([F.batch_norm(part, …) for part in features.split(sizes)])`` while training, bit for bit.

    Features must be contiguous or channels-last: PyTorch's kernel writes into what it is given in the layout that it would have
    chosen itself, and in others, such as those of a view, values end up in other places without an error.

    Parts are read where they lie and written side by side, forwards and backwards: joining them afterwards would cost a
    copy of every feature map each way, a quarter to all of what the normalisation itself takes.
    """

    @staticmethod
    def forward(ctx, features, sizes, running, momentum, eps, *affine):
        weights, biases = affine[: len(sizes)], affine[len(sizes) :]
        output = torch.empty_like(features)
        saved = []
        for part, out, (mean, var), weight, bias in zip(
            features.split(sizes), output.split(sizes), running, weights, biases, strict=True
        ):
            batch_mean, inverse_deviation = torch.empty_like(weight), torch.empty_like(weight)
            torch.ops.aten.native_batch_norm.out(
                part, weight, bias, mean, var, True, momentum, eps,
                out=out, save_mean=batch_mean, save_invstd=inverse_deviation,
            )  # fmt: skip
            saved += [batch_mean, inverse_deviation]
        ctx.save_for_backward(features, *weights, *saved)
        ctx.sizes, ctx.eps = sizes, eps
        return output

    @staticmethod
    def backward(ctx, gradient):
        features, *rest = ctx.saved_tensors
        weights, saved = rest[: len(ctx.sizes)], rest[len(ctx.sizes) :]
        to_features = torch.empty_like(features)
        if gradient.stride() != to_features.stride():
            gradient = torch.empty_like(features).copy_(gradient)
        to_weights, to_biases = ([torch.empty_like(weight) for weight in weights] for _ in range(2))
        for place, (given, part, out) in enumerate(
            zip(gradient.split(ctx.sizes), features.split(ctx.sizes), to_features.split(ctx.sizes), strict=True)
        ):
            torch.ops.aten.native_batch_norm_backward.out(
                given, part, weights[place], None, None, saved[2 * place], saved[2 * place + 1], True, ctx.eps,
                [True, True, True], out0=out, out1=to_weights[place], out2=to_biases[place],
            )  # fmt: skip
        return to_features, None, None, None, None, *to_weights, *to_biases


class NormStatistics(nn.Module):
    """Scale γ_k and shift β_k of one domain with its running mean and variance, each [C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))


class DomainInput(DomainLayer):
    """First layer of each domain in the auto-encoder: a 3×3 convolution from the domain's own classes, without bias.

    Args:
        routing: the layout of the batch.
        domains: domain → number of classes N_k, background included.
        channels: C of what comes out.
    """

    def __init__(self, routing: Routing, domains: Mapping[str, int], channels: int) -> None:
        super().__init__(routing)
        self.domains = nn.ModuleDict(
            {
                domain: nn.Conv2d(classes, channels, kernel_size=3, padding=1, bias=False)
                for domain, classes in domains.items()
            }
        )

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Domain → [B_k, N_k, H, W] → [B, C, H, W], in the order of the mapping and the dtype of the weights."""
        layers = [(self.domains[domain], each) for domain, each in maps.items()]
        return torch.cat([layer(each.to(layer.weight.dtype)) for layer, each in layers])


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
