"""A site's contrast within a round, and the prototypes that it sends after one."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtmd_core.domain_mixture import mix
from mtmd_core.losses.prototype_contrast import own_batch_contrast, prototype_contrast
from mtmd_core.minimum import LOCAL, MINIMUM, Minimum
from mtmd_core.networks.output import NetworkOutput
from mtmd_core.objectives import PrototypeTerm
from mtmd_core.prototype_summary import summarise
from mtmd_core.prototypes import Prototype, weighing, without_spread
from mtmd_core.recent_embeddings import Place, RecentEmbeddings
from mtmd_core.site_contrast import HALF_LIFE, REFRESH_STEPS, SiteContrast, site_prototypes, window

SIZES = (4, 8, 16, 32, 64, 32, 16, 8, 4)
SHARE = 6


def embeddings(count: int, seed: int, shift: float = 0.0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [F.normalize(1 + shift + torch.randn(count, size, generator=random), dim=1) for size in SIZES]


def places(step: int) -> list[Place]:
    return [(index % 3, step * SHARE + index) for index in range(SHARE)]


def others() -> list[list[Prototype]]:
    exams = torch.arange(60) % 3
    return [[summarise(scale, exams) for scale in embeddings(60, seed, 0.5)] for seed in (10, 11)]


def contrast(own: list[list[Prototype]], recent: RecentEmbeddings, **words) -> SiteContrast:
    term = PrototypeTerm(0.5, 0.1, "knee", **{k: words.pop(k) for k in ("single_scale", "own_batch") if k in words})
    return SiteContrast(term, own, recent, map(places, range(100, 200)), **words)


def remembered(steps: int = 10) -> RecentEmbeddings:
    recent = RecentEmbeddings(math.inf)
    for step in range(steps):
        recent.add(embeddings(SHARE, step), places(step))
    return recent


def output(seed: int = 50) -> NetworkOutput:
    return NetworkOutput({}, [scale.requires_grad_() for scale in embeddings(SHARE, seed)])


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("own_batch", [False, True])
def test_every_term_is_held_against_the_others_and_the_sites_own_last_batches(first_order, own_batch):
    own = remembered().last(8, HALF_LIFE).summarise()
    known = {"knee": own, "0": others()[0], "1": others()[1]}
    if first_order:
        known = {domain: [without_spread(each) for each in scales] for domain, scales in known.items()}
    loss = own_batch_contrast if own_batch else prototype_contrast
    expected, given = output(), output()
    (0.5 * loss(expected.embeddings, mix(known), "knee")).backward()
    term = contrast(others(), remembered(), first_order=first_order, own_batch=own_batch)
    term(given, {"knee": SHARE}).backward()
    for one, other in zip(given.embeddings, expected.embeddings, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_domains_weigh_by_their_training_slices_whichever_of_them_their_prototypes_are_of():
    sized = [weighing(scales, slices) for scales, slices in zip(others(), (400, 2000), strict=True)]
    term = contrast(sized, remembered(), site_slices=1200)
    term(output(), {"knee": SHARE})
    assert term.term.mixture.log_weights.exp().tolist() == pytest.approx([1 / 3, 1 / 9, 5 / 9])


def test_of_a_single_scale_the_bottleneck_alone_is_pulled():
    one_scale = [scales[4:5] for scales in others()]
    recent = RecentEmbeddings(math.inf)
    recent.add(embeddings(SHARE, 0)[4:5], places(0))
    given = output()
    contrast(one_scale, recent, single_scale=True)(given, {"knee": SHARE}).backward()
    assert [scale.grad is not None for scale in given.embeddings] == [False] * 4 + [True] + [False] * 4
    assert len(recent.summarise(minimum=LOCAL)) == 1


def test_before_others_are_there_and_before_anything_is_known_of_itself_it_is_zero():
    recent = RecentEmbeddings(math.inf)
    alone = contrast([], recent)
    assert float(alone(output(), {"knee": SHARE}).detach()) == 0
    assert len(recent) == 1, "what passes is remembered all the same"
    first = contrast(others(), RecentEmbeddings(math.inf))
    values = [float(first(output(50 + step), {"knee": SHARE}).detach()) for step in range(2)]
    assert values[0] == 0
    assert values[1] != 0


def test_the_own_prototype_follows_the_batches():
    term = contrast(others(), remembered())
    same = [float(term(output(), {"knee": SHARE}).detach()) for _ in range(REFRESH_STEPS + 1)]
    assert len(set(same[:REFRESH_STEPS])) == 1
    assert same[REFRESH_STEPS] != same[0]


@pytest.mark.parametrize(
    ("steps", "share", "slices", "expected"),
    [(20, 6, 600, 20), (1, 6, 600, 17), (1, 6, 54, 17), (1, 2, 54, 50), (1, 2, 20, 20), (500, 6, 6000, 64)],
)
def test_running_moments_are_of_the_round_or_of_twice_the_minimum(steps, share, slices, expected):
    assert window(steps, share, slices) == expected


def no_pass() -> tuple[list[Tensor], list[Place]]:
    raise AssertionError("nobody asked for a full pass")


def full_pass(count: int = 60, exams: int = 4):
    return lambda: (embeddings(count, 7), [(index % exams, index) for index in range(count)])


def test_a_site_sends_running_moments_or_those_of_a_full_pass():
    recent = remembered(20)
    running = site_prototypes(recent, no_pass, 0.1, MINIMUM, full_pass=False)
    assert [each.slices for each in running] == [120] * 9
    passed = site_prototypes(recent, full_pass(), 0.1, MINIMUM, full_pass=True)
    assert [each.slices for each in passed] == [60] * 9
    torch.testing.assert_close(passed[0].mean, embeddings(60, 7)[0].mean(dim=0))


def test_where_too_little_has_passed_a_full_pass_takes_its_place():
    assert site_prototypes(remembered(2), full_pass(), 0.1, MINIMUM, full_pass=False)[0].slices == 60
    single = site_prototypes(remembered(2), full_pass(), 0.1, MINIMUM, full_pass=False, single_scale=True)
    assert [len(each.mean) for each in single] == [64]


@pytest.mark.parametrize(("count", "exams"), [(49, 4), (60, 2)])
def test_a_site_with_too_few_exams_or_slices_sends_none(count, exams):
    assert site_prototypes(RecentEmbeddings(1.0), full_pass(count, exams), 0.1, MINIMUM, full_pass=False) is None
    assert site_prototypes(RecentEmbeddings(1.0), full_pass(), 0.1, Minimum(3, 61), full_pass=True) is None


def test_exams_may_be_limited_in_both():
    embed = full_pass(64, 4)
    limited = site_prototypes(RecentEmbeddings(1.0), embed, 0.1, MINIMUM, full_pass=True, slices_per_exam=3)
    torch.testing.assert_close(limited[0].mean, embeddings(64, 7)[0].mean(dim=0))
    uneven = embeddings(90, 7), [(min(index, 5), index) for index in range(90)]
    assert site_prototypes(RecentEmbeddings(1.0), lambda: uneven, 0.1, MINIMUM, True, slices_per_exam=1) is None
