"""How long an update is, and how long updates of a run have been lately.

A site whose training went astray (a learning rate of its own making, exams in other units, memory that fails) brings an update
that is finite and of the right shapes, and many times as long as anything before. One such update in an average of few sites
undoes hours of training. What is usual is a matter of the run (network, optimiser, steps a round), so each is compared with
the run's own recent history: the median over all sites and the last rounds, which half of the updates would have to spoil.

The limit is generous. Where sites take ``federation.local_epochs``, one with ten times the exams takes ten times the steps, and
an update grows at most in proportion to its steps; a fault that needs an average to be protected is larger by far. It is no
defence against a coordinator's adversary, who would stay below any limit.
"""

import math
from collections import deque
from collections.abc import Collection, Mapping
from statistics import median

import numpy as np
import torch

from mtmd_core.arrays import as_tensor
from mtmd_core.wire import GRADIENT, SHARED

ROUNDS = 5
"""Rounds that make up the recent history."""
LEAST = 3
"""Updates that a history must hold: with fewer, a run has not shown yet what is usual."""


def update_norm(
    brought: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], record: str, statistics: Collection[str] = ()
) -> float:
    """Euclidean length of what a site wants changed: ``√Σ (after − before)²`` over all trained parameters.

    Args:
        brought: parameters, updates or gradients by name, decoded; empty gives 0.
        before: the parameters that the round began with; needed where ``record`` is ``SHARED``.
        record: what was brought: ``SHARED``, ``UPDATE`` or ``GRADIENT``.
        statistics: names of running statistics, which follow the data and are no steps.

    Returns:
        NaN or infinity where a value that was brought is, statistics apart; infinity where the length is too large to square.

    >>> update_norm({"a": np.float32([4, 6])}, {"a": np.float32([1, 2])}, "shared")
    5.0
    """
    square = 0.0
    for name, array in brought.items():
        if name in statistics or array.dtype.kind != "f":
            continue
        tensor = as_tensor(array)
        step = tensor - as_tensor(before[name]) if record == SHARED else tensor
        norm = float(torch.linalg.vector_norm(step))
        square += norm * norm  # not norm ** 2, which raises where this is infinite
    return math.sqrt(square)


class RecentNorms:
    """The norms of the updates that were admitted in the last rounds.

    Args:
        factor: times the median that an update may be long; None for no limit.
        record: in which updates come. Gradients of single batches, in lock-step, are long now and then for no fault of
            their site's, and have no limit.
    """

    def __init__(self, factor: float | None, record: str = SHARED) -> None:
        self.factor = None if record == GRADIENT else factor
        self._rounds: deque[list[float]] = deque(maxlen=ROUNDS)

    def add(self, norms: Collection[float]) -> None:
        """Take note of a round's admitted updates."""
        if norms:
            self._rounds.append(list(norms))

    def limit(self) -> float:
        """The longest that an update may be now; infinite without a history.

        >>> recent = RecentNorms(factor=20)
        >>> recent.add([1.0, 3.0, 2.0])
        >>> recent.limit()
        40.0
        """
        norms = [norm for round_ in self._rounds for norm in round_]
        if self.factor is None or len(norms) < LEAST or median(norms) == 0:
            return math.inf
        return self.factor * median(norms)
