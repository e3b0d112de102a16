import math

import pytest
import torch
from torch.nn import functional as F

from mtmd_core.prototype_summary import summarise
from mtmd_core.prototypes import MINIMUM
from mtmd_core.recent_embeddings import RecentEmbeddings

SIZES = (8, 16)


def batches(count: int, size: int = 6, seed: int = 0) -> list[list[torch.Tensor]]:
    random = torch.Generator().manual_seed(seed)
    return [[F.normalize(1 + torch.randn(size, e, generator=random), dim=1) for e in SIZES] for _ in range(count)]


def places(batch: int, size: int = 6) -> list[tuple[int, int]]:
    """Slices of four exams, none twice."""
    return [(index % 4, batch * size + index) for index in range(size)]


def test_without_forgetting_averages_are_cumulative():
    recent, seen = RecentEmbeddings(math.inf), batches(10)
    for number, batch in enumerate(seen):
        recent.add(batch, places(number))
    exams = torch.tensor([exam for number in range(10) for exam, _ in places(number)])
    for scale, own in enumerate(recent.summarise(minimum=MINIMUM)):
        whole = summarise(torch.cat([batch[scale] for batch in seen]), exams)
        assert (own.slices, own.exams) == (60, 4)
        for name, tensor in whole.tensors().items():
            torch.testing.assert_close(own.tensors()[name], tensor, msg=name)


def test_a_batch_weighs_half_as_much_one_half_life_later():
    """Three batches, a half-life of two: weights 1/2, 1/√2 and 1."""
    recent, seen = RecentEmbeddings(2.0), batches(3)
    for number, batch in enumerate(seen):
        recent.add(batch, places(number))
    weights = [0.5, 0.5**0.5, 1.0]
    for scale, own in enumerate(recent.summarise()):
        mean = sum(w * batch[scale].mean(dim=0) for w, batch in zip(weights, seen, strict=True)) / sum(weights)
        torch.testing.assert_close(own.mean, mean)


def test_a_slice_that_comes_again_counts_once_and_as_it_is_now():
    recent, (first, second) = RecentEmbeddings(math.inf), batches(2)
    recent.add(first, places(0))
    recent.add(second, places(0))
    own = recent.summarise()[0]
    assert own.slices == 6
    torch.testing.assert_close(own.mean, second[0].mean(dim=0))


def test_only_the_last_batches_are_kept():
    recent, seen = RecentEmbeddings(math.inf, capacity=2), batches(5)
    for number, batch in enumerate(seen):
        recent.add(batch, places(number))
    own = recent.summarise()[0]
    assert own.slices == 12
    torch.testing.assert_close(own.mean, torch.cat([seen[3][0], seen[4][0]]).mean(dim=0))


def test_below_the_minimum_there_is_none():
    recent = RecentEmbeddings(math.inf)
    assert recent.summarise() is None
    for number, batch in enumerate(batches(8)):
        recent.add(batch, places(number))
    assert recent.summarise(minimum=MINIMUM) is None  # 48 slices
    assert recent.summarise() is not None


def test_nothing_of_the_network_is_held():
    recent = RecentEmbeddings(1.0)
    recent.add([scale.bfloat16().requires_grad_() for scale in batches(1)[0]], places(0))
    own = recent.summarise()[0]
    assert own.mean.dtype == torch.float32
    assert not own.mean.requires_grad


@pytest.mark.parametrize(("half_life", "capacity"), [(0.0, 8), (-1.0, 8), (math.nan, 8), (1.0, 0)])
def test_averages_that_cannot_be_are_refused(half_life, capacity):
    with pytest.raises(ValueError, match="expected above 0 and at least 1"):
        RecentEmbeddings(half_life, capacity)


def test_every_slice_needs_its_place():
    with pytest.raises(ValueError, match="for 5 places"):
        RecentEmbeddings(1.0).add(batches(1)[0], places(0)[:5])
