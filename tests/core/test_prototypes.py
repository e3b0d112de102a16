"""Prototypes: their moments against NumPy, their mean exponentials against the embeddings that they stand for."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtmd_core.domain_mixture import log_exponential, mix
from mtmd_core.minimum import LOCAL, Minimum
from mtmd_core.prototype_summary import summarise
from mtmd_core.prototypes import without_spread

TAU = 0.1


def cluster(count: int, size: int = 16, spread: float = 0.05, seed: int = 0, towards: int | None = None) -> Tensor:
    """Embeddings around one direction, as a von Mises-Fisher distribution has them; float64."""
    random = torch.Generator().manual_seed(seed)
    centre = F.normalize(torch.randn(size, generator=random, dtype=torch.float64), dim=0)
    if towards is not None:  # near the centre of another seed
        other = torch.randn(size, generator=torch.Generator().manual_seed(towards), dtype=torch.float64)
        centre = F.normalize(F.normalize(other, dim=0) + 0.5 * centre, dim=0)
    noise = torch.randn(count, size, generator=random, dtype=torch.float64)
    return F.normalize(centre + spread * noise, dim=1)


def exams_of(count: int, exams: int = 10) -> Tensor:
    return torch.arange(count) % exams


def domain(seed: int, counts: tuple[int, ...] = (300, 200), spread: float = 0.05) -> Tensor:
    """Two clusters, as slices with and without bone."""
    return torch.cat([cluster(n, spread=spread, seed=seed + 10 * i, towards=99) for i, n in enumerate(counts)])


def log_mean_exponential(queries: Tensor, embeddings: Tensor) -> Tensor:
    return (queries @ embeddings.T / TAU).logsumexp(dim=1) - math.log(len(embeddings))


def test_moments_are_those_of_the_embeddings():
    embeddings = domain(1)
    own = summarise(embeddings, exams_of(500))
    assert (own.slices, own.exams) == (500, 10)
    points = embeddings.numpy()
    np.testing.assert_allclose(own.mean, points.mean(axis=0), rtol=1e-5, atol=1e-7)
    values, vectors = np.linalg.eigh(np.cov(points.T, bias=True))
    np.testing.assert_allclose(np.abs(own.directions.numpy() @ vectors[:, -8:]), np.eye(8)[::-1], atol=1e-3)
    assert own.residual.sum() == pytest.approx(values[:-8].sum(), rel=1e-5)
    spread = own.covariances.diagonal(dim1=1, dim2=2).sum(dim=1) + own.centres.square().sum(dim=1)
    assert float(own.shares @ spread) == pytest.approx(values[-8:].sum(), rel=1e-5)
    torch.testing.assert_close(own.shares @ own.centres, torch.zeros(8), atol=1e-6, rtol=0)
    norm = own.mean.square().sum() + own.shares @ spread + own.residual.sum()
    assert float(norm) == pytest.approx(1, abs=1e-5)


def test_sums_keep_the_variance_of_embeddings_that_hardly_differ():
    """In float32, a variance of 1e-9 beside a mean of 1 is lost in sums of squares."""
    embeddings = cluster(400, spread=1e-5).float()
    own = summarise(embeddings, exams_of(400), components=1)
    total = own.covariances[0].trace() + own.residual.sum()
    assert float(total) == pytest.approx(np.var(embeddings.double().numpy(), axis=0).sum(), rel=1e-4)


@pytest.mark.parametrize("spread", [0.01, 0.05, 0.15])
def test_mean_exponentials_are_those_over_all_embeddings(spread):
    """For the domain's own embeddings and for another's; the truth is the plain mean over what was summarised."""
    embeddings, others = domain(1, spread=spread), domain(2, spread=spread)
    queries = torch.cat([embeddings, others])
    plain, _ = mix({"a": [summarise(embeddings, exams_of(500))]}).log_mean_exponentials([queries], TAU)
    errors = (plain[0, 0] - log_mean_exponential(queries, embeddings)).abs()
    assert float(errors.max()) < 10 * spread**2  # of logarithms, which reach 1/τ = 10
    assert float(errors.mean()) < 4 * spread**2


def mean_error(embeddings: Tensor, components: int) -> float:
    """Of log mean exponentials under a prototype of so many components, over the embeddings that it stands for."""
    own = summarise(embeddings, exams_of(len(embeddings)), components=components)
    plain, _ = mix({"a": [own]}).log_mean_exponentials([embeddings], TAU)
    return float((plain[0, 0] - log_mean_exponential(embeddings, embeddings)).abs().mean())


def test_one_gaussian_of_two_far_clusters_is_worse_than_two_components():
    embeddings = torch.cat([cluster(300, seed=1), cluster(200, seed=2)])
    assert 10 * mean_error(embeddings, components=4) < mean_error(embeddings, components=1)


@pytest.mark.parametrize("by_size", [False, True])
def test_nu_is_the_mean_inverse_denominator_over_all_domains(by_size):
    """Read aloud: the mean over anchors of 1/D_a, and each anchor's weight 1/D_a in the mean of the negatives."""
    domains = {"a": domain(1), "b": domain(2, (100, 150)), "c": domain(3, (80, 60))}
    sizes = {name: len(each) for name, each in domains.items()}
    weights = {name: n / sum(sizes.values()) if by_size else 1 / 3 for name, n in sizes.items()}
    mixture = mix({name: [summarise(each, exams_of(len(each)))] for name, each in domains.items()}, TAU, by_size)
    query = domain(4)[:20]
    _, weighted = mixture.log_mean_exponentials([query], TAU)
    for place, (name, anchors) in enumerate(domains.items()):
        assert float(mixture.log_weights[place].exp()) == pytest.approx(weights[name])
        denominators = sum(
            weights[other] * log_mean_exponential(anchors, embeddings).exp() for other, embeddings in domains.items()
        )
        assert float(mixture.log_nu[0, place].exp()) == pytest.approx(float((1 / denominators).mean()), rel=0.03)
        truth = ((query @ anchors.T / TAU).exp() / denominators).mean(dim=1)  # what an anchor adds, over all anchors
        ours = (mixture.log_nu[0, place] + weighted[0, place]).exp()
        torch.testing.assert_close(ours, truth, rtol=0.1, atol=0)


