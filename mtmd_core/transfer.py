"""Weight transfer: one site's trained network as the beginning of another's (section 4 of the method)."""

import torch
from torch import nn

from mtmd_core.networks.domain_layers import DomainBatchNorm2d
from mtmd_core.parameters import partition
from mtmd_core.strategies import Sharing


@torch.no_grad()
def transfer_weights(source: nn.Module, source_domain: str, target: nn.Module, target_domain: str) -> None:
    """Copy everything up to the penultimate layer; the target's output layer stays as it is.

    Convolutions go over as they are, and the normalisation of ``source_domain``, running statistics included, becomes that
    of ``target_domain``.

    Args:
        source: a trained network that knows ``source_domain``.
        target: a network of the same architecture that knows ``target_domain``.
    """
    names = partition(target, Sharing.CONVOLUTIONS).shared
    given, taken = source.state_dict(), target.state_dict()
    for name in names:
        taken[name].copy_(given[name])
    modules = dict(source.named_modules())
    for place, layer in target.named_modules():
        if isinstance(layer, DomainBatchNorm2d):
            layer.domains[target_domain].load_state_dict(modules[place].domains[source_domain].state_dict())
