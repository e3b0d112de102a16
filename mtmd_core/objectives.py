"""What a network is trained for: the sums of weighted losses of Eq. 6 and Eq. 8."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from mtmd_core.data.batches import Batch
from mtmd_core.devices import autocast
from mtmd_core.domain_mixture import DomainMixture
from mtmd_core.losses.anatomical_prior import anatomical_prior_loss
from mtmd_core.losses.contrastive import contrastive_loss
from mtmd_core.losses.cross_entropy import domain_cross_entropy
from mtmd_core.losses.prototype_contrast import own_batch_contrast, prototype_contrast
from mtmd_core.losses.proximal import proximal_term
from mtmd_core.networks.autoencoder import Autoencoder, one_hot
from mtmd_core.networks.output import NetworkOutput
from mtmd_core.precision import in_float32_or_wider

T = TypeVar("T")
Contrast = Callable[[NetworkOutput, Mapping[str, int]], Tensor]
"""(output, domain → slices of it) → a weighted contrastive term."""
Objective = Callable[[nn.Module, Batch, bool], dict[str, Tensor]]
"""(network, batch, whether to use bfloat16) → each term of the loss by name, weighted: their sum is minimised."""

Forward = Callable[[nn.Module, Batch, bool], NetworkOutput]
"""(network, batch, whether embeddings are wanted) → what the network makes of the batch."""

CROSS_ENTROPY, CONTRAST, PRIOR, PROXIMAL = "cross_entropy", "contrast", "prior", "proximal"
"""Names of the terms."""
BOTTLENECK = 4
"""Index of s5 among the nine scales."""


def contrasted(scales: list[T], single_scale: bool) -> list[T]:
    """What belongs to the scales that a contrastive term is about: all nine for MSC, the bottleneck alone for SSC."""
    return [scales[BOTTLENECK]] if single_scale else scales


def segment(network: nn.Module, batch: Batch, embeddings: bool = False) -> NetworkOutput:
    """What a segmentation network makes of a batch's images."""
    return network(batch.images, batch.shares, embeddings=embeddings)


@dataclass(frozen=True)
class Reconstruct:
    """What an auto-encoder makes of a batch's label maps. ``classes``: domain → number of them."""

    classes: Mapping[str, int]

    def __call__(self, network: nn.Module, batch: Batch, embeddings: bool = False) -> NetworkOutput:
        return network(one_hot(batch.labels, self.classes), embeddings=embeddings)


@dataclass(frozen=True)
class ContrastTerm:
    """``weight · L_MSC``, or ``weight · L_SSC`` where ``single_scale`` is set (Eq. 5)."""

    weight: float
    temperature: float
    single_scale: bool = False

    def __call__(self, output: NetworkOutput, shares: Mapping[str, int]) -> Tensor:
        scales = contrasted(output.embeddings, self.single_scale)
        counts = torch.tensor(list(shares.values()), device=scales[0].device)
        domains = torch.arange(len(shares), device=counts.device).repeat_interleave(counts, output_size=len(scales[0]))
        return self.weight * contrastive_loss(scales, domains, self.temperature)


@dataclass(frozen=True)
class PrototypeTerm:
    """``weight · L_MSC`` of a site, or ``weight · L_SSC``, against the prototypes of the domains present.

    ``mixture`` holds all nine scales, or the bottleneck alone for SSC; None until another domain's prototype has arrived.
    ``own_batch``: whether the own domain's terms come from the batch instead (an ablation).
    """

    weight: float
    temperature: float
    domain: str
    mixture: DomainMixture | None = None
    single_scale: bool = False
    own_batch: bool = False

    def __call__(self, output: NetworkOutput, shares: Mapping[str, int]) -> Tensor:
        if list(shares) != [self.domain]:
            raise ValueError(f"a batch of {list(shares)} is held against prototypes as one of {self.domain} alone")
        scales = contrasted(output.embeddings, self.single_scale)
        if self.mixture is None:
            return torch.stack([scale.sum() for scale in scales]).sum() * 0
        loss = own_batch_contrast if self.own_batch else prototype_contrast
        return self.weight * loss(scales, self.mixture, self.domain, self.temperature)


