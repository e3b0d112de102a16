import numpy as np
import pytest
import torch

from mtmd_core.config import NetworkConfig
from mtmd_core.data.batches import SliceSource, draw_batch
from mtmd_core.losses.proximal import proximal_term
from mtmd_core.networks.build import build_network
from mtmd_core.objectives import Proximal, Segmentation
from mtmd_core.parameters import partition
from mtmd_core.strategies import Sharing
from mtmd_core.training import compute_gradients


def test_half_the_squared_distance_by_hand():
    """½ ((3 − 1)² + (−1 − 1)² + (0 − 5)²) = 16.5; the gradient is w − wᵗ."""
    now = {"a": torch.tensor([3.0, -1.0], requires_grad=True), "b": torch.tensor(0.0, requires_grad=True)}
    term = proximal_term(now, {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor(5.0)})
    term.backward()
    assert float(term.detach()) == 16.5
    assert (now["a"].grad.tolist(), float(now["b"].grad)) == ([2.0, -2.0], -5.0)


@pytest.mark.parametrize("received", [{}, {"b": torch.ones(2)}, {"a": torch.ones(2), "b": torch.ones(2)}])
def test_other_parameters_than_those_that_came_are_refused(received):
    with pytest.raises(ValueError, match="both must be the same"):
        proximal_term({"a": torch.ones(2)}, received)
    with pytest.raises(ValueError, match="at least one"):
        proximal_term({}, {})


def test_a_sites_gradient_is_pulled_back_by_mu_where_it_is_shared_and_nowhere_else():
    """∇(L + μ/2 ‖w − wᵗ‖²) = ∇L + μ (w − wᵗ), worked out in NumPy from a network that has moved away."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (4, 32, 32), np.uint8)
    source = SliceSource("knee", [random.normal(size=labels.shape).astype(np.float32)], [labels])
    batch = draw_batch({"knee": [source]}, seed=0, step=0, share=4)
    network = build_network(NetworkConfig(width=4), {"knee": 3}, seed=0)
    parameters = dict(network.named_parameters())
    shared = [name for name in partition(network, Sharing.CONVOLUTIONS).shared if name in parameters]
    received = {name: parameters[name].detach().clone() for name in shared}
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += 0.1 * torch.from_numpy(random.normal(size=parameter.shape).astype(np.float32))
    plain = compute_gradients(network, batch, False, Segmentation())
    without = {name: parameter.grad.numpy().copy() for name, parameter in parameters.items()}
    losses = compute_gradients(network, batch, False, Proximal(Segmentation(), 0.3, received))
    distance = sum(float(((parameters[n].detach() - received[n]).double() ** 2).sum()) for n in shared)
    assert float(losses["loss/proximal"]) == pytest.approx(0.15 * distance, rel=1e-5)
    assert float(losses["loss"]) == pytest.approx(float(plain["loss"]) + 0.15 * distance, rel=1e-5)
    for name, parameter in parameters.items():
        pull = 0.3 * (parameter.detach().numpy() - received[name].numpy()) if name in received else 0.0
        np.testing.assert_allclose(parameter.grad.numpy(), without[name] + pull, rtol=1e-4, atol=1e-6, err_msg=name)


def test_where_a_round_begins_it_pulls_at_nothing():
    weights = torch.ones(3, requires_grad=True)
    proximal_term({"a": weights}, {"a": torch.ones(3)}).backward()
    assert weights.grad.tolist() == [0.0, 0.0, 0.0]
