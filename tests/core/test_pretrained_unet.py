import copy
import importlib

import pytest
import timm
import torch
from network_checks import check_step_of_one_domain
from torch import Tensor, nn
from torch.nn import functional as F

from mtmd_core.config import STRIDES, NetworkConfig
from mtmd_core.data.batches import Batch
from mtmd_core.networks.att_unet import AttUNet
from mtmd_core.networks.blocks import MergedUpConv, UpConv
from mtmd_core.networks.build import build_network, count_parameters
from mtmd_core.networks.domain_layers import DomainBatchNorm2d, DomainLayer, Routing
from mtmd_core.networks.excited_projection import ExcitedProjection
from mtmd_core.networks.pretrained import PRETRAINED
from mtmd_core.networks.pretrained_unet import PretrainedUNet
from mtmd_core.parameters import partition
from mtmd_core.strategies import EVERY_SITE, Sharing
from mtmd_core.training import build_optimiser, train_step

NAMES = tuple(PRETRAINED)
DOMAINS = {"ankle": 4, "knee": 5, "shoulder": 3}
SHARES = {"ankle": 3, "knee": 2, "shoulder": 2}
TABLE_1 = {"inception_unet": (48.1e6, 48.3e6), "dense_unet": (23.3e6, 23.6e6), "efficient_unet": (14.6e6, 14.8e6)}


@pytest.fixture(scope="module", params=NAMES)
def network(request) -> PretrainedUNet:
    """A network of each kind with three domains; tests leave its state as they find it."""
    return build_network(NetworkConfig(request.param), DOMAINS, seed=3)


def name_of(network: nn.Module) -> str:
    return next(name for name, kind in PRETRAINED.items() if type(network) is kind)


def on_meta(name: str, domains: dict[str, int]) -> nn.Module:
    with torch.device("meta"):
        return PRETRAINED[name](domains)


def images(count: int, size: int = 64, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.5, 2, count)[:, None, None, None]
    return scale * (0.3 + torch.randn(count, 1, size, size, generator=random))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_as_many_as_in_table_1(name):
    for domains, expected in zip(({EVERY_SITE: 10}, DOMAINS), TABLE_1[name], strict=True):
        network = on_meta(name, domains)
        sizes = {key: parameter.numel() for key, parameter in network.named_parameters()}
        assert sum(sizes.values()) == pytest.approx(expected, rel=0.02)
        private = sum(sizes.get(key, 0) for key in partition(network, Sharing.CONVOLUTIONS).private)
        assert 0 < private / sum(sizes.values()) <= 0.03


@pytest.mark.parametrize("name", NAMES)
def test_counting_needs_neither_weights_nor_memory(name, monkeypatch):
    monkeypatch.setattr("mtmd_core.networks.encoder_weights.read_encoder_weights", None)
    shared = sum(parameter.numel() for parameter in on_meta(name, {}).parameters())
    assert count_parameters(NetworkConfig(name, encoder_weights="imagenet")) == shared


def test_the_configuration_knows_each_networks_stride():
    assert {name: kind.stride for name, kind in PRETRAINED.items()} | {"att_unet": AttUNet.stride} == STRIDES


def test_shapes_of_logits_and_of_the_nine_embeddings(network):
    encoder, decoder = network.encoder_channels, network.decoder_channels
    with torch.no_grad():
        output = copy.deepcopy(network)(images(6)[:, :, :, :32], dict.fromkeys(DOMAINS, 2), embeddings=True)
    assert {d: tuple(scores.shape) for d, scores in output.logits.items()} == {
        d: (2, n, 64, 32) for d, n in DOMAINS.items()
    }
    assert [z.shape[1] for z in output.embeddings] == [*encoder, *decoder[:4]]
    for embedding in output.embeddings:
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(6))


def test_features_lie_at_the_strides_and_every_skip_connection_has_a_gate_at_its_own(network):
    network = copy.deepcopy(network).eval()
    for gate in network.gates:
        gate.keep_coefficients = True
    with torch.no_grad():
        network(images(2, size=96), {"knee": 2})
        features = network.encoder(torch.zeros(2, 3, 96, 96))
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (channels, 96 // stride, 96 // stride)
        for channels, stride in zip(network.encoder_channels, (2, 4, 8, 16, 32), strict=True)
    ]
    assert [tuple(gate.coefficients.shape) for gate in network.gates] == [(2, 1, n, n) for n in (6, 12, 24, 48)]


