"""Contrast against prototypes: read aloud, by finite differences, and against Eq. 5 over all slices of all domains."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtmd_core.domain_mixture import DomainMixture, mix
from mtmd_core.losses.contrastive import contrastive_loss
from mtmd_core.losses.prototype_contrast import contrast_parts, own_batch_contrast, prototype_contrast
from mtmd_core.prototype_summary import summarise
from mtmd_core.prototypes import without_spread

TAU = 0.1


def cluster(count: int, seed: int, size: int = 12, spread: float = 0.04) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    centre = torch.ones(size, dtype=torch.float64) + torch.randn(size, generator=random, dtype=torch.float64)
    noise = torch.randn(count, size, generator=random, dtype=torch.float64)
    return F.normalize(F.normalize(centre, dim=0) + spread * noise, dim=1)


def domains(count: int = 120, sizes: tuple[int, ...] = (12, 24), spread: float = 0.04) -> dict[str, list[Tensor]]:
    """Three domains of two clusters at two scales."""
    return {
        name: [
            torch.cat([cluster(count // 2, 10 * place + size + half, size, spread) for half in (0, 1)])
            for size in sizes
        ]
        for place, name in enumerate(("a", "b", "c"))
    }


def mixture(embeddings: dict[str, list[Tensor]], by_size: bool = False) -> DomainMixture:
    prototypes = {
        name: [summarise(scale, torch.arange(len(scale)) % 5) for scale in scales]
        for name, scales in embeddings.items()
    }
    return mix(prototypes, TAU, by_size)


def batch(embeddings: dict[str, list[Tensor]], name: str = "a", count: int = 6) -> list[Tensor]:
    step = len(embeddings[name][0]) // count
    return [scale[::step][:count].clone().requires_grad_() for scale in embeddings[name]]


def along(gradient: Tensor, points: Tensor) -> Tensor:
    points = points.detach()
    return gradient - (gradient * points).sum(dim=1, keepdim=True) * points


def test_the_parts_are_the_formula_read_aloud():
    """Prototypes without spread, whose mean exponentials are exponentials of the mean; one slice after another."""
    embeddings = {name: [scale[:60] for scale in scales] for name, scales in domains().items()}
    prototypes = {
        name: [without_spread(summarise(scale, torch.arange(60) % 5)) for scale in scales]
        for name, scales in embeddings.items()
    }
    own = mix(prototypes, TAU)
    scales = batch(embeddings)
    parts = contrast_parts(scales, own, "a", TAU)
    for place, points in enumerate(scales):
        for row, z in enumerate(points.detach()):
            anchor, negative = 0.0, 0.0
            for number, name in enumerate("abc"):
                one = prototypes[name][place]
                anchor += math.exp(float(z @ one.mean.double()) / TAU) / 3
                weighted = one.mean + one.weighted_centres[0] @ one.directions
                nu = math.exp(float(own.log_nu[place, number]))
                negative += nu * math.exp(float(z @ weighted.double()) / TAU) / 3
            attraction = -2 * float(z @ prototypes["a"][place].mean.double()) / TAU
            assert float(parts.attraction[place, row].detach()) == pytest.approx(attraction, rel=1e-6)
            assert float(parts.anchor[place, row].detach()) == pytest.approx(math.log(anchor), rel=1e-6)
            assert float(parts.negative[place, row].detach()) == pytest.approx(negative, rel=1e-5)


def test_value_is_the_reported_one_and_gradient_that_of_all_parts():
    embeddings = domains()
    scales, own = batch(embeddings), mixture(embeddings)
    loss = prototype_contrast(scales, own, "a", TAU)
    parts = contrast_parts(scales, own, "a", TAU)
    assert float(loss.detach()) == pytest.approx(float((parts.attraction / 2 + parts.anchor).mean().detach()))
    expected = torch.autograd.grad(sum(parts).mean(), scales)
    for ours, theirs in zip(torch.autograd.grad(loss, scales), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("spread", [1e-4, 0.04, 0.2])
def test_gradient_is_the_numerical_one(spread):
    embeddings = domains(spread=spread)
    own = mixture(embeddings)
    assert torch.autograd.gradcheck(
        lambda *scales: torch.stack([part.sum() for part in contrast_parts(scales, own, "a", TAU)]),
        batch(embeddings, count=3),
        eps=1e-6,
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize(("spread", "least"), [(0.005, 0.9999), (0.04, 0.999), (0.08, 0.99)])
def test_gradient_follows_eq_5_over_all_slices(spread, least):
    """Domains of equal size, for which Eq. 5 weighs them alike; its own gradient, by autograd."""
    embeddings = domains(spread=spread)
    everything = [torch.cat(scale).requires_grad_() for scale in zip(*embeddings.values(), strict=True)]
    count = len(everything[0])
    loss = contrastive_loss(everything, torch.arange(3).repeat_interleave(count // 3), TAU) * count
    truth = torch.autograd.grad(loss, everything)
    own = mixture(embeddings)
    for place, name in enumerate(embeddings):
        scales = [scale.clone().requires_grad_() for scale in embeddings[name]]
        given = torch.autograd.grad(prototype_contrast(scales, own, name, TAU) * len(scales[0]), scales)
        for ours, right, points in zip(given, truth, scales, strict=True):
            ours, right = along(ours, points), along(right.split(count // 3)[place], points)
            assert float(F.cosine_similarity(ours.flatten(), right.flatten(), dim=0)) > least
            assert float(ours.norm() / right.norm()) == pytest.approx(1, abs=0.1)


def test_value_is_that_of_eq_5_over_tight_clusters():
    embeddings = domains(spread=0.001)
    everything = [torch.cat(scale) for scale in zip(*embeddings.values(), strict=True)]
    truth = contrastive_loss(everything, torch.arange(3).repeat_interleave(120), TAU)
    own = mixture(embeddings)
    values = [prototype_contrast(embeddings[name], own, name, TAU) for name in embeddings]
    # Eq. 5 sums over the denominator where this is a mean.
    assert float(sum(values) / 3) == pytest.approx(float(truth) - math.log(360), abs=0.01)


def test_a_domain_alone_has_no_contrast():
    embeddings = domains()
    alone = mixture({"a": embeddings["a"]})
    for loss in (prototype_contrast, own_batch_contrast):
        scales = batch(embeddings)
        value = loss(scales, alone, "a", TAU)
        assert float(value.detach()) == 0
        assert all(not gradient.any() for gradient in torch.autograd.grad(value, scales))


def test_domains_weigh_alike_or_by_size():
    """A large domain that weighs more pushes harder."""
    embeddings = domains()
    embeddings["b"] = [scale.repeat(20, 1) for scale in embeddings["b"]]
    gradients = []
    for by_size in (False, True):
        own = mixture(embeddings, by_size)
        parts = contrast_parts(batch(embeddings), own, "a", TAU)
        gradients.append(float(parts.anchor.mean().detach()))
        assert float(own.log_weights.exp().sum()) == pytest.approx(1)
    assert gradients[0] != pytest.approx(gradients[1], abs=0.1)


def test_own_batch_terms_are_those_of_the_mini_batch():
    """Other domains of equal slices, whose prototypes are exact: value and gradient are Eq. 5's, read aloud."""
    embeddings = domains()
    for place, name in enumerate("bc"):
        embeddings[name] = [F.normalize(scale[place : place + 1], dim=1).expand(60, -1) for scale in embeddings[name]]
    own, scales = mixture(embeddings), batch(embeddings)
    value, terms, pushed = own_batch_contrast(scales, own, "a", TAU), [], []
    for place, points in enumerate(scales):
        for row in range(len(points)):
            others = [other for other in range(len(points)) if other != row]
            mean = sum(torch.exp(points[row] @ points[other] / TAU) for other in others) / len(others)
            far = [torch.exp(points[row] @ embeddings[name][place][0] / TAU) for name in "bc"]
            positives = sum(points[row] @ points[other] for other in others) / len(others) / TAU
            terms.append(torch.log((mean + sum(far)) / 3) - positives)
            pushed.append(sum(own.log_nu[place, m].exp() * far[m - 1] / 3 for m in (1, 2)))
    expected = torch.stack(terms).mean()
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    truth = torch.autograd.grad(expected + torch.stack(pushed).mean(), scales)
    for ours, right in zip(torch.autograd.grad(value, scales), truth, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-3, atol=1e-4)


