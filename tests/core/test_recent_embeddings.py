import math

import pytest
import torch
from torch.nn import functional as F

from mtmd_core.minimum import MINIMUM
from mtmd_core.prototype_summary import summarise
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


def test_what_is_remembered_comes_back_from_a_file():
    recent, again = RecentEmbeddings(1.5, capacity=3), RecentEmbeddings(1.5, capacity=3)
    again.add(batches(1, seed=5)[0], places(0))
    for number, batch in enumerate(batches(4)):
        recent.add(batch, places(number))
    again.load(recent.tensors())
    assert len(again) == 3
    for one, other in zip(recent.summarise(), again.summarise(), strict=True):
        assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())
    again.load({})
    assert (len(again), again.tensors(), again.summarise()) == (0, {}, None)


def test_a_part_of_it_has_a_half_life_of_its_own():
    recent, seen = RecentEmbeddings(math.inf), batches(4)
    for number, batch in enumerate(seen):
        recent.add(batch, places(number))
    own = recent.last(2, 1.0).summarise()[0]
    assert own.slices == 12
    mean = (0.5 * seen[2][0].mean(dim=0) + seen[3][0].mean(dim=0)) / 1.5
    torch.testing.assert_close(own.mean, mean)
    assert len(recent) == 4


def test_no_exam_counts_for_more_than_a_number_of_its_slices():
    """Two exams of 1 and 5 slices, of which 2 may count: the second's mean weighs twice the first's slice."""
    recent, batch = RecentEmbeddings(math.inf), batches(1)[0]
    recent.add(batch, [(0, 0), *((1, index) for index in range(5))])
    own = recent.summarise(slices_per_exam=2)[0]
    torch.testing.assert_close(own.mean, (batch[0][0] + 2 * batch[0][1:].mean(dim=0)) / 3)
