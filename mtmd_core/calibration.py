"""Running statistics of batch normalisation measured anew, for weights that did not come from one's own training."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from mtmd_core.data.batches import SliceSource, draw_batch
from mtmd_core.networks.domain_layers import DomainBatchNorm2d
from mtmd_core.objectives import Forward, segment
from mtmd_core.seeds import derive_seed
from mtmd_core.training import Recipe


@torch.no_grad()
def calibrate(
    network: nn.Module,
    sources: Mapping[str, Sequence[SliceSource]],
    recipe: Recipe,
    batches: int,
    forward: Forward = segment,
) -> None:
    """Replace the running mean and variance of every DSBN by their mean over batches of training slices.

    Running statistics follow the weights that a site trained. Averaged weights have others, and a network that is evaluated
    with its own old ones segments worse than it can. Plain averages over batches are those of Wu and Johnson 2021
    ("precise" batch normalisation). Nothing else changes: while training, statistics come from the batch.

    Args:
        network: left in evaluation mode.
        sources: as for training; slices are taken as they are, without augmentation.
        recipe: of the training; decides the size of a batch and the seed.
        batches: how many; 0 changes nothing.
        forward: what the network makes of a batch.
    """
    like = next(network.parameters())
    layers = [module for module in network.modules() if isinstance(module, DomainBatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    seed = derive_seed(recipe.seed, "calibration")
    network.train()
    for number in range(batches):
        for layer in layers:
            layer.momentum = 1 / (number + 1)  # so that all batches weigh alike
        batch = draw_batch(sources, seed, number, recipe.share, augmented=False, device=like.device, dtype=like.dtype)
        forward(network, batch, False)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()
