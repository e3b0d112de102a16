"""Which entries of a network's state are shared and which are private: the only place that decides.

Under ``CONVOLUTIONS`` (the paper's domain-specific layers) everything inside a
:class:`~mtmd_core.networks.domain_layers.DomainLayer` is private, parameters and buffers alike; the type of the layer
decides, never a name.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mtmd_core.arrays import as_tensor
from mtmd_core.networks.domain_layers import DomainLayer
from mtmd_core.strategies import Sharing
from mtmd_core.wire import ArrayShape, array_shape, misfit


@dataclass(frozen=True)
class Partition:
    """Names of a network's state, split; each in the order of the state dict."""

    shared: tuple[str, ...]
    private: tuple[str, ...]


def partition(network: nn.Module, sharing: Sharing) -> Partition:
    """Split the names of ``network.state_dict()`` into shared and private."""
    names = tuple(network.state_dict())
    if sharing is Sharing.NOTHING:
        return Partition((), names)
    if sharing is Sharing.EVERYTHING:
        return Partition(names, ())
    owned = _names_in_domain_layers(network)
    return Partition(tuple(n for n in names if n not in owned), tuple(n for n in names if n in owned))


def put(network: nn.Module, names: tuple[str, ...], arrays: Mapping[str, np.ndarray]) -> None:
    """Copy arrays into exactly the named entries of a network's state.

    Raises:
        ValueError: if an array is missing, unknown, or of another shape or dtype; nothing is changed then.
    """
    state = network.state_dict()
    reason = misfit(shapes(network, names), {name: array_shape(array) for name, array in arrays.items()})
    if reason:
        raise ValueError(f"these arrays do not fit the network: {reason}")
    with torch.no_grad():
        for name in names:
            state[name].copy_(as_tensor(arrays[name]))


def take(network: nn.Module, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The named entries of a network's state as arrays; on the CPU they are views, not copies."""
    state = network.state_dict()
    return {name: state[name].cpu().numpy() for name in names}


def shapes(network: nn.Module, names: tuple[str, ...]) -> dict[str, ArrayShape]:
    """dtype and shape of the named entries of a network's state."""
    state = network.state_dict()
    return {name: (str(state[name].dtype).removeprefix("torch."), tuple(state[name].shape)) for name in names}


def _names_in_domain_layers(network: nn.Module) -> set[str]:
    owned = set()
    for place, module in network.named_modules(remove_duplicate=False):  # a layer in two places
        if isinstance(module, DomainLayer):
            prefix = f"{place}." if place else ""
            owned |= {prefix + name for name in module.state_dict()}
    return owned
