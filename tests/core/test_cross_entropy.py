import math

import numpy as np
import pytest
import torch

from mtmd_core.losses.cross_entropy import domain_cross_entropy

SIZES = {"ankle": (3, 4), "knee": (1, 5), "shoulder": (2, 3)}
"""Domain → images and classes, all unequal."""


def examples(dtype: torch.dtype = torch.float64) -> tuple[dict, dict]:
    random = torch.Generator().manual_seed(0)
    logits, labels = {}, {}
    for domain, (images, classes) in SIZES.items():
        logits[domain] = 3 * torch.randn(images, classes, 5, 4, generator=random, dtype=torch.float64).to(dtype)
        labels[domain] = torch.randint(classes, (images, 5, 4), generator=random, dtype=torch.uint8)
    return logits, labels


def by_loops(logits: dict, labels: dict) -> float:
    """Eq. 1 word for word: sums over domains, images and classes, averaged over pixels."""
    total = 0.0
    for domain, scores in logits.items():
        scores, truth = scores.numpy(), labels[domain].numpy()
        images, classes, height, width = scores.shape
        inner = 0.0
        for i, row, column in np.ndindex(images, height, width):
            probabilities = np.exp(scores[i, :, row, column])
            probabilities /= probabilities.sum()
            for c in range(classes):
                inner += (truth[i, row, column] == c) * np.log(probabilities[c]) / (height * width)
        total += inner / (images * classes)
    return -total / len(logits)


def test_a_value_by_hand():
    """One pixel each: −½ (log(3/4)/2 + log(1/4)/3), the softmax of (log 3, 0) being (3/4, 1/4)."""
    logits = {
        "a": torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1),
        "b": torch.tensor([math.log(2), 0.0, 0.0]).view(1, 3, 1, 1),
    }
    labels = {"a": torch.zeros(1, 1, 1, dtype=torch.long), "b": torch.full((1, 1, 1), 2)}
    expected = -(math.log(3 / 4) / 2 + math.log(1 / 4) / 3) / 2
    assert float(domain_cross_entropy(logits, labels)) == pytest.approx(expected, rel=1e-6)


def test_it_is_eq_1_for_unequal_shares_and_classes():
    logits, labels = examples()
    assert float(domain_cross_entropy(logits, labels)) == pytest.approx(by_loops(logits, labels), rel=1e-12)


def test_a_perfect_prediction_costs_nothing():
    _, labels = examples()
    sure = {
        domain: 1000.0 * torch.nn.functional.one_hot(label.long(), SIZES[domain][1]).movedim(3, 1)
        for domain, label in labels.items()
    }
    assert float(domain_cross_entropy(sure, labels)) == 0.0


def test_not_knowing_costs_the_mean_of_log_n_over_n():
    logits, labels = examples()
    flat = {domain: torch.zeros_like(scores) for domain, scores in logits.items()}
    expected = np.mean([math.log(classes) / classes for _, classes in SIZES.values()])
    assert float(domain_cross_entropy(flat, labels)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_stay_finite_and_are_summed_in_float32(dtype):
    logits, labels = examples(dtype)
    loss = domain_cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(by_loops({d: s.double() for d, s in logits.items()}, labels), rel=1e-5)
    wrong = {"a": torch.tensor([60000.0, -60000.0], dtype=dtype).view(1, 2, 1, 1).requires_grad_()}
    loss = domain_cross_entropy(wrong, {"a": torch.ones(1, 1, 1, dtype=torch.uint8)})
    loss.backward()
    assert loss.isfinite()
    assert wrong["a"].grad.isfinite().all()


def test_its_gradient_is_that_of_its_value():
    logits, labels = examples()
    tensors = [scores.requires_grad_() for scores in logits.values()]
    assert torch.autograd.gradcheck(
        lambda *given: domain_cross_entropy(dict(zip(logits, given, strict=True)), labels), tensors
    )


@pytest.mark.parametrize("labels", [{}, {"b": torch.zeros(1, 1, 1)}, {"a": 0, "b": 0}])
def test_other_domains_in_labels_than_in_logits_are_refused(labels):
    with pytest.raises(ValueError, match="same"):
        domain_cross_entropy({"a": torch.zeros(1, 2, 1, 1)}, labels)


def test_no_domain_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        domain_cross_entropy({}, {})
