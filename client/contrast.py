"""Prototypes at a site: those that came, those that it makes of itself, and what training does with both."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from mtmd_core.config import NetworkConfig
from mtmd_core.data.batches import SliceSource
from mtmd_core.embedding_pass import embed_slices
from mtmd_core.minimum import MINIMUM, Minimum
from mtmd_core.networks.build import embedding_sizes
from mtmd_core.noised_prototypes import noised_prototypes
from mtmd_core.objectives import Forward, PrototypeTerm, contrasted
from mtmd_core.prototype_arrays import from_arrays, refusal, to_arrays
from mtmd_core.prototypes import Prototype, weighing
from mtmd_core.recent_embeddings import RecentEmbeddings
from mtmd_core.site_contrast import MAX_BATCHES, OWN_BATCHES, SiteContrast, site_prototypes, window
from mtmd_core.training import Recipe
from mtmd_core.wire import Arrays, ContrastPlan

from .privacy import PrivacyBudget

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrototypePolicy:
    """What a site itself asks of the prototypes that it sends; of its limits and a plan's the stricter hold.

    ``minimum`` exams and slices; ``slices_per_exam``: no exam counts for more of its slices, None for no limit; ``budget``: noise
    and what it has cost.
    """

    minimum: Minimum = MINIMUM
    slices_per_exam: int | None = None
    budget: PrivacyBudget = field(default_factory=PrivacyBudget)

    def minimum_with(self, plan: ContrastPlan) -> Minimum:
        """The exams and slices that a prototype must be of."""
        return Minimum(max(self.minimum.exams, plan.minimum_exams), max(self.minimum.slices, plan.minimum_slices))

    def slices_per_exam_with(self, plan: ContrastPlan) -> int | None:
        """The slices that an exam counts for at most."""
        return min((limit for limit in (self.slices_per_exam, plan.slices_per_exam) if limit), default=None)


class ContrastWork:
    """The contrastive side of a site's training in one run.

    Args:
        network: which network, for the sizes of its embeddings.
        domain: of the site.
        source: its training slices.
        recipe: of the training.
        forward: what the network makes of a batch.
    """

    def __init__(
        self, network: NetworkConfig, domain: str, source: SliceSource, recipe: Recipe, forward: Forward
    ) -> None:
        self.domain, self.source, self.recipe, self.forward = domain, source, recipe, forward
        self._sizes = embedding_sizes(network)
        self._recent = RecentEmbeddings(math.inf, MAX_BATCHES)
        self._kept = 0

    def term(self, plan: ContrastPlan, others: Sequence[Arrays], steps: range) -> SiteContrast:
        """The term of Eq. 6 or Eq. 8 for the steps of a round."""
        term = PrototypeTerm(
            plan.weight,
            plan.temperature,
            self.domain,
            single_scale=plan.single_scale,
            own_batch=plan.own_batch,
        )
        places = (self.source.places(self.recipe.seed, step, self.recipe.share) for step in steps)
        known = self._usable(plan, others)
        site_slices = len(self.source) if plan.by_size else None
        return SiteContrast(term, known, self._recent, places, plan.first_order, site_slices)

    def prototypes(
        self, network: nn.Module, plan: ContrastPlan, round_: int, steps: int, policy: PrototypePolicy
    ) -> dict[str, np.ndarray] | None:
        """What the site may send of itself after a round of so many steps.

        Returns:
            None where it has too few exams or slices, or no privacy budget left.
        """
        minimum, slices_per_exam = policy.minimum_with(plan), policy.slices_per_exam_with(plan)
        batches = window(steps, self.recipe.share, len(self.source), minimum)
        self._kept = max(batches, OWN_BATCHES)
        noise = policy.budget.multiplier(plan.noise_multiplier)
        if noise:
            return self._noised(network, plan, round_, minimum, noise, policy.budget)
        made = site_prototypes(
            self._recent.last(batches, math.inf),
            lambda: embed_slices(network, self.domain, self.source, self.recipe, self.forward),
            plan.temperature,
            minimum,
            steps >= plan.full_pass_steps,
            slices_per_exam,
            plan.single_scale,
        )
        if made is None:
            return None
        policy.budget.spend(noise)
        return to_arrays(weighing(made, len(self.source)) if plan.by_size else made)

    def _noised(
        self, network: nn.Module, plan: ContrastPlan, round_: int, minimum: Minimum, noise: float, budget: PrivacyBudget
    ) -> dict[str, np.ndarray] | None:
        if not budget.allows(noise):
            return None
        scales, places = embed_slices(network, self.domain, self.source, self.recipe, self.forward, each_by_itself=True)
        made = noised_prototypes(
            contrasted(scales, plan.single_scale),
            torch.tensor([exam for exam, _ in places]),
            noise,
            budget.generator(self.recipe.seed, round_),
            plan.temperature,
            minimum,
        )
        if made is None:
            return None
        budget.spend(noise)
        return to_arrays(made)

    def tensors(self) -> dict[str, Tensor]:
        """What the next round goes on from: the embeddings of the last batches."""
        return self._recent.last(self._kept, math.inf).tensors() if self._kept else {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`tensors` took."""
        self._recent.load(tensors)

    def _usable(self, plan: ContrastPlan, others: Sequence[Arrays]) -> list[list[Prototype]]:
        sizes = contrasted(self._sizes, plan.single_scale)
        usable = []
        for arrays in others:
            reason = refusal(arrays, sizes, plan.temperature)
            if reason is None:
                usable.append(from_arrays(arrays, sizes))
            else:
                log.warning("prototypes that came are left out: %s", reason)
        return usable
