import numpy as np
import pytest
import torch
from network_checks import check_size

from mtmd_core.config import NetworkConfig
from mtmd_core.networks.att_unet import AttUNet
from mtmd_core.networks.blocks import AttentionGate
from mtmd_core.networks.build import build_network
from mtmd_core.networks.domain_layers import Routing
from mtmd_core.networks.output import Embedder, embed
from mtmd_core.parameters import partition
from mtmd_core.strategies import EVERY_SITE, Sharing

PAPER = {"ankle": 4, "knee": 5, "shoulder": 3}


@pytest.mark.parametrize("domains", [{EVERY_SITE: 10}, PAPER], ids=["shared", "dsl"])
def test_it_has_the_papers_8_7_million_parameters(domains):
    network = AttUNet(domains, width=32)
    check_size(network, millions=8.7)


def test_convolutions_before_a_normalisation_have_no_bias():
    network = AttUNet(PAPER, width=4)
    names = partition(network, Sharing.CONVOLUTIONS).shared
    assert names
    assert all(name.endswith("conv.weight") for name in names)


@pytest.mark.parametrize("width", [4, 16])
def test_shapes_of_logits_and_of_the_nine_embeddings(width):
    network = AttUNet(PAPER, width=width)
    output = network(torch.randn(3, 1, 32, 48), dict.fromkeys(PAPER, 1), embeddings=True)
    assert {d: tuple(scores.shape) for d, scores in output.logits.items()} == {
        d: (1, n, 32, 48) for d, n in PAPER.items()
    }
    assert [z.shape[1] // width for z in output.embeddings] == [1, 2, 4, 8, 16, 8, 4, 2, 1]
    for embedding in output.embeddings:
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))
    assert network(torch.randn(1, 1, 32, 32), {"knee": 1}).embeddings == []


def test_an_embedding_by_hand():
    """Means 3 and −4 over the pixels: (3, −4) / 5."""
    features = torch.tensor([[[[2.0, 4.0]], [[-8.0, 0.0]]]])
    torch.testing.assert_close(embed(features), torch.tensor([[0.6, -0.8]]))


def test_embeddings_of_rounding_noise_stay_small():
    """Zero but for rounding, as after a normalisation of a single image: nothing to give a direction to."""
    noise = 1e-7 * torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    assert embed(noise).abs().max() < 1e-3


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_embeddings_taken_in_passing_have_the_gradients_of_plain_ones(memory_format):
    """With two layers after a map, one that takes a part, one whose gradient is not written out, and none."""
    random = torch.Generator().manual_seed(1)
    given = torch.randn(2, 3, 4, 6, generator=random, dtype=torch.float64).contiguous(memory_format=memory_format)
    weights = torch.randn(2, 3, generator=random, dtype=torch.float64)

    def gradient(take, after):
        images = given.clone(memory_format=torch.preserve_format).requires_grad_()
        features, embedding = take(images.exp())
        ((weights * embedding).sum() + after(features)).backward()
        return images.grad

    def passing(features):
        embedder = Embedder(wanted=True)
        return embedder(features), embedder.found[0]

    layers = [
        lambda f: (f.sin() * f).sum(),
        lambda f: torch.cat([f, f.cos()], dim=1).square().sum(),
        lambda f: f.sum(),
        lambda f: 0 * weights.sum(),
    ]
    for after in layers:
        expected = gradient(lambda features: (features, embed(features)), after)
        torch.testing.assert_close(gradient(passing, after), expected, rtol=1e-12, atol=1e-12)


def test_attention_is_its_formula():
    """α = sigmoid(BN(ψ · ReLU(BN(W_x x) + BN(W_g g)))), computed in NumPy; the coefficients can be read."""
    routing = Routing()
    routing.shares = {"knee": 2}
    module = AttentionGate(routing, ["ankle", "knee"], 6).double().eval()
    random = torch.Generator().manual_seed(5)
    for tensor in module.state_dict().values():
        tensor.copy_(0.1 + torch.rand(tensor.shape, generator=random, dtype=torch.float64))
    module.skip.conv.weight.data.sub_(0.6)  # both signs before the rectifier
    skip, gate = torch.randn(2, 2, 6, 4, 5, generator=random, dtype=torch.float64)

    def convolved(block, features):
        norm = {name: t.numpy()[:, None, None] for name, t in block.norm.domains["knee"].state_dict().items()}
        mixed = np.einsum("oc,bchw->bohw", block.conv.weight.detach().numpy()[:, :, 0, 0], features)
        return norm["weight"] * (mixed - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5) + norm["bias"]

    inner = convolved(module.skip, skip.numpy()) + convolved(module.gate, gate.numpy())
    assert inner.min() < 0 < inner.max()
    expected = 1 / (1 + np.exp(-convolved(module.score, np.maximum(inner, 0))))

    assert module(skip, gate) is not None
    assert module.coefficients is None
    module.keep_coefficients = True
    attended = module(skip, gate)
    assert module.coefficients.shape == (2, 1, 4, 5)
    np.testing.assert_allclose(module.coefficients.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(attended.detach().numpy(), skip.numpy() * expected, rtol=1e-12)


def test_every_skip_connection_has_a_gate_at_its_own_resolution():
    network = AttUNet(PAPER, width=4)
    for gate in network.gates:
        gate.keep_coefficients = True
    network(torch.randn(2, 1, 32, 32), {"knee": 2})
    assert [tuple(gate.coefficients.shape) for gate in network.gates] == [(2, 1, n, n) for n in (4, 8, 16, 32)]


def test_first_values_depend_on_seed_and_name_alone():
    """Networks with 0, 1 and 3 domains start at the same shared values, and a domain at its own."""
    states = [
        build_network(NetworkConfig(width=4), domains, seed=3).state_dict()
        for domains in (PAPER, {"knee": 5}, {}, dict(reversed(PAPER.items())))
    ]
    for state in states[1:]:
        assert state.keys() <= states[0].keys()
        assert all(torch.equal(tensor, states[0][name]) for name, tensor in state.items())
    other = build_network(NetworkConfig(width=4), PAPER, seed=4).state_dict()
    assert not torch.equal(other["encoder.0.0.conv.weight"], states[0]["encoder.0.0.conv.weight"])


def test_first_weights_have_the_deviation_that_keeps_rectified_signals_alive():
    network = build_network(NetworkConfig(width=16), {"knee": 5}, seed=0)
    weight = network.encoder[4][1].conv.weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert float(weight.mean()) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("classes", [2, 5])
def test_an_untrained_network_expects_five_percent_of_foreground(classes):
    network = build_network(NetworkConfig(width=16), {"knee": classes}, seed=0).eval()
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    share = network(images, {"knee": 2}).logits["knee"].detach().softmax(dim=1)[:, 0].mean()
    assert float(network.output.domains["knee"].bias.detach().softmax(0)[0]) == pytest.approx(0.95)
    assert float(share) == pytest.approx(0.95, abs=0.04)
