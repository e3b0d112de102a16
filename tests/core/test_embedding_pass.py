import numpy as np
import pytest
import torch

from mtmd_core.config import NetworkConfig
from mtmd_core.data.batches import SliceSource, draw_batch
from mtmd_core.embedding_pass import embed_slices
from mtmd_core.minimum import LOCAL
from mtmd_core.networks.build import build_network
from mtmd_core.networks.domain_layers import DomainBatchNorm2d
from mtmd_core.prototype_arrays import refusal, to_arrays
from mtmd_core.prototype_summary import summarise
from mtmd_core.seeds import derive_seed
from mtmd_core.training import Recipe

EXAMS = (4, 7, 3)


def source() -> SliceSource:
    random = np.random.default_rng(0)
    images = [random.normal(size=(count, 32, 32)).astype(np.float32) for count in EXAMS]
    return SliceSource("ankle", images, [np.zeros(image.shape, np.uint8) for image in images])


def network() -> torch.nn.Module:
    return build_network(NetworkConfig(width=4), {"ankle": 3}, 0)


@pytest.mark.parametrize("share", [2, 4, 14, 20])
@pytest.mark.parametrize("augment", [False, True])
def test_every_slice_comes_once_with_its_place(share, augment):
    scales, places = embed_slices(network(), "ankle", source(), Recipe(share, 1e-3, 0, augment))
    assert sorted(places) == [(exam, index) for exam, count in enumerate(EXAMS) for index in range(count)]
    assert [scale.shape for scale in scales] == [(14, width) for width in (4, 8, 16, 32, 64, 32, 16, 8, 4)]
    for scale in scales:
        torch.testing.assert_close(scale.norm(dim=1), torch.ones(14))
    prototypes = [summarise(scale, torch.tensor([exam for exam, _ in places]), minimum=LOCAL) for scale in scales]
    assert refusal(to_arrays(prototypes), [len(each.mean) for each in prototypes], minimum=LOCAL) is None


def test_they_are_what_a_batch_of_training_gives():
    recipe = Recipe(4, 1e-3, 0)
    scales, _ = embed_slices(network(), "ankle", source(), recipe)
    batch = draw_batch({"ankle": [source()]}, derive_seed(0, "embedding pass"), 0, 4)
    reference = network().train()(batch.images, batch.shares, embeddings=True).embeddings
    for ours, theirs in zip(scales, reference, strict=True):
        torch.testing.assert_close(ours[:4], theirs)


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_left_as_it_was(training):
    trained = network().train(training)
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    embed_slices(trained, "ankle", source(), Recipe(4, 1e-3, 0))
    assert trained.training == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    assert {m.momentum for m in trained.modules() if isinstance(m, DomainBatchNorm2d)} == {0.1}
    assert all(parameter.grad is None for parameter in trained.parameters())
