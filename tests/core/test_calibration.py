import numpy as np
import torch

from mtmd_core.calibration import calibrate
from mtmd_core.config import NetworkConfig
from mtmd_core.data.batches import SliceSource, draw_batch
from mtmd_core.networks.build import build_network
from mtmd_core.networks.domain_layers import DomainBatchNorm2d
from mtmd_core.training import Recipe

RECIPE = Recipe(share=3, learning_rate=1e-3, seed=5)


def source(slices: int = 12) -> SliceSource:
    random = np.random.default_rng(1)
    images = random.normal(2.0, 3.0, (slices, 32, 32)).astype(np.float32)
    return SliceSource("knee", [images], [np.zeros((slices, 32, 32), np.uint8)])


def test_statistics_become_those_of_all_slices_where_batches_cover_them_once() -> None:
    """The first layer's input does not depend on other statistics, so its mean can be computed over all slices at once."""
    network = build_network(NetworkConfig(width=4), {"knee": 3}, seed=0).train()
    slices = source()
    calibrate(network, {"knee": [slices]}, RECIPE, batches=4)
    first = network.encoder[0][0]
    with torch.no_grad():
        features = first.conv(torch.from_numpy(slices._images[0])[:, None])
    assert torch.allclose(first.norm.domains["knee"].running_mean, features.mean(dim=(0, 2, 3)), atol=1e-5)
    between = torch.stack([part.var(dim=(0, 2, 3)) for part in features[_order(slices)].split(3)]).mean(0)
    assert torch.allclose(first.norm.domains["knee"].running_var, between, rtol=1e-4)


def test_nothing_but_running_statistics_changes() -> None:
    network = build_network(NetworkConfig(width=4), {"knee": 3, "ankle": 2}, seed=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    calibrate(network, {"knee": [source()]}, RECIPE, batches=2)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("domains.knee.running_" in name for name in changed)
    assert {layer.momentum for layer in network.modules() if isinstance(layer, DomainBatchNorm2d)} == {0.1}
    assert not network.training


def test_calibrating_twice_or_from_other_statistics_gives_the_same_bits() -> None:
    networks = [build_network(NetworkConfig(width=4), {"knee": 3}, seed=0) for _ in range(2)]
    networks[1].encoder[1][0].norm.domains["knee"].running_mean.fill_(7.0)
    for network in networks:
        calibrate(network, {"knee": [source()]}, RECIPE, batches=3)
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_batches_change_nothing() -> None:
    network = build_network(NetworkConfig(width=4), {"knee": 3}, seed=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    calibrate(network, {"knee": [source()]}, RECIPE, batches=0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def _order(slices: SliceSource) -> list[int]:
    """The order in which four batches of three visit the slices, found by drawing them."""
    from mtmd_core.seeds import derive_seed

    drawn = torch.cat(
        [
            draw_batch({"ankle": [slices]}, derive_seed(5, "calibration"), step, 3, augmented=False).images
            for step in range(4)
        ]
    )[:, 0]
    stack = torch.from_numpy(slices._images[0])
    return [int((stack == image).all(dim=(1, 2)).nonzero()) for image in drawn]
