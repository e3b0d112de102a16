"""Which entries of a network's state are shared and which are private: the only place that decides.

Under ``CONVOLUTIONS`` (the paper's domain-specific layers) everything inside a
:class:`~mtmd_core.networks.domain_layers.DomainLayer` is private, parameters and buffers alike; the type of the layer
decides, never a name.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtmd_core.networks.domain_layers import DomainLayer
from mtmd_core.strategies import Sharing


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


def take(network: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The named tensors of a network's state, detached and on its device; no copies."""
    state = network.state_dict()
    return {name: state[name] for name in names}


def put(network: nn.Module, names: tuple[str, ...], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into exactly the named entries of a network's state.

    Raises:
        ValueError: if a tensor is missing, unknown, or of another shape or dtype; nothing is changed then.
    """
    reason = mismatch(take(network, names), tensors)
    if reason:
        raise ValueError(f"these tensors do not fit the network: {reason}")
    state = network.state_dict()
    with torch.no_grad():
        for name in names:
            state[name].copy_(tensors[name])


def mismatch(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """Why ``given`` is not of the same names, shapes and dtypes as ``expected``; None if it is."""
    for title, names in (("missing", expected.keys() - given.keys()), ("unknown", given.keys() - expected.keys())):
        if names:
            return f"{title} {sorted(names)[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            return f"{name} has shape {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
        if given[name].dtype != tensor.dtype:
            return f"{name} has dtype {given[name].dtype}, expected {tensor.dtype}"
    return None


def _names_in_domain_layers(network: nn.Module) -> set[str]:
    owned = set()
    for place, module in network.named_modules():
        if isinstance(module, DomainLayer):
            prefix = f"{place}." if place else ""
            owned |= {prefix + name for name in module.state_dict()}
    return owned
