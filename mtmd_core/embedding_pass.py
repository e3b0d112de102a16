"""All training slices of a site through a network once, for its prototypes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mtmd_core.data.batches import SliceSource, draw_batch
from mtmd_core.devices import autocast
from mtmd_core.networks.domain_layers import DomainBatchNorm2d
from mtmd_core.objectives import Forward, segment
from mtmd_core.recent_embeddings import Place
from mtmd_core.seeds import derive_seed
from mtmd_core.training import Recipe


@torch.no_grad()
def embed_slices(
    network: nn.Module,
    domain: str,
    source: SliceSource,
    recipe: Recipe,
    forward: Forward = segment,
    *,
    each_by_itself: bool = False,
) -> tuple[list[Tensor], list[Place]]:
    """Embeddings of every training slice of a domain, as the loss sees them.

    Slices are normalised by the statistics of the batch, batches as large as in training, and moved if training moves them.
    Evaluation would take running statistics: those lie behind a network in training, and in the beginning they are none at all.
    ``each_by_itself`` takes them all the same, so that an embedding depends on its own slice alone.

    Returns:
        One [n, E_s] a scale, and the place of each slice. The network is left as it was.
    """
    like = next(network.parameters())
    seed = derive_seed(recipe.seed, "embedding pass")
    share = min(recipe.share, len(source))
    batches, places = [], []
    with _evaluation(network) if each_by_itself else _training_without_trace(network):
        for step in range(math.ceil(len(source) / share)):
            batch = draw_batch({domain: [source]}, seed, step, share, recipe.augment, like.device, like.dtype)
            with autocast(like.device, recipe.autocast):
                batches.append(forward(network, batch, True).embeddings)
            places += source.places(seed, step, share)
    # The last batch is filled up with slices of the next round through the site; each counts once.
    count = len(source)
    return [torch.cat(scale)[:count] for scale in zip(*batches, strict=True)], places[:count]


@contextmanager
def _evaluation(network: nn.Module) -> Iterator[None]:
    mode = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(mode)


@contextmanager
def _training_without_trace(network: nn.Module) -> Iterator[None]:
    """Training mode in which running statistics stay as they are."""
    layers = [module for module in network.modules() if isinstance(module, DomainBatchNorm2d)]
    momenta, mode = [layer.momentum for layer in layers], network.training
    network.train()
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        network.train(mode)
