import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtmd_core.config import NetworkConfig
from mtmd_core.data.batches import Batch
from mtmd_core.domain_mixture import mix
from mtmd_core.losses.anatomical_prior import anatomical_prior_loss
from mtmd_core.losses.contrastive import contrastive_loss
from mtmd_core.losses.cross_entropy import domain_cross_entropy
from mtmd_core.losses.prototype_contrast import prototype_contrast
from mtmd_core.networks.autoencoder import one_hot
from mtmd_core.networks.build import build_network
from mtmd_core.objectives import ContrastTerm, PriorTerm, PrototypeTerm, Reconstruction, Segmentation, gradient_norms
from mtmd_core.prototype_summary import summarise
from mtmd_core.training import build_optimiser, train_step

CLASSES = {"ankle": 3, "knee": 2}
SHARES = {"ankle": 2, "knee": 2}


def network(seed: int = 0) -> nn.Module:
    return build_network(NetworkConfig(width=4), CLASSES, seed)


def prior(weight: float = 0.1) -> PriorTerm:
    return PriorTerm(build_network(NetworkConfig("autoencoder", 4), CLASSES, 1), CLASSES, weight)


def batch(seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 1, 32, 32, generator=random)
    labels = {d: torch.randint(n, (2, 32, 32), generator=random, dtype=torch.uint8) for d, n in CLASSES.items()}
    return Batch(images, labels, SHARES)


def test_eq_8_is_the_weighted_sum_of_its_three_losses():
    whole, reference = network(), network()
    objective = Segmentation(ContrastTerm(0.5, 0.2), prior(0.3))
    terms = objective(whole, batch())
    output = reference(batch().images, SHARES, embeddings=True)
    expected = {
        "cross_entropy": domain_cross_entropy(output.logits, batch().labels),
        "contrast": 0.5 * contrastive_loss(output.embeddings, torch.tensor([0, 0, 1, 1]), 0.2),
    }
    codes = [
        objective.prior.autoencoder.encode(maps)
        for maps in (one_hot(batch().labels, CLASSES), {d: x.softmax(1) for d, x in output.logits.items()})
    ]
    expected["prior"] = 0.3 * anatomical_prior_loss(*codes)
    assert list(terms) == list(expected)
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], msg=name)
        assert term > 0


def test_the_single_scale_is_the_bottleneck():
    output = network()(batch().images, SHARES, embeddings=True)
    term = ContrastTerm(0.1, 0.1, single_scale=True)(output, SHARES)
    assert output.embeddings[4].shape[1] == 64
    torch.testing.assert_close(term, 0.1 * contrastive_loss([output.embeddings[4]], torch.tensor([0, 0, 1, 1]), 0.1))


def test_a_site_is_held_against_prototypes():
    alone = build_network(NetworkConfig(width=4), {"ankle": 3}, 0)
    whole = batch()
    own = Batch(whole.images[:2], {"ankle": whole.labels["ankle"]}, {"ankle": 2})
    random = torch.Generator().manual_seed(0)
    prototypes = {
        domain: [
            summarise(F.normalize(torch.rand(60, 4 * width, generator=random), dim=1), torch.arange(60) % 4)
            for width in (1, 2, 4, 8, 16, 8, 4, 2, 1)
        ]
        for domain in CLASSES
    }
    output = alone(own.images, own.shares, embeddings=True)
    term = PrototypeTerm(0.5, 0.1, "ankle", mix(prototypes))
    terms = Segmentation(term)(alone, own)
    torch.testing.assert_close(
        terms["contrast"], 0.5 * prototype_contrast(output.embeddings, mix(prototypes), "ankle", 0.1)
    )
    bottleneck = mix({domain: scales[4:5] for domain, scales in prototypes.items()})
    single = PrototypeTerm(0.1, 0.1, "ankle", bottleneck, single_scale=True)(output, own.shares)
    torch.testing.assert_close(single, 0.1 * prototype_contrast([output.embeddings[4]], bottleneck, "ankle", 0.1))
    norms = gradient_norms(alone, Segmentation(term), own)
    assert norms["contrast"] > 0
    waiting = Segmentation(PrototypeTerm(0.5, 0.1, "ankle"))
    assert float(waiting(alone, own)["contrast"].detach()) == 0
    assert gradient_norms(alone, waiting, own)["contrast"] == 0
    with pytest.raises(ValueError, match="as one of ankle alone"):
        term(output, {"ankle": 1, "knee": 1})


