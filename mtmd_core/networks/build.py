"""From configuration to a network with reproducible initial weights."""

import functools
import math
from collections.abc import Mapping

import torch
from torch import nn

from mtmd_core.config import AUTOENCODER, NETWORKS, NO_WEIGHTS, NetworkConfig
from mtmd_core.errors import ConfigurationError
from mtmd_core.seeds import generator
from mtmd_core.words import nearest

from .att_unet import AttUNet
from .autoencoder import Autoencoder
from .domain_layers import DomainOutput

WITH_WIDTH: dict[str, type[nn.Module]] = {"att_unet": AttUNet, AUTOENCODER: Autoencoder}

FOREGROUND_PRIOR = 0.05
"""Share of foreground pixels that an untrained network expects."""
OUTPUT_SPREAD = 0.1
"""Spread of an output layer's first weights, as a fraction of that of the other layers."""


def build_network(config: NetworkConfig, domains: Mapping[str, int], seed: int, download: bool = True) -> nn.Module:
    """Build a network and initialise it; an encoder's pre-trained weights, where asked for, take the place of drawn ones.

    Args:
        config: which network, how wide, and where its encoder's weights come from.
        domains: domain → number of classes, background included; empty for shared layers only.
        seed: of the run; see :func:`initialise`.
        download: whether an encoder's weights from ImageNet may be downloaded where they are not in the cache.

    Raises:
        ConfigurationError: for an unknown network, or if the weights that are asked for cannot be had.
    """
    network = uninitialised(config, domains)
    initialise(network, seed)
    if config.encoder_weights != NO_WEIGHTS:
        if config.name in WITH_WIDTH:
            raise ConfigurationError(
                f"network.encoder_weights is '{config.encoder_weights}', but {config.name} has an encoder of its own, "
                f"for which there are no weights: give network.encoder_weights={NO_WEIGHTS}."
            )
        from .encoder_weights import read_encoder_weights

        network.load_encoder(read_encoder_weights(config.encoder_weights, network.encoder_name, download))
    return network


def count_parameters(config: NetworkConfig) -> int:
    """Shared parameters of a network, counted without allocating any of them or looking for an encoder's weights."""
    return _count_parameters(config.name, config.width)


@functools.cache  # sites ask with every message, and building a network takes longer than a small one's step
def _count_parameters(name: str, width: int) -> int:
    with torch.device("meta"):
        network = uninitialised(NetworkConfig(name, width), {})
    return sum(parameter.numel() for parameter in network.parameters())


def embedding_sizes(config: NetworkConfig) -> list[int]:
    """Numbers of an embedding at each of the nine scales, without allocating any parameter.

    >>> embedding_sizes(NetworkConfig("att_unet", 32))
    [32, 64, 128, 256, 512, 256, 128, 64, 32]
    """
    return list(_embedding_sizes(config.name, config.width))


@functools.cache  # asked for wherever prototypes are, and a pass without values takes as long as one with
def _embedding_sizes(name: str, width: int) -> tuple[int, ...]:
    with torch.device("meta"):
        network = uninitialised(NetworkConfig(name, width), {"one": 2})
        if isinstance(network, Autoencoder):
            output = network({"one": torch.empty(2, 2, 64, 64)}, embeddings=True)
        else:
            output = network(torch.empty(2, 1, 64, 64), {"one": 2}, embeddings=True)
    return tuple(scale.shape[1] for scale in output.embeddings)


def uninitialised(config: NetworkConfig, domains: Mapping[str, int]) -> nn.Module:
    """The layers alone; under ``torch.device("meta")`` they take no memory.

    Raises:
        ConfigurationError: for an unknown network.
    """
    if config.name in WITH_WIDTH:
        return WITH_WIDTH[config.name](domains, config.width)
    if config.name in NETWORKS:
        from .pretrained import PRETRAINED

        return PRETRAINED[config.name](domains)
    raise ConfigurationError(f"network.name is '{config.name}'; {nearest(config.name, NETWORKS)}")


def initialise(network: nn.Module, seed: int) -> None:
    """Draw every convolution's weights (He et al. 2015, for rectifiers), each from a stream of its own name.

    A parameter's first value depends on the seed and its name alone, so a site's network with one domain starts where
    the pooled network with all domains starts, and a coordinator's with none does too.

    Output layers start nearly constant, at a foreground share of ``FOREGROUND_PRIOR`` (Lin et al. 2017, section 4.1). The
    paper does not say how it starts them; drawn like the other layers they spend several hundred steps on learning that most
    pixels are background, at the cost of the features that all domains share.
    """
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d):
                spread = math.sqrt(2.0 / module.weight[0].numel())
                module.weight.normal_(0.0, spread, generator=generator(seed, "initial", name))
                if module.bias is not None:
                    module.bias.zero_()
        for module in network.modules():
            if isinstance(module, DomainOutput):
                for layer in module.domains.values():
                    _expect_background(layer)


def _expect_background(layer: nn.Conv2d) -> None:
    layer.weight.mul_(OUTPUT_SPREAD)
    odds = (1 - FOREGROUND_PRIOR) / FOREGROUND_PRIOR * (layer.out_channels - 1)  # against any one structure
    layer.bias[0] = math.log(odds)
