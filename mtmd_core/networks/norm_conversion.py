"""Batch normalisation of an encoder made by others, turned into domain-specific batch normalisation."""

import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from .domain_layers import DomainBatchNorm2d, Routing

PLAIN = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)
"""Types that normalise and do nothing else. Types are compared exactly: a subclass may do anything."""
WITH_ACTIVATION = (BatchNormAct2d, SyncBatchNormAct, FrozenBatchNormAct2d)
"""Types that normalise, then drop, then activate."""
FAMILIES = (nn.modules.batchnorm._NormBase, FrozenBatchNorm2d, FrozenBatchNormAct2d)
"""What has batch normalisation, or a relative that keeps running statistics, among its ancestors."""


class DomainNormAct(nn.Sequential):
    """DSBN, then what a combined layer does after it: ``act(drop(DSBN_k(v)))``."""

    def __init__(self, norm: DomainBatchNorm2d, drop: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.drop = drop
        self.activation = activation


def make_domain_specific(module: nn.Module, routing: Routing, domains: list[str]) -> nn.Module:
    """Put DSBN (Eq. 2) in the place of every batch normalisation inside a module, in place.

    ε and momentum stay those of the layer that is replaced (0.1 where a frozen layer has no momentum); its scale, shift,
    running mean and running variance are every domain's first values (section 2 of the method).

    Args:
        module: a network or block, changed; or a normalisation itself.
        routing: the layout of the batch, shared by the network's layers.
        domains: names of the domains; may be empty.

    Returns:
        ``module``, or what replaces it if it is a normalisation itself.

    Raises:
        TypeError: for a normalisation that keeps running statistics and is of a type that is not known exactly; nothing
            is changed then.
        ValueError: for one without scale and shift, running statistics or a fixed momentum, which DSBN has; nothing is
            changed then.

    Example:
        >>> block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, eps=1e-3))
        >>> block = make_domain_specific(block, Routing(), ["ankle", "knee"])
        >>> block[1].eps, sorted(block[1].domains)
        (0.001, ['ankle', 'knee'])
    """
    replaced = {
        norm: _domain_specific(norm, name, routing, domains)
        for name, norm in module.named_modules()
        if _is_batch_normalisation(norm)
    }
    if module in replaced:
        return replaced[module]
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if child in replaced:
                setattr(parent, name, replaced[child])
    return module


def _is_batch_normalisation(module: nn.Module) -> bool:
    """Whether a module is one, by descent or by what it keeps: libraries have their own without a common ancestor."""
    return isinstance(module, FAMILIES) or "running_mean" in dict(module.named_buffers(recurse=False))


def _domain_specific(norm: nn.Module, name: str, routing: Routing, domains: list[str]) -> nn.Module:
    place = f"'{name}' is a {type(norm).__module__}.{type(norm).__qualname__}"
    if type(norm) not in PLAIN + WITH_ACTIVATION:
        known = ", ".join(kind.__name__ for kind in PLAIN + WITH_ACTIVATION)
        raise TypeError(
            f"{place}, which cannot be made domain-specific without knowing what it does; known are: {known}"
        )
    weight, bias, mean, variance = norm.weight, norm.bias, norm.running_mean, norm.running_var
    momentum = getattr(norm, "momentum", 0.1)
    if any(value is None for value in (weight, bias, mean, variance, momentum)):
        raise ValueError(
            f"{place} without scale and shift, running statistics or a fixed momentum; "
            "domain-specific batch normalisation needs all of them"
        )
    layer = DomainBatchNorm2d(routing, domains, len(weight), norm.eps, momentum).to(weight).train(norm.training)
    _fill(layer, {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance})
    return DomainNormAct(layer, norm.drop, norm.act) if type(norm) in WITH_ACTIVATION else layer


@torch.no_grad()
def _fill(layer: DomainBatchNorm2d, values: dict[str, Tensor]) -> None:
    for own in layer.domains.values():
        for name, value in values.items():
            getattr(own, name).copy_(value)
