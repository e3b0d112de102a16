"""Contrast at a site: its batches against the others' prototypes, its own prototype followed from batch to batch.

Eq. 5 needs every domain; a site has one. The others' prototypes come with a round and stay for it. The own one changes with
every step, and follows the embeddings that training computes anyway.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .domain_mixture import DomainMixture, mix
from .minimum import LOCAL, MINIMUM, Minimum
from .networks.output import NetworkOutput
from .objectives import Objective, PrototypeTerm, Proximal, contrasted
from .prototype_summary import limit_exams, summarise
from .prototypes import Prototype, weighing, without_spread
from .recent_embeddings import Place, RecentEmbeddings

HALF_LIFE = 1.0
"""Of the own prototype's running averages, in batches: of 0.7 to 6 the best while a network changes fast, no worse later."""
OWN_BATCHES = 8
"""Batches that the own prototype is made of: older ones would weigh nothing."""
REFRESH_STEPS = 8
"""Steps after which the own prototype is made anew, which takes as long as a part of a step."""
MAX_BATCHES = 64
"""Batches that a site remembers at most."""

Embed = Callable[[], tuple[list[Tensor], list[Place]]]
"""A full pass: embeddings [n, E_s] of all training slices at every scale, and their places."""


class SiteContrast:
    """``weight · L_MSC`` (or SSC) of a site's batches in one round.

    Called once a step, in the order of the steps. It is zero as long as no other domain is there, and in a site's very first
    step, when nothing is known of its own domain.

    Args:
        term: weight, temperature, scales and domain; its mixture is put in here.
        others: the other domains' prototypes, a list over scales each.
        recent: the site's last batches; every batch that comes is added.
        places: of the slices of one step after another.
        first_order: means alone, without any variance (an ablation).
        site_slices: the site's training slices, where domains weigh by them; None where they weigh alike.
    """

    def __init__(
        self,
        term: PrototypeTerm,
        others: Sequence[Sequence[Prototype]],
        recent: RecentEmbeddings,
        places: Iterator[Sequence[Place]],
        first_order: bool = False,
        site_slices: int | None = None,
    ) -> None:
        self.term = term
        self.others = {str(number): list(scales) for number, scales in enumerate(others)}
        self.recent = recent
        self.places = places
        self.first_order = first_order
        self.site_slices = site_slices
        self._steps = 0

    def __call__(self, output: NetworkOutput, shares: Mapping[str, int]) -> Tensor:
        scales = contrasted(output.embeddings, self.term.single_scale)
        if self._steps % REFRESH_STEPS == 0 or self.term.mixture is None:
            self.refresh(scales[0].device)
        self._steps += 1
        self.recent.add(scales, next(self.places))
        return self.term(output, shares)

    def refresh(self, device: torch.device | str) -> None:
        """Make the own prototype anew from the last batches, and put it beside the others'."""
        mixture = self._mixture()
        self.term = replace(self.term, mixture=None if mixture is None else mixture.to(device))

    def _mixture(self) -> DomainMixture | None:
        if not self.others:
            return None
        own = self.recent.last(OWN_BATCHES, HALF_LIFE).summarise(self.term.temperature, LOCAL)
        if own is None:
            return None
        by_size = self.site_slices is not None
        known = {self.term.domain: weighing(own, self.site_slices) if by_size else own, **self.others}
        if self.first_order:
            known = {domain: [without_spread(each) for each in scales] for domain, scales in known.items()}
        return mix(known, self.term.temperature, by_size)


def without_memory(objective: Objective) -> Objective:
    """An objective whose contrast is held against the prototypes of the last step and remembers nothing of what passes."""
    if isinstance(objective, Proximal):
        return replace(objective, objective=without_memory(objective.objective))
    contrast = getattr(objective, "contrast", None)
    return replace(objective, contrast=contrast.term) if isinstance(contrast, SiteContrast) else objective


def window(steps: int, share: int, slices: int, minimum: Minimum = MINIMUM) -> int:
    """Batches of which a site makes the prototypes that it sends: those of the round.

    Where they are few, so many more that twice the minimum of slices has passed; never more than two walks through all slices.

    Args:
        steps: of a round.
        share: slices of the site in a batch.
        slices: training slices of the site.
        minimum: what a prototype must hold.

    >>> window(20, 6, 600), window(1, 6, 600), window(1, 6, 54)
    (20, 17, 17)
    """
    enough = max(steps, math.ceil(2 * minimum.slices / share))
    return min(enough, math.ceil(2 * slices / share), MAX_BATCHES)


def site_prototypes(
    recent: RecentEmbeddings,
    embed: Embed,
    temperature: float,
    minimum: Minimum,
    full_pass: bool,
    slices_per_exam: int | None = None,
    single_scale: bool = False,
) -> list[Prototype] | None:
    """What a site sends after a round: running moments of its last batches, or those of a full pass.

    Args:
        recent: the batches of the window, each slice weighing alike.
        embed: the full pass; called where it is asked for, and where too little has passed for running moments.
        temperature: τ of Eq. 5.
        minimum: exams and slices that a prototype must hold.
        full_pass: whether to look at every slice.
        slices_per_exam: see :func:`mtmd_core.prototype_summary.limit_exams`; None for no limit.
        single_scale: the bottleneck alone.

    Returns:
        One a scale; None where the site has too few exams or slices.
    """
    running = None if full_pass else recent.summarise(temperature, minimum, slices_per_exam=slices_per_exam)
    if running is not None:
        return running
    scales, places = embed()
    exams = torch.tensor([exam for exam, _ in places])
    weights = None if slices_per_exam is None else limit_exams(exams, slices_per_exam)
    made = [
        summarise(scale, exams, temperature, weights=weights, minimum=minimum)
        for scale in contrasted(scales, single_scale)
    ]
    return None if made[0] is None else made
