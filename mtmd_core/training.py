"""Training: one step, and a stretch of steps; the same for pooled data (K domains) and for a site (K = 1)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtmd_core.data.batches import Batch, SliceSource, draw_batch
from mtmd_core.learning_rate import decayed
from mtmd_core.objectives import Objective, Segmentation, gradient_norms

OnStep = Callable[[int, float], None]
"""Called after each step with the step's number and its loss."""
LOSS = "loss"
"""Name of the sum of all terms."""


@dataclass(frozen=True)
class Recipe:
    """What a step needs besides network, data and objective.

    ``share``: slices of each site in a batch. ``decay``: how the learning rate falls over all ``steps`` of the training.
    """

    share: int
    learning_rate: float
    seed: int
    augment: bool = True
    autocast: bool = False
    optimiser: str = "adam"
    decay: str = "none"
    steps: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return decayed(self.learning_rate, self.decay, step, self.steps)


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Make an optimiser's next step one at this rate."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate


def build_optimiser(
    network: nn.Module | Iterable[nn.Parameter], learning_rate: float, name: str = "adam"
) -> torch.optim.Optimizer:
    """Adam (the paper, section 3.3) or plain stochastic gradient descent, fused over all tensors.

    Args:
        network: or the parameters to train, where these are not all of a network's.
        learning_rate: of either.
        name: ``adam`` or ``sgd``.
    """
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[name]
    parameters = network.parameters() if isinstance(network, nn.Module) else list(network)
    return kind(parameters, lr=learning_rate, fused=True)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first of some tensors, of any dtype and shape, that holds NaN or infinity; None if none does."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)


def train(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    sources: Mapping[str, Sequence[SliceSource]],
    recipe: Recipe,
    steps: range,
    on_step: OnStep | None = None,
    objective: Objective = Segmentation(),  # noqa: B008 - it is frozen
) -> dict[str, float]:
    """Train for the numbered steps; returns their mean ``loss`` and, as ``loss/<term>``, that of each of its terms.

    A step's batch depends on the recipe's seed and the step's number alone, so that ``range(0, 10)`` followed by
    ``range(10, 20)`` is ``range(0, 20)``.
    """
    like = next(network.parameters())
    network.train()
    totals: dict[str, float] = {}
    for step in steps:
        batch = draw_batch(sources, recipe.seed, step, recipe.share, recipe.augment, like.device, like.dtype)
        set_learning_rate(optimiser, recipe.rate(step))
        losses = train_step(network, optimiser, batch, recipe.autocast, objective)
        for name, value in losses.items():
            totals[name] = totals.get(name, 0.0) + value
        if on_step is not None:
            on_step(step, losses[LOSS])
    return {name: total / len(steps) for name, total in totals.items()}


def train_step(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    bf16: bool = False,
    objective: Objective = Segmentation(),  # noqa: B008 - it is frozen
) -> dict[str, float]:
    """One optimisation step on one batch; returns the loss and its terms, named as by :func:`train`."""
    losses = compute_gradients(network, batch, bf16, objective)
    optimiser.step()
    values = torch.stack(list(losses.values())).tolist()  # one wait for the device, not one a term
    return dict(zip(losses, values, strict=True))


def compute_gradients(network: nn.Module, batch: Batch, bf16: bool, objective: Objective) -> dict[str, Tensor]:
    """Leave the gradients of one batch with the network's parameters; the loss and its terms, as :func:`train_step`'s."""
    network.zero_grad(set_to_none=True)
    terms = objective(network, batch, bf16)
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    return {LOSS: loss.detach()} | {f"{LOSS}/{name}": term.detach() for name, term in terms.items()}


def measure_gradients(
    network: nn.Module,
    sources: Mapping[str, Sequence[SliceSource]],
    recipe: Recipe,
    step: int,
    objective: Objective,
) -> dict[str, float]:
    """As ``gradient_norm/<term>``, how strongly each term pulls at the network on a step's batch, not augmented.

    The network, its gradients and its optimiser are left as they were (:func:`mtmd_core.objectives.gradient_norms`).
    """
    like = next(network.parameters())
    batch = draw_batch(sources, recipe.seed, step, recipe.share, False, like.device, like.dtype)
    norms = gradient_norms(network, objective, batch)
    return {f"gradient_norm/{term}": norm for term, norm in norms.items()}


Parameters = nn.Module | Mapping[str, nn.Parameter]
"""A network, or parameters by name."""


def optimiser_tensors(network: Parameters, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state by parameter name: ``<parameter>/<quantity>``, for example ``output.bias/exp_avg``."""
    names = {parameter: name for name, parameter in _by_name(network).items()}
    return {
        f"{names[parameter]}/{quantity}": value
        for parameter, state in optimiser.state.items()
        for quantity, value in state.items()
    }


def load_optimiser_tensors(
    network: Parameters, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what :func:`optimiser_tensors` took.

    Raises:
        ValueError: if a tensor belongs to no parameter of the network.
    """
    parameters = _by_name(network)
    optimiser.state.clear()
    for key, value in tensors.items():
        name, _, quantity = key.rpartition("/")
        if name not in parameters:
            raise ValueError(f"the optimiser's state has '{key}', but the network has no parameter '{name}'")
        parameter = parameters[name]
        # A fused optimiser walks through memory: what belongs to a parameter must lie as it does, and beside it.
        kept = (
            torch.empty_like(parameter, dtype=value.dtype)
            if value.shape == parameter.shape
            else value.to(parameter.device, copy=True)
        )
        optimiser.state[parameter][quantity] = kept.copy_(value)


def _by_name(network: Parameters) -> dict[str, nn.Parameter]:
    return dict(network.named_parameters() if isinstance(network, nn.Module) else network)
