"""Training: one step, and a stretch of steps; the same for pooled data (K domains) and for a site (K = 1)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtmd_core.data.batches import Batch, SliceSource, draw_batch
from mtmd_core.devices import autocast
from mtmd_core.losses.cross_entropy import domain_cross_entropy

OnStep = Callable[[int, float], None]
"""Called after each step with the step's number and its loss."""


@dataclass(frozen=True)
class Recipe:
    """What a step needs besides network and data. ``share``: slices of each site in a batch."""

    share: int
    learning_rate: float
    seed: int
    augment: bool = True
    autocast: bool = False


def build_optimiser(network: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """Adam (the paper, section 3.3), fused over all tensors."""
    return torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)


def train(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    sources: Mapping[str, Sequence[SliceSource]],
    recipe: Recipe,
    steps: range,
    on_step: OnStep | None = None,
) -> float:
    """Train for the numbered steps and return their mean loss.

    A step's batch depends on the recipe's seed and the step's number alone, so that ``range(0, 10)`` followed by
    ``range(10, 20)`` is ``range(0, 20)``.
    """
    device = next(network.parameters()).device
    network.train()
    total = 0.0
    for step in steps:
        batch = draw_batch(sources, recipe.seed, step, recipe.share, recipe.augment)
        loss = train_step(network, optimiser, to_device(batch, device), recipe.autocast)
        total += loss
        if on_step is not None:
            on_step(step, loss)
    return total / len(steps)


def train_step(network: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, bf16: bool = False) -> float:
    """One optimisation step on one batch; returns its loss (Eq. 1)."""
    optimiser.zero_grad(set_to_none=True)
    with autocast(batch.images.device, bf16):
        output = network(batch.images, batch.shares)
    loss = domain_cross_entropy(output.logits, batch.labels)
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``."""
    if batch.images.device == device:
        return batch
    labels = {domain: label.to(device, non_blocking=True) for domain, label in batch.labels.items()}
    return Batch(batch.images.to(device, non_blocking=True), labels, batch.shares)


def optimiser_tensors(network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state by parameter name: ``<parameter>/<quantity>``, for example ``output.bias/exp_avg``."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        f"{names[parameter]}/{quantity}": value
        for parameter, state in optimiser.state.items()
        for quantity, value in state.items()
    }


def load_optimiser_tensors(network: nn.Module, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`optimiser_tensors` took.

    Raises:
        ValueError: if a tensor belongs to no parameter of the network.
    """
    parameters = dict(network.named_parameters())
    optimiser.state.clear()
    for key, value in tensors.items():
        name, _, quantity = key.rpartition("/")
        if name not in parameters:
            raise ValueError(f"the optimiser's state has '{key}', but the network has no parameter '{name}'")
        # A fused optimiser wants its counters of steps beside the parameters too.
        optimiser.state[parameters[name]][quantity] = value.to(parameters[name].device, copy=True)
