import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtmd_core.networks.att_unet import AttUNet
from mtmd_core.networks.build import initialise
from mtmd_core.networks.domain_layers import DomainBatchNorm2d, DomainOutput, Routing

SHARES = {"ankle": 3, "knee": 1, "shoulder": 2}
CLASSES = {"ankle": 4, "knee": 5, "shoulder": 3}


def features(seed: int = 0, channels: int = 6) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 1.0, 1.0, 9.0, 0.1, 0.1], dtype=torch.float64)[:, None, None, None]  # domains differ
    return scale * (0.5 + torch.randn(6, channels, 4, 5, generator=random, dtype=torch.float64))


def unsettled(layer: nn.Module) -> nn.Module:
    """Give every parameter and buffer of a network in float64 a value of its own; variances stay positive."""
    random = torch.Generator().manual_seed(7)
    for tensor in layer.double().state_dict().values():
        tensor.copy_(0.2 + torch.rand(tensor.shape, generator=random, dtype=torch.float64))
    return layer


@pytest.mark.parametrize(("eps", "momentum"), [(1e-5, 0.1), (1e-3, 0.01)])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_pytorchs_batch_normalisation_domain_by_domain(training, eps, momentum):
    routing = Routing()
    routing.shares = SHARES
    layer = unsettled(DomainBatchNorm2d(routing, list(SHARES), 6, eps, momentum)).train(training)
    references = {domain: nn.BatchNorm2d(6, eps, momentum).double().train(training) for domain in SHARES}
    for domain, reference in references.items():
        counter = {"num_batches_tracked": reference.num_batches_tracked}  # ours counts none
        reference.load_state_dict(layer.domains[domain].state_dict() | counter)
    ours, theirs = features().requires_grad_(), features().requires_grad_()
    weights = features(1)

    output = layer(ours)
    expected = torch.cat([references[d](part) for d, part in zip(SHARES, theirs.split([3, 1, 2]), strict=True)])
    (weights * output).sum().backward()
    (weights * expected).sum().backward()

    torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-10)
    for domain, reference in references.items():
        own = layer.domains[domain]
        torch.testing.assert_close(own.weight.grad, reference.weight.grad, rtol=0, atol=1e-10)
        torch.testing.assert_close(own.bias.grad, reference.bias.grad, rtol=0, atol=1e-10)
        torch.testing.assert_close(own.running_mean, reference.running_mean, rtol=0, atol=1e-10)
        torch.testing.assert_close(own.running_var, reference.running_var, rtol=0, atol=1e-10)


def test_eq_2_by_hand_for_one_channel():
    """Values −1 and 3: mean 1, variance 4; γ = 3, β = 2; the running variance takes the unbiased 8."""
    routing = Routing()
    routing.shares = {"ankle": 1}
    layer = DomainBatchNorm2d(routing, ["ankle"], 1, eps=1e-12).double()
    layer.domains["ankle"].weight.data.fill_(3)
    layer.domains["ankle"].bias.data.fill_(2)
    pixels = torch.tensor([-1.0, 3.0], dtype=torch.float64).view(1, 1, 1, 2)
    assert layer(pixels).flatten().tolist() == pytest.approx([-1.0, 5.0])
    assert layer.domains["ankle"].running_mean.tolist() == pytest.approx([0.1])
    assert layer.domains["ankle"].running_var.tolist() == pytest.approx([0.9 + 0.8])


def test_evaluation_depends_on_running_statistics_and_on_no_other_image():
    routing = Routing()
    layer = unsettled(DomainBatchNorm2d(routing, list(SHARES), 6)).eval()
    batch = features()
    routing.shares = SHARES
    together = layer(batch)
    routing.shares = {"ankle": 1}
    assert torch.equal(layer(batch[:1]), together[:1])