class PriorTerm:
    """``weight · L_MJAP`` (Eq. 7) under a frozen auto-encoder: its parameters, running statistics and DSBN never change.

    Args:
        autoencoder: trained; it is put into evaluation mode and out of reach of any gradient.
        classes: domain → number of classes.
        weight: λ3.
    """

    def __init__(self, autoencoder: Autoencoder, classes: Mapping[str, int], weight: float) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.classes = dict(classes)
        self.weight = weight

    def __call__(self, output: NetworkOutput, labels: Mapping[str, Tensor], bf16: bool = False) -> Tensor:
        predicted = {domain: in_float32_or_wider(each).softmax(dim=1) for domain, each in output.logits.items()}
        with autocast(next(iter(predicted.values())).device, bf16):
            with torch.no_grad():
                truth = self.autoencoder.encode(one_hot(labels, self.classes))
            codes = self.autoencoder.encode(predicted)
        return self.weight * anatomical_prior_loss(truth, codes)


@dataclass(frozen=True)
class Segmentation:
    """Eq. 8: ``L_CE + λ2 L_MSC + λ3 L_MJAP``, with the terms that there are."""

    contrast: Contrast | None = None
    prior: PriorTerm | None = None

    def __call__(self, network: nn.Module, batch: Batch, bf16: bool = False) -> dict[str, Tensor]:
        output, terms = _contrasted_cross_entropy(segment, network, batch, bf16, self.contrast)
        return terms if self.prior is None else {**terms, PRIOR: self.prior(output, batch.labels, bf16)}


@dataclass(frozen=True)
class Reconstruction:
    """Eq. 6: ``L_CE + λ1 L_MSC`` of an auto-encoder on the label maps of a batch. ``classes``: domain → number of them."""

    classes: Mapping[str, int]
    contrast: Contrast | None = None

    def __call__(self, network: nn.Module, batch: Batch, bf16: bool = False) -> dict[str, Tensor]:
        return _contrasted_cross_entropy(Reconstruct(self.classes), network, batch, bf16, self.contrast)[1]


def _contrasted_cross_entropy(
    forward: Forward, network: nn.Module, batch: Batch, bf16: bool, contrast: Contrast | None
) -> tuple[NetworkOutput, dict[str, Tensor]]:
    """The output for a batch and what Eq. 6 and Eq. 8 have in common: cross-entropy, and contrast where there is one."""
    with autocast(batch.images.device, bf16):
        output = forward(network, batch, contrast is not None)
    terms = {CROSS_ENTROPY: domain_cross_entropy(output.logits, batch.labels)}
    if contrast is not None:
        terms[CONTRAST] = contrast(output, batch.shares)
    return output, terms


@dataclass(frozen=True)
class Proximal:
    """A site's objective with FedProx's ``μ/2 Σ ‖w − wᵗ‖²`` added (Li et al. 2020, Algorithm 2).

    ``received``: name → wᵗ of the parameters that are held near what they were; others are free.
    """

    objective: Objective
    mu: float
    received: Mapping[str, Tensor]

    def __call__(self, network: nn.Module, batch: Batch, bf16: bool = False) -> dict[str, Tensor]:
        held = {name: value for name, value in network.named_parameters() if name in self.received}
        return {
            **self.objective(network, batch, bf16),
            PROXIMAL: self.mu * proximal_term(held, self.received),
        }


def gradient_norms(network: nn.Module, objective: Objective, batch: Batch) -> dict[str, float]:
    """How strongly each weighted term pulls at the network's parameters: term → Euclidean norm of its gradient.

    A term whose norm is far below cross-entropy's is inert, whatever its value. The network is left as it was: parameters,
    running statistics and mode. What is compiled is run as it is written: a compiled graph can be followed back but once.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    mode = network.training
    network.train()
    with torch.compiler.set_stance("force_eager"):
        terms = objective(network, batch, False)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    norms = {}
    for name, term in terms.items():
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        norms[name] = float(torch.stack([g.float().norm() for g in gradients if g is not None]).norm())
    network.train(mode)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
    return norms