def test_every_normalisation_is_domain_specific_and_keeps_its_own_eps(network):
    kinds = {type(module) for module in network.modules() if hasattr(module, "running_mean")}
    assert {kind.__name__ for kind in kinds} == {"NormStatistics"}
    norms = {place: norm for place, norm in network.named_modules() if isinstance(norm, DomainBatchNorm2d)}
    encoder = {norm.eps for place, norm in norms.items() if place.startswith("encoder.")}
    decoder = {norm.eps for place, norm in norms.items() if not place.startswith("encoder.")}
    assert encoder == ({1e-3} if name_of(network) == "inception_unet" else {1e-5})
    assert decoder == {1e-5}
    assert {norm.momentum for norm in norms.values()} == {0.1}
    assert all(list(norm.domains) == list(DOMAINS) for norm in norms.values())


def test_convolutions_before_a_normalisation_have_no_bias(network):
    biases = [name for name in partition(network, Sharing.CONVOLUTIONS).shared if not name.endswith("weight")]
    excitations = {place for place, module in network.named_modules() if isinstance(module, ExcitedProjection)}
    assert {name.rsplit(".", 2)[0] for name in biases} == excitations
    assert (len(excitations) > 0) == (name_of(network) == "efficient_unet")


def test_no_auxiliary_classifier_and_no_head_is_left():
    """Two layers of ImageNet's 1000 classes, and what leads to them."""
    for name, parameters in {"inception_unet": 21_785_568, "dense_unet": 6_953_856}.items():
        encoder = on_meta(name, {"knee": 2}).encoder
        assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    efficient = on_meta("efficient_unet", {"knee": 2}).encoder
    assert sum(parameter.numel() for parameter in efficient.parameters()) == 10_103_336


def padded_timm(name: str) -> nn.Module:
    """timm's own encoder; InceptionV3 with the padding that it leaves out."""
    model = timm.create_model(name, pretrained=False, features_only=True).eval()
    if name == "inception_v3":
        reductions = (model.Mixed_6a.branch3x3, model.Mixed_6a.branch3x3dbl_3)
        reductions += (model.Mixed_7a.branch3x3_2, model.Mixed_7a.branch7x7x3_4)
        for block in (model.Conv2d_1a_3x3, model.Conv2d_2a_3x3, model.Conv2d_4a_3x3, *reductions):
            block.conv.padding = (1, 1)
        model.Pool1.padding = model.Pool2.padding = 1
    return model


class PaddedFunctions:
    """``torch.nn.functional`` whose poolings of stride 2 are padded."""

    def __getattr__(self, name: str):
        return getattr(F, name)

    def max_pool2d(self, features: Tensor, kernel_size: int, stride: int) -> Tensor:
        return F.max_pool2d(features, kernel_size, stride, padding=1)


def with_values_of_its_own(model: nn.Module) -> nn.Module:
    """Normalisations of a timm model get scales, shifts and running statistics that tell them apart."""
    random = torch.Generator().manual_seed(11)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=random)
            module.bias.data.uniform_(-0.5, 0.5, generator=random)
            module.running_mean.uniform_(-0.5, 0.5, generator=random)
            module.running_var.uniform_(0.5, 1.5, generator=random)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=random)
    return model


@pytest.mark.parametrize("size", [64, 96])
def test_a_loaded_encoder_gives_timms_own_features_for_every_domain(network, size, monkeypatch):
    model = with_values_of_its_own(padded_timm(network.encoder_name)).double()
    monkeypatch.setattr(importlib.import_module("timm.models.inception_v3"), "F", PaddedFunctions())
    network = copy.deepcopy(network).double().eval()
    network.load_encoder(model.state_dict())
    batch = images(3, size).double().expand(-1, 3, -1, -1)
    network.routing.shares = dict.fromkeys(DOMAINS, 1)
    with torch.no_grad():
        expected = model(batch)
        features = network.encoder(batch)
    for stride, (ours, theirs) in zip((2, 4, 8, 16, 32), zip(features, expected, strict=True), strict=True):
        assert tuple(ours.shape[2:]) == (size // stride, size // stride)
        scale = theirs.abs().max()
        assert scale > 0
        torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-6)


def outcome(network: nn.Module, batch: Tensor, shares: dict[str, int]) -> tuple[dict[str, Tensor], Tensor]:
    """Logits and embeddings of one pass, after adding to the parameters' gradients."""
    output = network(batch, shares, embeddings=True)
    sum((scores.sin() * (1 + scores)).mean() for scores in output.logits.values()).backward()
    logits = {domain: scores.detach() for domain, scores in output.logits.items()}
    return logits, torch.cat([z.detach() for z in output.embeddings], dim=1)


