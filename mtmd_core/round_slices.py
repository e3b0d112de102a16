"""Of how many slices a round's update is made: the fewer, the more of each can be inferred from it."""

from dataclasses import dataclass

import numpy as np

from .learning_rate import decayed


@dataclass(frozen=True)
class Rounds:
    """The rounds of a training: ``rate`` at its first step, how it falls (``decay``) over all of them, and FedProx's ``mu``."""

    count: int
    rate: float
    decay: str
    mu: float

    def slices_behind(self, round_: int, steps: int, batch: int) -> float:
        """How many slices a round's update is made of, where steps count as much as the update keeps of them.

        Args:
            round_: counted from 1.
            steps: that each round takes, at least 1.
            batch: slices that a step trains on.

        Returns:
            At most ``steps · batch``; 0 where no step changes anything.
        """
        first = (round_ - 1) * steps
        numbers = np.arange(first, first + steps)
        rates = decayed(self.rate, self.decay, numbers, self.count * steps)
        return batch * steps_kept(np.broadcast_to(rates, numbers.shape), self.mu)

    def fewest_behind(self, round_: int, steps: int, batch: int) -> tuple[float, int]:
        """How many slices the update of this round or of the last one is made of, whichever are fewer; and of which round.

        A rate that falls to nothing leaves the last round the fewest: better known before the first than after the others.
        """
        return min((self.slices_behind(number, steps, batch), number) for number in (round_, self.count))


def steps_kept(rates: np.ndarray, mu: float) -> float:
    """How many steps' gradients an update is made of: their weights' sum over the largest of them.

    Gradient descent with FedProx's term (Li et al. 2020, Algorithm 2) goes from w to ``w − η_i (g_i + μ (w − wᵗ))``, so that a
    round's update is ``−Σ c_i g_i`` with ``c_i = η_i Π_{j>i} (1 − η_j μ)``; returned is ``Σ |c_i| / max |c_i|``.

    Args:
        rates: η of each step, [steps], at least 0.
        mu: FedProx's μ, at least 0.

    Returns:
        From 1, where one step outweighs all others, to their number, where all weigh alike; 0 where all rates are.

    >>> [steps_kept(np.array(rates), mu) for rates, mu in (([0.1, 0.1], 0), ([0.1, 0.0], 0), ([0.1, 0.1], 10), ([0.5, 0.5], 1))]
    [2.0, 1.0, 1.0, 1.5]
    """
    with np.errstate(divide="ignore"):  # a weight of 0 is no harm
        later = np.log(np.abs(1 - rates * mu))[::-1].cumsum()[::-1]
        logarithms = np.log(rates) + np.append(later[1:], 0.0)
    largest = logarithms.max()
    return float(np.exp(logarithms - largest).sum()) if np.isfinite(largest) else 0.0
