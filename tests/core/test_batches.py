from collections import Counter

import numpy as np
import pytest
import torch

from mtmd_core.data.batches import SliceSource, draw_batch

SLICES = {"ankle": (3, 4), "knee": (5,), "shoulder": (2, 2, 7)}
"""Site → slices of each of its exams."""


def source(site: str, offset: int = 0) -> SliceSource:
    """Slices that hold their own number, and labels from 0 to 2."""
    images, labels, number = [], [], 0
    for count in SLICES[site]:
        numbers = np.arange(number, number + count, dtype=np.float32)
        images.append(np.broadcast_to(numbers[:, None, None], (count, 8, 8)).copy())
        labels.append(np.broadcast_to(np.arange(8, dtype=np.uint8) % 3, (count, 8, 8)).copy())
        number += count
    return SliceSource(site, images, labels, offset)


def draw(source: SliceSource, seed: int, step: int, share: int, augmented: bool) -> tuple[torch.Tensor, torch.Tensor]:
    batch = draw_batch({source.site: [source]}, seed, step, share, augmented)
    return batch.images, batch.labels[source.site]


def numbers(drawn: tuple[torch.Tensor, torch.Tensor]) -> list[int]:
    return drawn[0][:, 0, 0, 0].int().tolist()


@pytest.mark.parametrize(("site", "share"), [("ankle", 3), ("ankle", 1), ("knee", 2), ("shoulder", 4), ("knee", 12)])
def test_each_slice_is_seen_once_before_any_is_seen_again(site, share):
    stream = source(site)
    total = len(stream)
    assert total == sum(SLICES[site])
    seen = [number for step in range(2 * total) for number in numbers(draw(stream, 0, step, share, False))]
    rounds = [seen[start : start + total] for start in range(0, len(seen), total)]
    assert all(Counter(each) == Counter(range(total)) for each in rounds[: 2 * share])
    assert len(set(map(tuple, rounds))) > 1  # shuffled anew


@pytest.mark.parametrize("augmented", [False, True])
def test_a_step_draws_the_same_whatever_was_drawn_before(augmented):
    forward, backward = source("ankle"), source("ankle")
    first = [draw(forward, 3, step, 4, augmented) for step in range(12)]
    second = [draw(backward, 3, step, 4, augmented) for step in reversed(range(12))][::-1]
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])


def test_seeds_sites_and_steps_draw_differently():
    drawn = [
        draw(source("ankle"), 0, 0, 7, True)[0],
        draw(source("ankle"), 1, 0, 7, True)[0],
        draw(source("ankle"), 0, 1, 7, True)[0],
    ]
    assert not any(torch.equal(one, two) for i, one in enumerate(drawn) for two in drawn[:i])
    namesake = SliceSource("heel", source("ankle")._images, source("ankle")._labels)
    assert numbers(draw(namesake, 0, 0, 7, False)) != numbers(draw(source("ankle"), 0, 0, 7, False))


def test_sites_with_the_same_slice_move_it_differently():
    slices = [np.random.default_rng(0).standard_normal((1, 8, 8)).astype(np.float32)], [np.zeros((1, 8, 8), np.uint8)]
    ankle, knee = (draw(SliceSource(site, *slices), 0, 0, 1, True)[0] for site in ("ankle", "knee"))
    assert not torch.equal(ankle, knee)


@pytest.mark.parametrize("augmented", [False, True])
def test_a_site_alone_draws_what_it_contributes_to_a_pooled_batch(augmented):
    for step in range(4):
        pooled = draw_batch({site: [source(site)] for site in SLICES}, 5, step, 2, augmented)
        assert pooled.shares == dict.fromkeys(SLICES, 2)
        assert list(pooled.labels) == list(SLICES)
        for position, site in enumerate(SLICES):
            alone = draw_batch({site: [source(site)]}, 5, step, 2, augmented)
            assert torch.equal(alone.images, pooled.images[2 * position : 2 * position + 2])
            assert torch.equal(alone.labels[site], pooled.labels[site])


def test_one_domain_for_every_site_holds_the_same_slices_with_labels_of_the_union():
    offsets = {"ankle": 0, "knee": 2, "shoulder": 4}
    union = draw_batch({"every_site": [source(site, offsets[site]) for site in SLICES]}, 5, 1, 2)
    apart = draw_batch({site: [source(site)] for site in SLICES}, 5, 1, 2)
    assert union.shares == {"every_site": 6}
    assert torch.equal(union.images, apart.images)
    label = union.labels["every_site"]
    assert label.dtype == torch.uint8
    for position, site in enumerate(SLICES):
        own = apart.labels[site].int()
        expected = torch.where(own > 0, own + offsets[site], 0)
        assert torch.equal(label[2 * position : 2 * position + 2].int(), expected)
    assert label.max() == 6


def test_shapes_and_types_of_a_batch():
    batch = draw_batch({site: [source(site)] for site in SLICES}, 0, 0, 3)
    assert batch.images.shape == (9, 1, 8, 8)
    assert batch.images.dtype == torch.float32
    assert {domain: tuple(label.shape) for domain, label in batch.labels.items()} == dict.fromkeys(SLICES, (3, 8, 8))