def test_three_domains_in_one_pass_are_three_passes(network):
    """Outputs, gradients and running statistics of the whole network; shared gradients add up."""
    together = copy.deepcopy(network).double()
    apart = copy.deepcopy(together)
    batch = images(7).double()  # smaller ones leave too few values at stride 32 for gradients to be well conditioned
    logits, embeddings = outcome(together, batch, SHARES)
    start = 0
    for domain, count in SHARES.items():
        own_logits, own_embeddings = outcome(apart, batch[start : start + count], {domain: count})
        torch.testing.assert_close(logits[domain], own_logits[domain], rtol=0, atol=1e-10)
        torch.testing.assert_close(embeddings[start : start + count], own_embeddings, rtol=0, atol=1e-10)
        start += count
    gradients = dict(apart.named_parameters())
    for name, parameter in together.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=0, atol=1e-10, msg=name)
    buffers = dict(apart.named_buffers())
    for name, buffer in together.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=0, atol=1e-10, msg=name)


def test_training_on_one_domain_leaves_the_others_bit_for_bit(network):
    network = copy.deepcopy(network)
    optimiser = build_optimiser(network, 1e-2)

    def step(domain: str) -> None:
        label = torch.ones(2, 64, 64, dtype=torch.long)
        train_step(network, optimiser, Batch(images(2), {domain: label}, {domain: 2}))

    step("ankle")  # the optimiser has momentum for ankle now
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    step("knee")
    check_step_of_one_domain(network, before, "knee")


def test_a_site_knows_a_subset_of_the_pooled_network_and_all_know_the_same_shared_part(network):
    pooled, site, coordinator = (on_meta(name_of(network), d) for d in (DOMAINS, {"knee": 5}, {}))
    assert set(site.state_dict()) < set(pooled.state_dict())
    parts = [partition(one, Sharing.CONVOLUTIONS) for one in (pooled, site, coordinator)]
    assert parts[0].shared == parts[1].shared == parts[2].shared == tuple(coordinator.state_dict())
    assert parts[2].private == ()
    convolutions = {
        f"{place}.weight"
        for place, module in pooled.named_modules()
        if isinstance(module, nn.Conv2d) and ".domains." not in place
    }
    assert convolutions <= set(parts[0].shared)
    layers = [place for place, module in pooled.named_modules() if isinstance(module, DomainLayer)]
    assert {name.split(".domains.")[0] for name in parts[0].private} == set(layers)


def test_first_values_depend_on_seed_and_name_alone(network):
    pooled = network.state_dict()
    for domains in ({"knee": 5}, {}):
        state = build_network(NetworkConfig(name_of(network)), domains, seed=3).state_dict()
        assert state.keys() <= pooled.keys()
        assert all(torch.equal(tensor, pooled[name]) for name, tensor in state.items())


def test_up_sampling_and_convolution_merged_are_both_one_after_the_other():
    routing = Routing()
    routing.shares = {"knee": 2}
    merged = MergedUpConv(routing, ["knee"], 3, 5).double()
    separate = UpConv(routing, ["knee"], 3, 5).double()
    separate.block.load_state_dict(merged.state_dict())
    results = []
    for block in (merged, separate):
        features = images(6, size=7).double().view(2, 3, 7, 7).requires_grad_()
        output = block(features)
        (output * torch.linspace(-1, 1, output.numel()).double().view_as(output)).sum().backward()
        weight = (merged if block is merged else separate.block).conv.weight
        results.append((output.detach(), features.grad, weight.grad))
    assert tuple(results[0][0].shape) == (2, 5, 14, 14)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("outputs", [4, 60], ids=["weighing columns", "weighing features"])
def test_an_excited_projection_is_timms_excitation_and_a_convolution(outputs, memory_format):
    excite = timm.models._efficientnet_blocks.SqueezeExcite(8, rd_channels=3, act_layer=nn.SiLU).double()
    project = nn.Conv2d(8, outputs, 1, bias=False).double()
    ours = ExcitedProjection(excite.conv_reduce, excite.conv_expand, project)
    results = []
    for block in (ours, nn.Sequential(excite, project)):
        features = images(16, size=7).double().view(2, 8, 7, 7).contiguous(memory_format=memory_format).requires_grad_()
        output = block(features)
        (output * torch.linspace(-1, 1, output.numel()).double().view_as(output)).sum().backward()
        gradients = [p.grad for p in (*excite.parameters(), *project.parameters())]
        results.append([output.detach(), features.grad, *[gradient.clone() for gradient in gradients]])
        for parameter in ours.parameters():
            parameter.grad = None
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert all(gradient.abs().max() > 0 for gradient in results[0][2:])