def test_a_slice_alone_in_its_batch_has_no_positive_of_its_own():
    embeddings = domains()
    scales = batch(embeddings, count=1)
    assert float(own_batch_contrast(scales, mixture(embeddings), "a", TAU).detach()) == 0
    assert float(prototype_contrast(scales, mixture(embeddings), "a", TAU).detach()) != 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("temperature", [0.1, 0.005])
@pytest.mark.parametrize("loss", [prototype_contrast, own_batch_contrast])
def test_nothing_overflows(dtype, temperature, loss):
    """Antipodal and equal embeddings, prototypes without any spread, and temperatures at which exp(1/τ) is infinite."""
    embeddings = domains(spread=1e-6)
    own = mix(
        {n: [summarise(s, torch.arange(len(s)) % 5, temperature) for s in scales] for n, scales in embeddings.items()},
        temperature,
    )
    points = [torch.cat([scale[:2], -scale[:2], scale[60:61]]).to(dtype).requires_grad_() for scale in embeddings["a"]]
    value = loss(points, own, "a", temperature)
    assert value.dtype == torch.float32
    gradients = torch.autograd.grad(value, points)
    assert all(bool(torch.isfinite(each).all()) for each in (value, *gradients))


def test_short_floats_are_computed_in_long_ones():
    embeddings = domains()
    own = mixture(embeddings)
    short = [scale[:6].bfloat16() for scale in embeddings["a"]]
    exact = prototype_contrast([scale.double() for scale in short], own, "a", TAU)
    # A sum of terms near 1/τ = 10, in float32; in bfloat16 it would be wrong in the second digit.
    assert float(prototype_contrast(short, own, "a", TAU)) == pytest.approx(float(exact), abs=1e-5)


def test_a_stale_inverse_denominator_stays_below_its_bound():
    """Prototypes that contradict each other: what z adds as a negative is at most all slices' number."""
    embeddings = domains()
    own = mixture(embeddings)
    wrong = DomainMixture(**{**vars(own), "log_nu": own.log_nu + 30})
    parts = contrast_parts(batch(embeddings), wrong, "a", TAU)
    assert float(parts.negative.max().detach()) == pytest.approx(360, rel=1e-5)


def test_prototypes_carry_no_gradient():
    embeddings = {name: [scale.requires_grad_() for scale in scales] for name, scales in domains().items()}
    own = mixture(embeddings)
    tensors = [value for value in vars(own).values() if isinstance(value, Tensor)] + [*own.rows, *own.residuals]
    assert not any(tensor.requires_grad for tensor in tensors)


@pytest.mark.parametrize(
    ("name", "scales", "message"),
    [
        ("d", slice(0, 2), "no prototype of d"),
        ("a", slice(0, 1), "the prototypes"),
        ("a", slice(1, 2), "the prototypes"),
    ],
)
def test_another_domain_or_other_scales_are_refused(name, scales, message):
    embeddings = domains()
    for loss in (prototype_contrast, own_batch_contrast):
        with pytest.raises(ValueError, match=message):
            loss(batch(embeddings)[scales], mixture(embeddings), name, TAU)