def test_alone_nu_is_that_of_the_own_domain():
    embeddings = domain(1)
    own = summarise(embeddings, exams_of(500))
    truth = (-log_mean_exponential(embeddings, embeddings)).exp().mean()
    assert float(own.log_nu.exp()) == pytest.approx(float(truth), rel=0.03)
    torch.testing.assert_close(mix({"a": [own]}).log_nu[0, 0], own.log_nu)


def test_a_slice_is_in_its_own_denominator():
    """Orthogonal embeddings: the moments cannot tell that each is alone, the bound exp(1/τ)/n can."""
    own = summarise(torch.eye(64), exams_of(64), components=1)
    assert float(own.log_nu) <= math.log(64) - 1 / TAU + 1e-6


def test_weights_count_as_repetitions():
    embeddings = domain(1)
    weights = torch.ones(500)
    weights[:100] = 3
    repeated = torch.cat([embeddings, embeddings[:100], embeddings[:100]])
    exams = torch.cat([exams_of(500), exams_of(500)[:100], exams_of(500)[:100]])
    ours = summarise(embeddings, exams_of(500), weights=weights, components=1).tensors()
    theirs = summarise(repeated, exams, components=1).tensors()
    for name in ("mean", "residual", "covariances", "shares"):
        torch.testing.assert_close(ours[name].abs(), theirs[name].abs(), rtol=1e-3, atol=1e-6, msg=name)
    dropped = summarise(embeddings, exams_of(500), weights=(weights == 3).double())
    assert dropped.slices == 100


