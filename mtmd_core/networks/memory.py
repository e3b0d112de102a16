"""How much memory a training step needs, found out without taking any."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from mtmd_core.config import NetworkConfig

from .autoencoder import Autoencoder
from .build import uninitialised

COPIES = 4
"""Of every parameter in training: itself, its gradient and Adam's two moments."""
MARGIN = 1.5
"""What a step takes at its peak, in units of what its backward pass is kept waiting for: gradients of feature maps and gaps
between allocations come on top. Peaks measured on the CPU lie within a fifth of the estimate."""


@lru_cache
def training_bytes(name: str, width: int, classes: int, batch: int, size: int, dtype: str = "float32") -> int:
    """Bytes that training a network takes on a device, estimated from what autograd keeps; PyTorch itself comes on top.

    The network runs on PyTorch's ``meta`` device, where tensors have shapes and no content.

    Args:
        name: of the network.
        width: its number of channels at full resolution.
        classes: of its output, background included.
        batch: images in a step.
        size: their height and width in pixels.
        dtype: of parameters and feature maps; under ``autocast`` maps are smaller, and this is the most.

    Raises:
        ConfigurationError: for an unknown network.
        ValueError: if the network cannot be trained on so many images of this size, which is no multiple of what it halves, or
            leaves its normalisation one value a channel.
    """
    kind = getattr(torch, dtype)
    with torch.device("meta"):
        network = uninitialised(NetworkConfig(name, width), {"one": classes}).to(kind)
        kept: dict[int, Tensor] = {}  # a tensor that lives keeps its place from being another's

        def keep(tensor: Tensor) -> Tensor:
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
            return tensor

        try:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                _logits(network, classes, batch, size, kind).log_softmax(dim=1)
        except (RuntimeError, ValueError):
            raise ValueError(f"{name} cannot be run over {batch} images of {size} pixels squared") from None
        parameters = {each.untyped_storage()._cdata: each for each in network.parameters()}
    maps = sum(each.untyped_storage().nbytes() for place, each in kept.items() if place not in parameters)
    return int(MARGIN * maps + COPIES * sum(each.untyped_storage().nbytes() for each in parameters.values()))


def _logits(network: nn.Module, classes: int, batch: int, size: int, dtype: torch.dtype) -> Tensor:
    if isinstance(network, Autoencoder):
        return network({"one": torch.empty(batch, classes, size, size, dtype=dtype)}).logits["one"]
    return network(torch.empty(batch, 1, size, size, dtype=dtype), {"one": batch}).logits["one"]
