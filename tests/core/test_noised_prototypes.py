"""Prototypes under differential privacy: the sensitivity, the noise, what is made of both, and what gives too much away."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn import functional as F

from mtmd_core.minimum import Minimum
from mtmd_core.noised_prototypes import feasible, noised_prototypes, sensitivity
from mtmd_core.prototype_arrays import refusal, to_arrays
from mtmd_core.prototype_summary import summarise


def cloud(count: int, size: int, seed: int = 0, spread: float = 0.1) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    centre = F.normalize(torch.randn(size, generator=random), dim=0)
    return F.normalize(centre + spread * torch.randn(count, size, generator=random), dim=1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


EXAMS = torch.arange(120) % 4


def moments(embeddings: torch.Tensor, exams: torch.Tensor) -> torch.Tensor:
    """Mean over exams of the means over their slices of z and z zᵀ, written as loops."""
    per_exam = []
    for exam in exams.unique():
        own = embeddings[exams == exam].double()
        per_exam.append(torch.cat([own.mean(0), torch.stack([torch.outer(z, z) for z in own]).mean(0).flatten()]))
    return torch.stack(per_exam).mean(0)


def test_no_exam_moves_the_moments_farther_than_their_sensitivity():
    """Whatever takes an exam's place; at cosine −1/2 the bound is reached."""
    bound = sensitivity(4, 1)
    before = cloud(120, 6)
    for seed in range(20):
        after = before.clone()
        after[EXAMS == 2] = cloud(30, 6, seed, spread=10.0 ** (seed % 5 - 3))
        assert (moments(after, EXAMS) - moments(before, EXAMS)).norm() <= bound
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[-0.5, math.sqrt(0.75)]])
    exams = torch.zeros(1)
    worst = (moments(one, exams) - moments(other, exams)).norm()
    assert float(worst) == pytest.approx(sensitivity(1, 1), abs=1e-6)
    assert sensitivity(5, 9) == pytest.approx(3 * sensitivity(5, 1))


def test_noise_has_the_deviation_that_its_multiplier_says(monkeypatch):
    """Over many releases, every number that is released around the true moments."""
    seen = []
    monkeypatch.setattr(
        "mtmd_core.noised_prototypes.feasible",
        lambda mean, covariance: (
            seen.append((mean, covariance + torch.outer(mean, mean))) or feasible(mean, covariance)
        ),
    )
    embeddings = cloud(120, 3)
    for seed in range(300):
        noised_prototypes([embeddings], EXAMS, 2.0, generator(seed))
    exact = moments(embeddings, EXAMS)
    means = torch.stack([mean for mean, _ in seen]) - exact[:3]
    products = torch.stack([product for _, product in seen]) - exact[3:].reshape(3, 3)
    torch.testing.assert_close(products, products.transpose(1, 2), atol=1e-12, rtol=0)
    rows, columns = torch.triu_indices(3, 3)
    released = torch.cat([means, products[:, rows, columns]], dim=1)  # [300, 9]
    deviation = 2.0 * math.sqrt(4.5) / 4
    assert float(released.std()) == pytest.approx(deviation, rel=0.05)
    correlations = np.corrcoef(released.T.numpy()) - np.eye(9)
    assert np.abs(correlations).max() < 0.25
    assert float(released.mean(0).abs().max()) < 4 * deviation / math.sqrt(300)


def test_without_much_noise_they_are_the_prototypes_of_one_component():
    scales = [cloud(120, size) for size in (4, 16)]
    exact = [summarise(scale, EXAMS, components=1) for scale in scales]
    for own, noised in zip(exact, noised_prototypes(scales, EXAMS, 1e-6, generator()), strict=True):
        assert (noised.slices, noised.exams) == (120, 4)
        torch.testing.assert_close(noised.mean, own.mean, atol=0.01, rtol=0)
        torch.testing.assert_close(noised.log_nu, own.log_nu, atol=0.1, rtol=0)
        variances = [float(each.residual.sum() + each.covariances[0].trace()) for each in (noised, own)]
        assert variances[0] == pytest.approx(variances[1], rel=0.1)


@pytest.mark.parametrize("noise", [0.01, 1.0, 100.0])
def test_whatever_the_noise_they_are_prototypes_and_repeat_with_their_seed(noise):
    scales = [cloud(120, size, seed=size) for size in (4, 16, 64)]
    arrays = to_arrays(noised_prototypes(scales, EXAMS, noise, generator(1)))
    assert refusal(arrays, [4, 16, 64]) is None
    again = to_arrays(noised_prototypes(scales, EXAMS, noise, generator(1)))
    other = to_arrays(noised_prototypes(scales, EXAMS, noise, generator(2)))
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    assert not np.array_equal(arrays["s1/mean"], other["s1/mean"])


@pytest.mark.parametrize("temperature", [0.05, 0.1])
def test_noise_leaves_inverse_denominators_that_the_moments_allow(temperature):
    """Embeddings of two numbers, whose noised moments contradict the most of what is drawn from them."""
    for seed in range(20):
        made = noised_prototypes([cloud(200, 2)], torch.arange(200) % 5, 0.3, generator(seed), temperature)
        assert refusal(to_arrays(made), [2], temperature) is None


def test_nothing_but_the_noised_moments_reaches_the_prototypes():
    """Slices that leave both moments of every exam as they are leave everything as it is."""
    embeddings = cloud(120, 8)
    mirrored = embeddings[torch.arange(120).view(30, 4).flip(0).flatten()]  # in another order within each exam
    one, other = (noised_prototypes([each], EXAMS, 0.5, generator()) for each in (embeddings, mirrored))
    for name in ("mean", "residual", "log_nu"):  # directions of no variance are any
        torch.testing.assert_close(getattr(one[0], name), getattr(other[0], name), atol=1e-5, rtol=1e-5)


def test_too_few_exams_or_slices_give_none():
    embeddings = cloud(120, 8)
    assert noised_prototypes([embeddings], torch.arange(120) % 2, 1.0, generator()) is None
    assert noised_prototypes([embeddings[:49]], EXAMS[:49], 1.0, generator()) is None
    assert noised_prototypes([embeddings], EXAMS, 1.0, generator(), minimum=Minimum(exams=5)) is None


def test_the_nearest_feasible_moments_are_those_of_an_optimiser():
    random = np.random.default_rng(0)
    for trial, size in itertools.product(range(3), (2, 3)):
        mean = torch.from_numpy(random.normal(size=size) * 0.4)
        raw = torch.from_numpy(random.normal(size=(size, size)))
        covariance = (raw + raw.T) / 2
        kept, nearest = feasible(mean, covariance)
        trace = 1 - float(kept.square().sum())
        assert float(nearest.trace()) == pytest.approx(trace)
        assert float(torch.linalg.eigvalsh(nearest).min()) > -1e-12

        def distance(flat: np.ndarray, goal: np.ndarray, trace: float, size: int) -> float:
            root = flat.reshape(size, size)
            candidate = root @ root.T
            candidate = candidate * trace / max(np.trace(candidate), 1e-12)
            return float(((candidate - goal) ** 2).sum())

        found = min(
            minimize(distance, random.normal(size=size * size), (covariance.numpy(), trace, size)).fun for _ in range(4)
        )
        own = float((nearest - covariance).square().sum())
        assert own == pytest.approx(found, abs=1e-4), trial


def test_a_mean_beyond_the_ball_is_cut_to_it():
    mean, covariance = feasible(torch.tensor([3.0, 4.0], dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    assert mean.tolist() == pytest.approx([0.6, 0.8])
    assert float(covariance.abs().max()) == pytest.approx(0)