def test_outputs_are_1x1_convolutions_of_each_domains_own():
    routing = Routing()
    routing.shares = SHARES
    layer = unsettled(DomainOutput(routing, CLASSES, 6))
    batch = features()
    logits = layer(batch)
    assert {domain: tuple(scores.shape) for domain, scores in logits.items()} == {
        "ankle": (3, 4, 4, 5),
        "knee": (1, 5, 4, 5),
        "shoulder": (2, 3, 4, 5),
    }
    knee = layer.domains["knee"]
    expected = torch.einsum("nc,chw->nhw", knee.weight[:, :, 0, 0], batch[3]) + knee.bias[:, None, None]
    torch.testing.assert_close(logits["knee"][0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shares", [{"ankle": 3, "knee": 1}, {"ankle": 3, "knee": 1, "shoulder": 3}, {"ankle": 5}])
def test_shares_that_do_not_sum_to_the_batch_are_refused(shares):
    network = AttUNet(CLASSES, width=4)
    with pytest.raises(RuntimeError, match="split"):
        network(torch.zeros(6, 1, 32, 32), shares)


def pass_through(network: nn.Module, images: Tensor, shares: dict[str, int]) -> dict[str, Tensor]:
    logits = network(images, shares).logits
    sum((scores.sin() * (1 + scores)).mean() for scores in logits.values()).backward()
    return {domain: scores.detach() for domain, scores in logits.items()}


def test_three_domains_in_one_pass_are_three_passes():
    """Outputs, gradients and running statistics of the whole network; shared gradients add up."""
    together = AttUNet(CLASSES, width=4)
    initialise(together, seed=1)
    together.double()
    apart = copy.deepcopy(together)
    images = features(2, channels=1).repeat(1, 1, 8, 8)[:, :, :32, :32]
    images = images + torch.randn(images.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    logits = pass_through(together, images, SHARES)
    start = 0
    for domain, count in SHARES.items():
        alone = pass_through(apart, images[start : start + count], {domain: count})
        torch.testing.assert_close(logits[domain], alone[domain], rtol=0, atol=1e-10)
        start += count

    apart_gradients = dict(apart.named_parameters())
    for name, parameter in together.named_parameters():
        torch.testing.assert_close(parameter.grad, apart_gradients[name].grad, rtol=0, atol=1e-10, msg=name)
    for name, tensor in together.state_dict().items():
        torch.testing.assert_close(tensor, apart.state_dict()[name], rtol=0, atol=1e-10, msg=name)
    assert together.encoder[0][0].norm.domains["knee"].running_mean.abs().max() > 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_of_a_batch_are_normalised_bit_for_bit_as_by_themselves(layout, dtype):
    """Values, gradients and running statistics of the whole batch against splitting it and joining the results."""
    shares = {"ankle": 3, "knee": 2, "shoulder": 1}
    random = torch.Generator().manual_seed(1)
    batch, weights = (torch.randn(6, 5, 8, 8, generator=random).to(dtype, memory_format=layout) for _ in range(2))
    routing = Routing()
    ours = DomainBatchNorm2d(routing, list(shares), 5)
    for tensor in ours.state_dict().values():
        tensor.copy_(0.5 + torch.rand(tensor.shape, generator=random))
    theirs = copy.deepcopy(ours)
    one, other = batch.clone().requires_grad_(), batch.clone().requires_grad_()

    ours.routing.shares = shares
    output = ours(one)
    (output * weights).sum().backward()
    parts = []
    for domain, part in zip(shares, other.split(list(shares.values())), strict=True):
        theirs.routing.shares = {domain: len(part)}
        parts.append(theirs(part))
    (torch.cat(parts) * weights).sum().backward()

    assert torch.equal(output, torch.cat(parts))
    assert output.stride() == batch.stride()
    assert torch.equal(one.grad, other.grad)
    for (name, mine), reference in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine.grad, reference.grad), name
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize(
    "view",
    [
        lambda whole: whole[:, 2:7],
        lambda whole: whole[:, :5, 1:6, 2:7],
        lambda whole: whole[:, :5].transpose(2, 3),
        lambda whole: whole[:, ::2],
        lambda whole: whole.to(memory_format=torch.channels_last)[:, :5],
        lambda whole: whole[:, :5, :1].expand(-1, -1, 4, -1),
    ],
    ids=["channels", "crop", "transposed", "every other", "channels of channels-last", "expanded"],
)
def test_views_of_any_strides_are_normalised_as_pytorch_does(view):
    """Values, gradients and running statistics of features that lie neither contiguous nor channels-last."""
    shares = {"ankle": 4, "knee": 2}
    whole = torch.randn(6, 10, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    one, other = whole.clone().requires_grad_(), whole.clone().requires_grad_()
    routing = Routing()
    routing.shares = shares
    ours = unsettled(DomainBatchNorm2d(routing, list(shares), 5))
    theirs = copy.deepcopy(ours).domains

    output = ours(view(one))
    expected = torch.cat(
        [
            F.batch_norm(part, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True)
            for part, norm in zip(view(other).split([4, 2]), theirs.values(), strict=True)
        ]
    )
    output.sin().sum().backward()
    expected.sin().sum().backward()

    torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-10)
    for domain, norm in theirs.items():
        own = ours.domains[domain]
        torch.testing.assert_close(own.weight.grad, norm.weight.grad, rtol=0, atol=1e-10)
        torch.testing.assert_close(own.running_mean, norm.running_mean, rtol=0, atol=1e-10)
        torch.testing.assert_close(own.running_var, norm.running_var, rtol=0, atol=1e-10)


def test_gradients_come_in_any_layout():
    """As when what follows transposes, or sums over pixels."""
    routing = Routing()
    routing.shares = {"ankle": 2, "knee": 2}
    layer = DomainBatchNorm2d(routing, ["ankle", "knee"], 3).double()
    features = torch.randn(4, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x).transpose(2, 3).sin().mean(dim=(2, 3)), features)


def test_one_value_a_channel_has_no_variance_and_is_refused():
    network = AttUNet(CLASSES, width=4)
    with pytest.raises(ValueError, match=r"one image of \(1, 1\) pixels .* put more slices of each domain"):
        network(torch.zeros(3, 1, 16, 16), dict.fromkeys(CLASSES, 1))
