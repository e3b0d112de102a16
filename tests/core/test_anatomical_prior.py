"""Eq. 7 and its auto-encoder."""

import numpy as np
import pytest
import torch
from network_checks import check_size

from mtmd_core.config import NetworkConfig
from mtmd_core.data.batches import Batch
from mtmd_core.evaluation import reconstruction_dice
from mtmd_core.losses.anatomical_prior import anatomical_prior_loss
from mtmd_core.models import ModelCard, SiteCard, load_model, save_model
from mtmd_core.networks.autoencoder import Autoencoder, one_hot
from mtmd_core.networks.build import build_network
from mtmd_core.objectives import Reconstruction
from mtmd_core.parameters import partition
from mtmd_core.strategies import EVERY_SITE, LabelSpace, Sharing
from mtmd_core.training import build_optimiser, train_step

PAPER = {"ankle": 4, "knee": 5, "shoulder": 3}


def autoencoder(domains: dict[str, int] | None = None, width: int = 4) -> Autoencoder:
    return build_network(NetworkConfig("autoencoder", width), domains or PAPER, seed=2)


def label_maps(counts: dict[str, int], seed: int = 0, size: int = 32) -> dict[str, torch.Tensor]:
    """Boxes of one class on background."""
    random, maps = np.random.default_rng(seed), {}
    for domain, count in counts.items():
        maps[domain] = torch.zeros(count, size, size, dtype=torch.uint8)
        for index in range(count):
            top, left = random.integers(0, size // 2, 2)
            maps[domain][index, top : top + 14, left : left + 12] = 1 + index % (PAPER[domain] - 1)
    return maps


def test_eq_7_as_a_sum_over_domains_images_and_elements():
    random = np.random.default_rng(0)
    truth = {"ankle": random.standard_normal((3, 2, 4, 5)), "knee": random.standard_normal((1, 2, 4, 5))}
    guess = {domain: random.standard_normal(codes.shape) for domain, codes in truth.items()}
    expected = 0.0
    for domain, codes in truth.items():
        for one, other in zip(codes, guess[domain], strict=True):
            expected += np.linalg.norm((one - other).ravel()) ** 2 / one.size / len(codes) / len(truth)
    as_tensors = ({domain: torch.from_numpy(codes) for domain, codes in each.items()} for each in (truth, guess))
    assert float(anatomical_prior_loss(*as_tensors)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("truth", "guess"), [({}, {}), ({"knee": torch.ones(1, 1, 1, 1)}, {})])
def test_codes_of_other_domains_are_refused(truth, guess):
    with pytest.raises(ValueError, match="at least one"):
        anatomical_prior_loss(truth, guess)


@pytest.mark.parametrize("domains", [{EVERY_SITE: 10}, PAPER], ids=["shared", "dsl"])
def test_the_auto_encoder_has_the_papers_7_9_million_parameters(domains):
    network = Autoencoder(domains, width=32)
    check_size(network, millions=7.9)


def test_only_convolutions_between_input_and_output_are_shared():
    parts = partition(autoencoder(), Sharing.CONVOLUTIONS)
    assert all(name.endswith("conv.weight") for name in parts.shared)
    assert {"input.domains.knee.weight", "output.domains.knee.bias"} <= set(parts.private)
    assert parts.shared == partition(autoencoder({"hip": 2}), Sharing.CONVOLUTIONS).shared


def test_shapes_of_reconstruction_code_and_embeddings():
    network, counts = autoencoder(), {"ankle": 2, "shoulder": 1}
    maps = one_hot(label_maps(counts), PAPER)
    output = network(maps, embeddings=True)
    assert {d: tuple(x.shape) for d, x in output.logits.items()} == {
        "ankle": (2, 4, 32, 32),
        "shoulder": (1, 3, 32, 32),
    }
    assert [tuple(z.shape) for z in output.embeddings] == [(3, 4 * n) for n in (1, 2, 4, 8, 16, 8, 4, 2, 1)]
    assert {d: tuple(x.shape) for d, x in network.encode(maps).items()} == {
        "ankle": (2, 64, 2, 2),
        "shoulder": (1, 64, 2, 2),
    }


def test_one_hot_maps_by_hand():
    maps = one_hot({"knee": torch.tensor([[[0, 2]]])}, {"knee": 3})["knee"]
    assert maps.tolist() == [[[[1, 0]], [[0, 0]], [[0, 1]]]]


def test_a_domain_is_encoded_by_itself():
    """In evaluation and while training: no domain's code depends on another's maps."""
    network = autoencoder()
    maps = one_hot(label_maps({"ankle": 2, "knee": 2}), PAPER)
    for _ in range(2):
        together = network.encode(maps)
        alone = network.encode({"knee": maps["knee"]})
        torch.testing.assert_close(together["knee"], alone["knee"], rtol=0, atol=1e-6)
        network.eval()


def test_it_learns_to_give_label_maps_back():
    network, counts = autoencoder(width=8), {"ankle": 4, "knee": 4}
    optimiser = build_optimiser(network, 5e-3)
    objective = Reconstruction(PAPER)
    space = LabelSpace("knee", 0, 4, 5)
    labels = label_maps(counts)
    own = [labels["knee"].numpy()]
    assert reconstruction_dice(network, space, own) < 0.3
    for _ in range(60):
        network.train()
        train_step(network, optimiser, Batch(torch.zeros(8, 1, 32, 32), labels, counts), objective=objective)
    assert reconstruction_dice(network, space, own) > 0.8


def test_reconstruction_dice_by_hand():
    """Structure 1 of offset 2 is found in 2 of its 4 pixels, structure 2 is in neither."""

    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, maps):
            found = maps["every_site"].clone()
            found[:, 0, 0] += 2 * found[:, 3, 0]  # its upper row becomes background
            return type("Output", (), {"logits": {"every_site": found}})

    labels = np.zeros((1, 2, 4), np.uint8)
    labels[0, :, :2] = 1
    dice = reconstruction_dice(Half(), LabelSpace("every_site", 2, 2, 5), [labels])
    assert dice == pytest.approx((2 * 2 / (4 + 2) + 1) / 2)


def test_a_trained_auto_encoder_goes_to_disk_and_back(tmp_path):
    network = autoencoder({"ankle": 3})
    card = ModelCard(
        NetworkConfig("autoencoder", 4),
        "dsl_mjap",
        32,
        {"ankle": SiteCard(LabelSpace("ankle", 0, 2, 3), ("a", "b"), 2)},
    )
    save_model(tmp_path / "autoencoder.safetensors", network, card)
    loaded, found = load_model(tmp_path / "autoencoder.safetensors")
    assert found == card
    maps = one_hot({"ankle": torch.ones(1, 32, 32)}, {"ankle": 3})
    torch.testing.assert_close(loaded.encode(maps)["ankle"], network.eval().encode(maps)["ankle"])
