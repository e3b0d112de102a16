"""What the server makes of an average: one optimiser of ``torch.optim`` on the averaged update."""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from mtmd_core.arrays import as_tensor
from mtmd_core.config import RunConfig
from mtmd_core.training import build_optimiser, load_optimiser_tensors, optimiser_tensors, set_learning_rate
from mtmd_core.wire import GRADIENT, SHARED

from .checkpoints import Arrays

DEFAULTS: dict[str, dict[str, float]] = {
    "fedavg": {"learning_rate": 1.0},
    "fedavgm": {"learning_rate": 1.0, "momentum": 0.9},
    "fedadam": {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-3},
    "fedadagrad": {"learning_rate": 1e-2, "epsilon": 1e-3},
}
"""Words of each optimiser: β and ε are those of Reddi et al. 2021 (section 5); the rate of the adaptive ones is about as far as
20 local steps of Adam lead at the paper's own rate of 5e-4."""

Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class ServerOptimiser:
    """An optimiser whose gradient is the negative of the sites' averaged update (Reddi et al. 2021, Algorithm 1).

    Args:
        build: makes the optimiser for a list of parameters; None takes over the average as it is, which is FedAvg and, but for
            rounding, gradient descent at rate 1.
        shared: the parameters to begin with, by name.
        statistics: names among them that are no parameters but running statistics: they are averaged, never optimised.
    """

    def __init__(self, build: Build | None, shared: Arrays, statistics: Collection[str] = ()) -> None:
        self._parameters = {
            name: nn.Parameter(torch.from_numpy(array.copy()))
            for name, array in shared.items()
            if build is not None and name not in statistics
        }
        self._optimiser = build(list(self._parameters.values())) if build is not None and self._parameters else None

    def step(self, shared: Arrays, mean: Arrays, record: str, learning_rate: float | None = None) -> Arrays:
        """The shared parameters after a round.

        Args:
            shared: what the round began with.
            mean: the average of what sites brought; the same names and shapes.
            record: what that was: ``SHARED`` (trained parameters), ``UPDATE`` or ``GRADIENT``.
            learning_rate: of this step, where it is not the optimiser's own.
        """
        stepped = {}
        for name, before in shared.items():
            parameter = self._parameters.get(name)
            if parameter is None:
                stepped[name] = mean[name] if record == SHARED else before + mean[name]
                continue
            parameter.data.copy_(as_tensor(before))
            parameter.grad = torch.from_numpy(_gradient(before, mean[name], record))
        if self._optimiser is not None:
            if learning_rate is not None:
                set_learning_rate(self._optimiser, learning_rate)
            self._optimiser.step()
        return {
            name: stepped[name] if name in stepped else self._parameters[name].detach().numpy().copy()
            for name in shared
        }

    def state(self) -> dict[str, Tensor]:
        """All that the next step needs besides the parameters, by name."""
        return {} if self._optimiser is None else optimiser_tensors(self._parameters, self._optimiser)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` gave."""
        if self._optimiser is not None:
            load_optimiser_tensors(self._parameters, self._optimiser, state)


def build_server_optimiser(
    config: RunConfig, shared: Arrays, statistics: Collection[str], learning_rate: float | None = None
) -> ServerOptimiser:
    """The configured optimiser; in lock-step that of training itself, at its rate unless another phase has one of its own."""
    training = config.training
    rate = training.learning_rate if learning_rate is None else learning_rate
    if config.federation.lockstep:
        return ServerOptimiser(
            lambda parameters: build_optimiser(parameters, rate, training.optimiser),
            shared,
            statistics,
        )
    own = config.federation.server_optimiser
    words = {
        word: default if getattr(own, word) is None else getattr(own, word)
        for word, default in DEFAULTS[own.name].items()
    }
    return ServerOptimiser(_BUILDERS[own.name](**words), shared, statistics)


def _gradient_descent(learning_rate: float, momentum: float = 0.0) -> Build | None:
    if (learning_rate, momentum) == (1.0, 0.0):
        return None
    return lambda parameters: torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)


def _adam(learning_rate: float, beta1: float, beta2: float, epsilon: float) -> Build:
    return lambda parameters: torch.optim.Adam(parameters, lr=learning_rate, betas=(beta1, beta2), eps=epsilon)


def _adagrad(learning_rate: float, epsilon: float) -> Build:
    return lambda parameters: torch.optim.Adagrad(parameters, lr=learning_rate, eps=epsilon)


_BUILDERS: dict[str, Callable[..., Build | None]] = {
    "fedavg": _gradient_descent,
    "fedavgm": _gradient_descent,
    "fedadam": _adam,
    "fedadagrad": _adagrad,
}


def _gradient(before: np.ndarray, mean: np.ndarray, record: str) -> np.ndarray:
    """What the optimiser descends: the gradient itself, or the negative of the averaged update."""
    if record == GRADIENT:
        return mean.copy()
    return before - mean if record == SHARED else -mean