@pytest.mark.parametrize(
    ("slices", "exams", "minimum", "enough"),
    [
        (50, 3, Minimum(), True),
        (49, 3, Minimum(), False),
        (500, 2, Minimum(), False),
        (60, 5, Minimum(exams=6), False),
        (60, 6, Minimum(exams=6, slices=60), True),
        (1, 1, LOCAL, True),
        (0, 0, LOCAL, False),
    ],
)
def test_too_few_exams_or_slices_have_none(slices, exams, minimum, enough):
    own = summarise(cluster(slices), exams_of(slices, max(exams, 1)), minimum=minimum)
    assert (own is not None) == enough


def test_a_few_slices_that_outweigh_the_others_are_few():
    weights = torch.full((200,), 1e-3)
    weights[:20] = 1.0
    assert summarise(cluster(200), exams_of(200), weights=weights) is None
    assert summarise(cluster(200), exams_of(200), weights=torch.full((200,), 1e-3)) is not None


def used(own) -> int:
    return int((own.shares > 0).sum())


@pytest.mark.parametrize("count", [10, 20, 49, 50])
def test_no_component_describes_fewer_than_a_prototype_may(count):
    """A far cluster of fewer than 50 slices shares its component with the slices nearest to it, up to 50."""
    own = summarise(torch.cat([cluster(200, seed=1), cluster(count, seed=2)]), exams_of(200 + count), components=2)
    assert sorted((own.shares * (200 + count)).round().tolist()) == [0, 50, 150 + count][-2:]
    assert used(summarise(cluster(99, seed=1), exams_of(99))) == 1
    own = summarise(domain(1, (150, 110)), exams_of(260), components=8)
    assert bool((own.shares[own.shares > 0] * 260 >= 50 - 1e-3).all())


def test_no_component_describes_fewer_exams_than_a_prototype_may():
    """A far cluster of two exams shares its component with slices of others until there is a third, where one can be spared."""
    embeddings = torch.cat([cluster(200, seed=1), cluster(60, seed=2)])
    exams = torch.cat([exams_of(200), torch.arange(60) % 2])
    own = summarise(embeddings, exams, components=2)
    smaller = float(own.shares.min()) * 260
    assert 61 <= round(smaller) < 100
    third = exams.clone()
    third[:200] = 2  # the far cluster may share with these, who would then be left with one exam
    assert used(summarise(embeddings, third, components=2)) == 1


def test_a_cluster_of_few_slices_is_described_better_with_its_neighbours_than_not_at_all():
    embeddings = torch.cat([cluster(200, seed=1), cluster(20, seed=2)])
    assert 2 * mean_error(embeddings, components=2) < mean_error(embeddings, components=1)


def test_small_embeddings_have_fewer_directions_and_stand_beside_larger_ones():
    own = [summarise(cluster(60, size=size), exams_of(60)) for size in (4, 16)]
    assert own[0].directions.shape == (4, 4)
    plain, weighted = mix({"a": own}).log_mean_exponentials([cluster(5, size=4), cluster(5, size=16)], TAU)
    assert plain.shape == weighted.shape == (2, 1, 5)
    single, _ = mix({"a": own[:1]}).log_mean_exponentials([cluster(5, size=4)], TAU)
    torch.testing.assert_close(plain[:1], single)


def test_first_order_is_the_mean_alone():
    embeddings, query = domain(1), domain(2)[:7]
    own = summarise(embeddings, exams_of(500))
    plain, weighted = mix({"a": [without_spread(own)]}).log_mean_exponentials([query], TAU)
    torch.testing.assert_close(plain[0, 0], query @ own.mean.double() / TAU, rtol=1e-5, atol=1e-5)
    mean = own.mean + own.weighted_shares @ own.weighted_centres @ own.directions
    torch.testing.assert_close(weighted[0, 0], query @ mean.double() / TAU, rtol=1e-5, atol=1e-5)


