"""What ``training.compile`` asks of the networks: that PyTorch can trace them whole."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mtmd_core.config import NetworkConfig
from mtmd_core.networks.build import build_network
from mtmd_core.objectives import gradient_norms
from mtmd_core.training import build_optimiser, train_step

CLASSES = {"ankle": 3, "knee": 2}


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_traced_in_one_piece_and_keeps_its_names(training):
    """Tracing alone, without a compiler behind it: a break in the graph is an error."""
    network = build_network(NetworkConfig(width=4), CLASSES, seed=0).train(training)
    plain = copy.deepcopy(network)
    network.compile(backend="eager", fullgraph=True)
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    traced, expected = (each(images, {"ankle": 2, "knee": 2}, embeddings=True) for each in (network, plain))
    for domain, logits in expected.logits.items():
        torch.testing.assert_close(traced.logits[domain], logits)
    assert network.state_dict().keys() == plain.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, msg=name)


def test_terms_of_a_compiled_network_are_measured_after_a_step_as_those_of_a_plain_one():
    """A compiled graph lends its buffers to the way back, which can then be gone but once."""

    def two_terms(network: nn.Module, batch: Tensor, bf16: bool) -> dict[str, Tensor]:
        output = network(batch)
        return {"square": output.square().mean(), "mean": output.mean()}

    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU(), nn.BatchNorm2d(2), nn.Sigmoid())
    plain, batch = copy.deepcopy(network), torch.rand(2, 1, 8, 8)
    network.compile(backend="aot_eager")
    for each in (network, plain):
        train_step(each, build_optimiser(each.parameters(), 1e-2), batch, objective=two_terms)
    assert gradient_norms(network, two_terms, batch) == pytest.approx(gradient_norms(plain, two_terms, batch), rel=1e-4)
