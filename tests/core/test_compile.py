"""What ``training.compile`` asks of the networks: that PyTorch can trace them whole."""

import copy

import pytest
import torch

from mtmd_core.config import NetworkConfig
from mtmd_core.networks.build import build_network

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