def test_eq_6_holds_the_auto_encoder_against_its_own_input():
    autoencoder = build_network(NetworkConfig("autoencoder", 4), CLASSES, 1)
    reference = copy.deepcopy(autoencoder)
    terms = Reconstruction(CLASSES, ContrastTerm(0.05, 0.1))(autoencoder, batch())
    output = reference(one_hot(batch().labels, CLASSES), embeddings=True)
    torch.testing.assert_close(terms["cross_entropy"], domain_cross_entropy(output.logits, batch().labels))
    contrast = 0.05 * contrastive_loss(output.embeddings, torch.tensor([0, 0, 1, 1]), 0.1)
    torch.testing.assert_close(terms["contrast"], contrast)
    assert list(Reconstruction(CLASSES)(autoencoder, batch())) == ["cross_entropy"]


def test_the_prior_stays_as_it_is_and_pulls_at_the_segmentation_network_alone():
    """Parameters and running statistics, after training with it, as they were before."""
    term = prior()
    before = {name: tensor.clone() for name, tensor in term.autoencoder.state_dict().items()}
    trained = network()
    optimiser = build_optimiser(trained, 1e-2)
    for step in range(3):
        train_step(trained, optimiser, batch(step), objective=Segmentation(prior=term))
    assert all(torch.equal(tensor, before[name]) for name, tensor in term.autoencoder.state_dict().items())
    assert all(parameter.grad is None for parameter in term.autoencoder.parameters())
    assert not any(module.training for module in term.autoencoder.modules())

    alone = network()
    output = alone(batch().images, SHARES)
    term(output, batch().labels).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in alone.output.parameters())
    assert alone.encoder[0][0].conv.weight.grad.any()


def test_the_prior_vanishes_where_predictions_are_certain_and_right():
    logits = {d: 100 * maps for d, maps in one_hot(batch().labels, CLASSES).items()}
    output = type("Output", (), {"logits": logits})
    assert float(prior()(output, batch().labels)) == pytest.approx(0, abs=1e-10)
    wrong = type("Output", (), {"logits": {d: -x for d, x in logits.items()}})
    assert float(prior()(wrong, batch().labels)) > 1e-6


def test_everything_stays_finite_and_near_in_bf16():
    objective = Segmentation(ContrastTerm(0.5, 0.1), prior())
    exact, short = (objective(network(), batch(), bf16) for bf16 in (False, True))
    for name, term in short.items():
        assert term.dtype == torch.float32
        assert float(term.detach()) == pytest.approx(float(exact[name].detach()), rel=0.1), name


def test_a_batch_of_one_image_a_domain_has_no_contrast_and_trains():
    images, labels = (
        batch().images[[0, 2]].repeat(1, 1, 2, 2),
        {d: x[:1].repeat(1, 2, 2) for d, x in batch().labels.items()},
    )
    trained = network()
    losses = train_step(
        trained,
        build_optimiser(trained, 1e-3),
        Batch(images, labels, {"ankle": 1, "knee": 1}),
        objective=Segmentation(ContrastTerm(0.5, 0.1)),
    )
    assert losses["loss/contrast"] == 0
    assert losses["loss"] == losses["loss/cross_entropy"]
    assert all(bool(torch.isfinite(parameter).all()) for parameter in trained.parameters())


def test_gradient_norms_are_those_of_each_term_and_leave_no_trace():
    measured = network().eval()
    before = {name: tensor.clone() for name, tensor in measured.state_dict().items()}
    objective = Segmentation(ContrastTerm(0.5, 0.1), prior())
    norms = gradient_norms(measured, objective, batch())
    assert not measured.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in measured.state_dict().items())
    assert all(parameter.grad is None for parameter in measured.parameters())
    for name, norm in norms.items():
        fresh = network()
        objective(fresh, batch())[name].backward()
        squares = sum(float(p.grad.square().sum()) for p in fresh.parameters() if p.grad is not None)
        assert norm == pytest.approx(squares**0.5, rel=1e-4), name
