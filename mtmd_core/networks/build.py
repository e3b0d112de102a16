"""From configuration to a network with reproducible initial weights."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from mtmd_core.config import NetworkConfig
from mtmd_core.seeds import generator

from .att_unet import AttUNet


def build_network(config: NetworkConfig, domains: Mapping[str, int], seed: int) -> nn.Module:
    """Build a network and initialise it.

    Args:
        config: which network and how wide.
        domains: domain → number of classes, background included; empty for shared layers only.
        seed: of the run; see :func:`initialise`.
    """
    network = AttUNet(domains, width=config.width)
    initialise(network, seed)
    return network


def initialise(network: nn.Module, seed: int) -> None:
    """Draw every convolution's weights (He et al. 2015, for rectifiers), each from a stream of its own name.

    A parameter's first value depends on the seed and its name alone, so a site's network with one domain starts where
    the pooled network with all domains starts, and a coordinator's with none does too.
    """
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator(seed, "initial", name))
                if module.bias is not None:
                    module.bias.zero_()
