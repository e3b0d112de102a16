"""Prototypes at a site: those that came, those that it makes of itself, and what training does with both."""

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from mtmd_core.config import NetworkConfig
from mtmd_core.data.batches import SliceSource
from mtmd_core.embedding_pass import embed_slices
from mtmd_core.networks.build import embedding_sizes
from mtmd_core.objectives import Forward, PrototypeTerm, contrasted
from mtmd_core.prototype_arrays import from_arrays, refusal, to_arrays
from mtmd_core.prototypes import Minimum, Prototype
from mtmd_core.recent_embeddings import RecentEmbeddings
from mtmd_core.site_contrast import MAX_BATCHES, OWN_BATCHES, SiteContrast, site_prototypes, window
from mtmd_core.training import Recipe
from mtmd_core.wire import Arrays, ContrastPlan

log = logging.getLogger(__name__)


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
        return SiteContrast(term, known, self._recent, places, plan.first_order, plan.by_size)

    def prototypes(
        self, network: nn.Module, plan: ContrastPlan, steps: int, minimum: Minimum, slices_per_exam: int | None
    ) -> dict[str, np.ndarray] | None:
        """What the site may send of itself after a round of so many steps; None where it has too few exams or slices."""
        batches = window(steps, self.recipe.share, len(self.source), minimum)
        self._kept = max(batches, OWN_BATCHES)
        made = site_prototypes(
            self._recent.last(batches, math.inf),
            lambda: embed_slices(network, self.domain, self.source, self.recipe, self.forward),
            plan.temperature,
            minimum,
            steps >= plan.full_pass_steps,
            slices_per_exam,
            plan.single_scale,
        )
        return None if made is None else to_arrays(made)

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