def test_equal_embeddings_have_a_prototype():
    own = summarise(torch.eye(8)[:1].expand(60, 8), exams_of(60))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in own.tensors().values())
    assert float(own.log_nu) == pytest.approx(-1 / TAU, rel=1e-4)


@pytest.mark.parametrize(
    ("embeddings", "exams", "weights"),
    [
        (torch.ones(60), torch.arange(60), None),
        (torch.ones(60, 4), torch.arange(59), None),
        (torch.ones(60, 4), torch.arange(60), torch.ones(59)),
        (torch.full((60, 4), torch.nan), torch.arange(60), None),
    ],
)
def test_what_is_no_set_of_embeddings_is_refused(embeddings, exams, weights):
    with pytest.raises(ValueError, match=r"expected \[n, E\]|not finite"):
        summarise(embeddings, exams, weights=weights)


def test_domains_that_differ_in_scales_do_not_mix():
    small, large = (summarise(cluster(60, size=size), exams_of(60)) for size in (8, 16))
    for prototypes in ({}, {"a": []}, {"a": [small], "b": [large]}, {"a": [small], "b": [small, large]}):
        with pytest.raises(ValueError, match="expected the same of all domains"):
            mix(prototypes)


def test_the_exponential_is_that_of_gamma_distributed_deficits():
    deficits = np.random.default_rng(0).gamma(2.0, 0.05, 2_000_000)
    mean, variance = 1 - deficits.mean(), deficits.var()
    truth = np.log(np.exp((1 - deficits) / TAU).mean())
    ours = log_exponential(torch.tensor(mean), torch.tensor(variance), TAU)
    assert float(ours) == pytest.approx(truth, abs=2e-3)


@pytest.mark.parametrize("similarity", [-1.0, 0.0, 0.7, 0.99, 1.0, 1.01])
def test_the_exponential_never_exceeds_its_bound_and_is_of_second_order(similarity):
    variances = torch.logspace(-12, 1, 60, dtype=torch.float64).requires_grad_()
    value = log_exponential(torch.tensor(similarity, dtype=torch.float64), variances, TAU)
    assert float(value.detach().max()) <= max(1.0, similarity) / TAU + 1e-5
    assert bool((value.diff() >= 0).all())
    (slope,) = torch.autograd.grad(value.sum(), variances)
    assert bool((slope >= 0).all())
    assert float(slope[0]) == pytest.approx(1 / (2 * TAU**2), rel=1e-3)
    short = log_exponential(torch.tensor(similarity), variances.detach().float(), TAU)
    torch.testing.assert_close(short.double(), value.detach(), rtol=1e-5, atol=1e-5)


def test_a_mixture_moves_as_a_whole():
    mixture = mix({"a": [summarise(domain(1), exams_of(500))]})
    moved = mixture.to("meta")
    assert moved.domains == mixture.domains
    assert {moved.rows[0].device.type, moved.log_nu.device.type, moved.residuals[0].device.type} == {"meta"}


@pytest.mark.parametrize("count", [2, 5, 8, 12, 40])
def test_fewer_embeddings_than_numbers_have_orthonormal_directions_and_the_same_moments(count):
    """They are decomposed themselves; the covariance of as many as there are numbers is decomposed instead."""
    few = cluster(count, size=48, seed=3)
    own = summarise(few, torch.arange(count), minimum=LOCAL)
    directions = own.directions.double()
    torch.testing.assert_close(directions @ directions.T, torch.eye(8).double(), atol=1e-6, rtol=0)
    repeated = summarise(few.repeat(24, 1), torch.arange(24 * count), minimum=LOCAL)
    torch.testing.assert_close(own.mean, repeated.mean)
    along = [
        each.shares @ (each.centres.square().sum(dim=1) + each.covariances.diagonal(dim1=1, dim2=2).sum(dim=1))
        for each in (own, repeated)
    ]
    torch.testing.assert_close(*along)
    torch.testing.assert_close(own.residual, repeated.residual, atol=1e-7, rtol=1e-3)
