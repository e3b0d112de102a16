import numpy as np
import pytest
import torch
from network_checks import check_step_of_one_domain
from torch import nn

from mtmd_core.data.batches import Batch
from mtmd_core.networks.att_unet import AttUNet
from mtmd_core.networks.domain_layers import DomainBatchNorm2d, DomainOutput, Routing
from mtmd_core.parameters import partition, put, shapes, take
from mtmd_core.strategies import Sharing
from mtmd_core.training import build_optimiser, train_step

DOMAINS = {"ankle": 4, "knee": 5, "shoulder": 3}


def split(network: nn.Module) -> tuple[set[str], set[str]]:
    parts = partition(network, Sharing.CONVOLUTIONS)
    assert sorted(parts.shared + parts.private) == sorted(network.state_dict())
    return set(parts.shared), set(parts.private)


def norm(domains: tuple[str, ...] = ("ankle",)) -> DomainBatchNorm2d:
    return DomainBatchNorm2d(Routing(), list(domains), 2)


def test_substring_of_a_name_decides_nothing():
    """A shared layer called like a norm is shared, a private one called like a convolution is private."""
    network = nn.ModuleDict({"norm_bn_domains": nn.Conv2d(1, 2, 1), "conv": norm()})
    shared, private = split(network)
    assert shared == {"norm_bn_domains.weight", "norm_bn_domains.bias"}
    assert {name.split(".")[0] for name in private} == {"conv"}


def test_a_subclass_is_as_private_as_its_parent():
    class QuietNorm(DomainBatchNorm2d):
        pass

    shared, private = split(nn.ModuleDict({"norm": QuietNorm(Routing(), ["ankle"], 2)}))
    assert shared == set()
    assert len(private) == 4


def test_a_neighbour_whose_name_begins_alike_stays_shared():
    network = nn.ModuleDict(
        {"out": DomainOutput(Routing(), {"ankle": 3}, 2), "output": nn.Conv2d(2, 2, 1), "out_conv": nn.Conv2d(2, 2, 1)}
    )
    shared, private = split(network)
    assert {name.split(".")[0] for name in shared} == {"output", "out_conv"}
    assert private == {"out.domains.ankle.weight", "out.domains.ankle.bias"}


def test_running_statistics_are_private_too():
    _, private = split(nn.Sequential(nn.Conv2d(1, 2, 1), norm()))
    assert {"1.domains.ankle.running_mean", "1.domains.ankle.running_var"} <= private


def test_a_layer_in_two_places_is_private_in_both():
    layer = norm()
    shared, private = split(nn.ModuleDict({"first": layer, "second": layer}))
    assert shared == set()
    assert len(private) == 8


def test_a_domain_layer_that_is_the_whole_network_is_private():
    assert split(norm())[0] == set()


@pytest.mark.parametrize(
    ("sharing", "shared", "private"),
    [(Sharing.NOTHING, 0, 6), (Sharing.CONVOLUTIONS, 2, 4), (Sharing.EVERYTHING, 6, 0)],
)
def test_strategies_share_nothing_convolutions_or_everything(sharing, shared, private):
    parts = partition(nn.Sequential(nn.Conv2d(1, 2, 1), norm()), sharing)
    assert (len(parts.shared), len(parts.private)) == (shared, private)


def test_a_site_knows_a_subset_of_the_pooled_network_and_all_know_the_same_shared_part():
    pooled, site, coordinator = (AttUNet(d, width=4) for d in (DOMAINS, {"knee": 5}, {}))
    assert set(site.state_dict()) < set(pooled.state_dict())
    parts = [partition(network, Sharing.CONVOLUTIONS) for network in (pooled, site, coordinator)]
    assert parts[0].shared == parts[1].shared == parts[2].shared == tuple(coordinator.state_dict())
    assert parts[2].private == ()
    private = [set(partition(AttUNet({d: n}, width=4), Sharing.CONVOLUTIONS).private) for d, n in DOMAINS.items()]
    assert set.union(*private) == set(parts[0].private)
    assert sum(map(len, private)) == len(parts[0].private)
    assert shapes(pooled, parts[0].shared) == shapes(site, parts[0].shared)


def test_training_on_one_domain_leaves_the_others_bit_for_bit():
    network = AttUNet(DOMAINS, width=4)
    optimiser = build_optimiser(network, 1e-2)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, 32, 32, generator=random)

    def step(domain: str) -> None:
        label = torch.randint(DOMAINS[domain], (2, 32, 32), generator=random)
        train_step(network, optimiser, Batch(images, {domain: label}, {domain: 2}))

    step("ankle")
    step("shoulder")  # the optimiser has momentum for everybody now
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    step("knee")
    check_step_of_one_domain(network, before, "knee")


def test_taking_and_putting_moves_exactly_the_named_entries():
    source, target = AttUNet(DOMAINS, width=4), AttUNet(DOMAINS, width=4)
    names = partition(source, Sharing.CONVOLUTIONS).shared
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    for parameter in source.parameters():
        parameter.data.add_(1)
    arrays = take(source, names)
    assert list(arrays) == list(names)
    for array in arrays.values():
        array.flags.writeable = False  # as those that come in messages
    put(target, names, arrays)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name] if name in names else before[name]), name
    put(source, names, {name: np.zeros_like(array) for name, array in arrays.items()})
    assert target.state_dict()[names[0]].any()  # put copied: nothing is tied to the arrays


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda arrays: arrays.pop("0.bias"), "missing 0.bias"),
        (lambda arrays: arrays.update(extra=np.zeros(1)), "unknown extra"),
        (
            lambda arrays: arrays.update({"0.bias": np.zeros(3, np.float32)}),
            r"0.bias is float32\[3\], expected float32\[2\]",
        ),
        (lambda arrays: arrays.update({"0.bias": np.zeros(2)}), r"0.bias is float64\[2\], expected float32\[2\]"),
        (lambda arrays: arrays.update({"1.domains.ankle.weight": np.zeros(2)}), "unknown 1.domains.ankle.weight"),
    ],
)
def test_arrays_that_do_not_fit_change_nothing(change, reason):
    network = nn.Sequential(nn.Conv2d(1, 2, 1), norm())
    names = partition(network, Sharing.CONVOLUTIONS).shared
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    arrays = {name: np.full_like(array, 7) for name, array in take(network, names).items()}
    change(arrays)
    with pytest.raises(ValueError, match=reason):
        put(network, names, arrays)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
