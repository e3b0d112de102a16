"""The anatomical prior at a site: the federated auto-encoder, joined with the site's private layers once and kept frozen."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from mtmd_core.config import AUTOENCODER, NO_WEIGHTS, NetworkConfig
from mtmd_core.data.site_data import SiteData
from mtmd_core.devices import to_device
from mtmd_core.errors import RunFailedError, SiteError
from mtmd_core.networks.build import build_network
from mtmd_core.objectives import PriorTerm
from mtmd_core.wire import PriorPlan, RoundPlan

from .labels import label_space
from .learner import Learner
from .site_state import SiteState


class MissingPriorError(RunFailedError):
    """The site does not hold the auto-encoder that a plan names; the coordinator sends it again."""

    site_error = SiteError.PRIOR_MISSING


class SitePrior:
    """Keeps the auto-encoder of a run at a site.

    Args:
        state: the site's memory; it remembers the private layers of the auto-encoder's rounds.
        device: where the site trains.
    """

    def __init__(self, state: SiteState, device: torch.device) -> None:
        self.state = state
        self.device = device
        self._term: PriorTerm | None = None
        self._plan: PriorPlan | None = None

    def term(
        self,
        visit: RoundPlan,
        plan: PriorPlan,
        shared: Mapping[str, np.ndarray] | None,
        load_data: Callable[[], SiteData],
    ) -> PriorTerm:
        """``λ3 · L_MJAP`` (Eq. 7) under the auto-encoder that a plan names.

        Args:
            visit: the plan of the visit.
            plan: which auto-encoder.
            shared: its shared parameters, where they came along: unless it is here already, they are joined with the private
                layers of its round and the whole is kept.
            load_data: the site's exams.

        Raises:
            MissingPriorError: if it is not here and did not come, or its file was damaged.
            RunFailedError: if the site took part in no round of the auto-encoder up to the chosen one.
            ValueError: if the parameters are not exactly the auto-encoder's shared ones.
        """
        if self._term is not None and self._plan == plan:
            return self._term
        trained_by, data = autoencoder_plan(visit, plan), load_data()
        tensors = self.state.frozen(plan.run, plan.round)
        if tensors is None and shared is not None:
            tensors = self._freeze(trained_by, shared, data)
        if tensors is None:
            raise MissingPriorError(
                f"the auto-encoder of round {plan.round} is not here: the coordinator sends it with its next message."
            )
        space = label_space(trained_by, data.site, len(data.structures))
        classes = {space.domain: space.classes}
        initial = build_network(NetworkConfig(AUTOENCODER, plan.width), classes, plan.seed)
        network = to_device(initial, self.device, visit.dtype, visit.channels_last)
        network.load_state_dict(tensors)
        self._term, self._plan = PriorTerm(network, classes, plan.weight), plan
        return self._term

    def _freeze(
        self, trained_by: RoundPlan, shared: Mapping[str, np.ndarray], data: SiteData
    ) -> Mapping[str, torch.Tensor]:
        learner = Learner(trained_by, data, self.device)
        learner.become(trained_by, shared, self.state)
        learner.calibrate(trained_by)
        tensors = learner.network.state_dict()
        self.state.freeze(trained_by.run, trained_by.round, tensors)
        self.state.forget(trained_by.run, set(), trained_by.round)
        return tensors


def autoencoder_plan(visit: RoundPlan, plan: PriorPlan) -> RoundPlan:
    """The plan under which the auto-encoder was trained, from that of a visit which uses it."""
    return replace(
        visit,
        run=plan.run,
        round=plan.round,
        network=AUTOENCODER,
        width=plan.width,
        encoder_weights=NO_WEIGHTS,
        share=plan.share,
        seed=plan.seed,
        validate=False,
    )
