import pytest
import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, GroupNormAct, SplitBatchNorm2d, SyncBatchNormAct
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from mtmd_core.networks.domain_layers import DomainBatchNorm2d, Routing
from mtmd_core.networks.norm_conversion import make_domain_specific

SHARES = {"ankle": 3, "knee": 2}


def with_values(norm: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(2)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(norm, name).data.uniform_(0.5, 1.5, generator=random)
    return norm


def sync_norm_act() -> nn.Module:
    norm = SyncBatchNormAct(6, eps=1e-3)
    norm.drop, norm.act = nn.Dropout2d(0.5), nn.SiLU()
    return norm


NORMS = {
    "BatchNorm2d": lambda: nn.BatchNorm2d(6, eps=1e-3, momentum=0.01),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(6, eps=1e-3, momentum=0.01),
    "BatchNormAct2d": lambda: BatchNormAct2d(
        6, eps=1e-3, momentum=0.01, act_layer=nn.SiLU, drop_layer=lambda: nn.Dropout2d(0.5)
    ),
    "BatchNormAct2d without act": lambda: BatchNormAct2d(6, eps=1e-3, momentum=0.01, apply_act=False),
    "SyncBatchNormAct": sync_norm_act,
    "FrozenBatchNorm2d": lambda: FrozenBatchNorm2d(6, eps=1e-3),
    "FrozenBatchNormAct2d": lambda: FrozenBatchNormAct2d(6, eps=1e-3, act_layer=nn.ReLU),
}


@pytest.mark.parametrize("kind", NORMS)
def test_every_domain_starts_as_the_layer_that_is_replaced(kind):
    norm = with_values(NORMS[kind]()).eval()
    routing = Routing()
    routing.shares = SHARES
    ours = make_domain_specific(norm, routing, list(SHARES))
    features = torch.randn(5, 6, 4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(features.clone()), norm(features.clone()))
    layers = [module for module in ours.modules() if isinstance(module, DomainBatchNorm2d)]
    assert [(layer.eps, layer.momentum) for layer in layers] == [(1e-3, getattr(norm, "momentum", 0.1))]
    for own in layers[0].domains.values():
        for name, value in own.state_dict().items():
            assert torch.equal(value, getattr(norm, name))
            assert value.data_ptr() != getattr(norm, name).data_ptr()


def test_training_normalises_then_drops_then_activates():
    norm = with_values(NORMS["BatchNormAct2d"]())
    routing = Routing()
    routing.shares = {"ankle": 5}
    ours = make_domain_specific(norm, routing, ["ankle"])
    features = torch.randn(5, 6, 4, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(4)
    expected = norm(features)
    torch.manual_seed(4)
    torch.testing.assert_close(ours(features), expected)
    assert (expected == 0).any(dim=0).any()  # some were dropped
    torch.testing.assert_close(ours.norm.domains["ankle"].running_mean, norm.running_mean)


def test_all_inside_a_module_are_replaced_and_one_in_two_places_stays_one():
    shared = nn.BatchNorm2d(2)
    module = nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(1, 2, 1), shared), "b": shared, "c": nn.GroupNorm(1, 2)})
    converted = make_domain_specific(module, Routing(), [])
    assert converted is module
    assert module["a"][1] is module["b"]
    assert isinstance(module["b"], DomainBatchNorm2d)
    assert list(module.state_dict()) == ["a.0.weight", "a.0.bias", "c.weight", "c.bias"]


def test_precision_and_device_stay():
    layer = make_domain_specific(nn.BatchNorm2d(2).double(), Routing(), ["ankle"])
    assert {tensor.dtype for tensor in layer.state_dict().values()} == {torch.float64}
    layer = make_domain_specific(nn.BatchNorm2d(2, device="meta"), Routing(), ["ankle"])
    assert {tensor.device.type for tensor in layer.state_dict().values()} == {"meta"}


class Whitening(nn.BatchNorm2d):
    """A subclass that nobody knows."""


class WithStatistics(nn.Module):
    """Batch normalisation without a known ancestor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(2))


@pytest.mark.parametrize(
    "norm",
    [
        Whitening(2),
        SplitBatchNorm2d(2, num_splits=2),
        nn.InstanceNorm2d(2),
        nn.BatchNorm3d(2),
        WithStatistics(),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_a_type_that_is_not_known_is_refused_and_nothing_changed(norm):
    module = nn.Sequential(nn.BatchNorm2d(2), norm)
    with pytest.raises(TypeError, match=rf"'1' is a .*{type(norm).__name__}, which cannot be made domain-specific"):
        make_domain_specific(module, Routing(), ["ankle"])
    assert type(module[0]) is nn.BatchNorm2d


@pytest.mark.parametrize("option", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_what_domain_specific_normalisation_has_and_the_layer_has_not_is_an_error(option):
    with pytest.raises(
        ValueError, match=r"'0' is a .*BatchNorm2d without scale and shift, running statistics or a fixed"
    ):
        make_domain_specific(nn.Sequential(nn.BatchNorm2d(2, **option)), Routing(), ["ankle"])


def test_normalisation_that_knows_no_batch_is_left_alone():
    module = nn.Sequential(GroupNormAct(2, num_groups=1), nn.LayerNorm(2))
    before = list(module)
    assert list(make_domain_specific(module, Routing(), ["ankle"])) == before
