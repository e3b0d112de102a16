"""Eq. 5: by hand, as plain loops, and against pytorch-metric-learning."""

import math

import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss
from pytorch_metric_learning.reducers import SumReducer
from torch.nn import functional as F

from mtmd_core.losses.contrastive import contrastive_loss


def scales(count: int, sizes: tuple[int, ...] = (4, 16, 7), seed: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [F.normalize(torch.randn(count, size, generator=random, dtype=torch.float64), dim=1) for size in sizes]


def as_loops(embeddings: list[torch.Tensor], domains: list[int], temperature: float) -> float:
    """Eq. 5 read aloud, one image after another."""
    total = 0.0
    for z in embeddings:
        for i in range(len(domains)):
            positives = [j for j in range(len(domains)) if j != i and domains[j] == domains[i]]
            denominator = sum(math.exp(float(z[i] @ z[m]) / temperature) for m in range(len(domains)) if m != i)
            for j in positives:
                share = math.exp(float(z[i] @ z[j]) / temperature) / denominator
                total -= math.log(share) / len(positives)
    return total / (len(embeddings) * len(domains))


@pytest.mark.parametrize("domains", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 2], [5, 5, 5, 5], [0, 1, 2], [0, 1, 0, 1, 1]])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_it_is_eq_5_as_loops(domains, temperature):
    embeddings = scales(len(domains))
    loss = contrastive_loss(embeddings, torch.tensor(domains), temperature)
    assert float(loss) == pytest.approx(as_loops(embeddings, domains, temperature), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("domains", [[0] * 6 + [1] * 6 + [2] * 6, [0, 0, 1, 1, 1, 2]])
def test_one_scale_is_the_supervised_contrastive_loss_of_khosla(domains):
    """Value and gradient; theirs is summed over the images that have a positive."""
    (ours,) = scales(len(domains), (32,))
    theirs = ours.clone().requires_grad_()
    ours.requires_grad_()
    labels = torch.tensor(domains)
    loss = contrastive_loss([ours], labels, 0.1)
    reference = SupConLoss(temperature=0.1, reducer=SumReducer())(theirs, labels) / len(domains)
    loss.backward()
    reference.backward()
    assert float(loss.detach()) == pytest.approx(float(reference.detach()), rel=1e-9)
    # Theirs normalises once more: along the sphere the gradients agree, and only there does a step go.
    along = ours.grad - (ours.grad * ours.detach()).sum(1, keepdim=True) * ours.detach()
    torch.testing.assert_close(along, theirs.grad, rtol=1e-9, atol=1e-12)


def test_two_orthogonal_domains_by_hand():
    """Each image sees its twin at similarity 1 and two strangers at 0: −log(e / (e + 2))."""
    embeddings = torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1]]
    loss = contrastive_loss([embeddings, embeddings], torch.tensor([0, 1, 0, 1]), 1.0)
    assert float(loss) == pytest.approx(math.log((math.e + 2) / math.e))


def test_equal_embeddings_share_alike():
    """All similarities are equal: −log(1/5) for six images, whatever the temperature; no image is drawn anywhere."""
    embeddings = F.normalize(torch.ones(6, 3, dtype=torch.float64), dim=1).requires_grad_()
    loss = contrastive_loss([embeddings], torch.tensor([0, 0, 0, 1, 1, 1]), 0.1)
    assert float(loss.detach()) == pytest.approx(math.log(5))
    assert bool(torch.isfinite(torch.autograd.grad(loss, embeddings)[0]).all())


@pytest.mark.parametrize("domains", [[0], [0, 1], [0, 1, 2]])
def test_images_alone_in_their_domains_give_zero_and_a_zero_gradient(domains):
    embeddings = [z.requires_grad_() for z in scales(len(domains))]
    loss = contrastive_loss(embeddings, torch.tensor(domains), 0.1)
    assert float(loss.detach()) == 0
    loss.backward()
    assert all(torch.equal(z.grad, torch.zeros_like(z)) for z in embeddings)


def test_an_image_alone_is_a_negative_of_the_others_all_the_same():
    (embeddings,) = scales(3, (8,))
    with_it = contrastive_loss([embeddings], torch.tensor([0, 0, 1]), 0.1)
    without = contrastive_loss([embeddings[:2]], torch.tensor([0, 0]), 0.1)
    assert float(without) == pytest.approx(0)
    assert float(with_it) > 0


def test_short_floats_are_computed_in_long_ones():
    embeddings = [z.bfloat16() for z in scales(6)]
    loss = contrastive_loss(embeddings, torch.tensor([0, 0, 1, 1, 2, 2]), 0.1)
    assert loss.dtype == torch.float32
    exact = contrastive_loss([z.double() for z in embeddings], torch.tensor([0, 0, 1, 1, 2, 2]), 0.1)
    assert float(loss) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("embeddings", [[], [torch.zeros(3, 4)], [torch.zeros(4, 4), torch.zeros(4)]])
def test_embeddings_that_do_not_match_the_images_are_refused(embeddings):
    with pytest.raises(ValueError, match="at one scale or more"):
        contrastive_loss(embeddings, torch.tensor([0, 0, 1, 1]))
