"""Of how many slices a round's update is made, against gradient descent with known gradients."""

import numpy as np
import pytest
import torch

from mtmd_core.losses.proximal import proximal_term
from mtmd_core.round_slices import Rounds, steps_kept
from mtmd_core.training import build_optimiser, set_learning_rate


def weights(rates: list[float], mu: float) -> torch.Tensor:
    """What gradient descent keeps of each step, of which each has a gradient along an axis of its own."""
    parameter = torch.nn.Parameter(torch.zeros(len(rates), dtype=torch.float64))
    received = {"w": parameter.detach().clone()}
    optimiser = build_optimiser([parameter], 1.0, "sgd")
    for step, rate in enumerate(rates):
        optimiser.zero_grad()
        (parameter[step] + mu * proximal_term({"w": parameter}, received)).backward()
        set_learning_rate(optimiser, rate)
        optimiser.step()
    return parameter.detach().abs()


@pytest.mark.parametrize(
    ("rates", "mu"),
    [([0.1] * 7, 0.0), ([0.3, 0.2, 0.1], 0.0), ([0.1] * 7, 3.0), ([0.5, 0.4, 0.3], 7.0), ([0.0, 0.2, 0.0], 1.0)],
)
def test_steps_weigh_as_gradient_descent_keeps_them(rates: list[float], mu: float) -> None:
    kept = weights(rates, mu)
    assert steps_kept(np.array(rates), mu) == pytest.approx(float(kept.sum() / kept.max()))


def test_a_step_that_outweighs_all_others_is_one_however_far_it_does() -> None:
    assert steps_kept(np.zeros(3), 0.0) == 0
    assert steps_kept(np.full(1000, 0.1), 10.0) == 1  # each step takes all before it back
    assert steps_kept(np.full(1000, 1.0), 1e300) == pytest.approx(1)  # and here each blows up the first


def test_the_slices_of_a_last_round_whose_rate_falls_to_nothing_are_half_as_many() -> None:
    falling, level = (Rounds(3, 0.1, decay, 0.0) for decay in ("linear", "none"))
    assert [falling.slices_behind(round_, 25, 2) for round_ in (1, 2, 3)] == pytest.approx(
        [2 * sum(range(lowest, highest + 1)) / highest for lowest, highest in ((51, 75), (26, 50), (1, 25))]
    )
    assert level.slices_behind(3, 25, 2) == 50
