"""A site's network in one run: built from the coordinator's plan, trained on the site's own exams."""

from collections.abc import Mapping

import numpy as np
import torch

from mtmd_core.calibration import calibrate
from mtmd_core.config import NetworkConfig
from mtmd_core.data.site_data import SiteData
from mtmd_core.data.split import leave_one_out
from mtmd_core.errors import RunFailedError
from mtmd_core.evaluation import SiteScores, evaluate_exams
from mtmd_core.models import ModelCard, SiteCard
from mtmd_core.networks.build import build_network
from mtmd_core.parameters import partition, put, take
from mtmd_core.strategies import EVERY_SITE, LabelSpace, strategy_named
from mtmd_core.training import (
    LOSS,
    OnStep,
    Recipe,
    build_optimiser,
    load_optimiser_tensors,
    optimiser_tensors,
    train,
)
from mtmd_core.wire import RoundPlan

from .site_state import Remembered, SiteState


class Learner:
    """Network, optimiser and data of one site in one run.

    Args:
        plan: of any round of the run.
        data: the site's exams, cut as the plan says.
        device: where to train.
    """

    def __init__(self, plan: RoundPlan, data: SiteData, device: torch.device) -> None:
        self.data = data
        self.space = _label_space(plan, data)
        self.split = leave_one_out(list(data.exams), plan.fold)
        network = NetworkConfig(plan.network, plan.width, plan.encoder_weights)
        self.network = build_network(network, {self.space.domain: self.space.classes}, plan.seed).to(device)
        self.partition = partition(self.network, strategy_named(plan.strategy).sharing)
        self.optimiser = build_optimiser(self.network, plan.learning_rate)
        self.recipe = Recipe(plan.share, plan.learning_rate, plan.seed, plan.augment, plan.autocast)
        self.sources = {self.space.domain: [data.source(self.split.train, self.space.offset)]}
        self.card = ModelCard(
            network,
            plan.strategy,
            plan.slice_size,
            {data.site: SiteCard(self.space, data.structures, data.axis)},
        )
        self._initial = {name: tensor.detach().clone() for name, tensor in self._private().items()}
        self._round = 0
        self._began_from = 0

    def restore(self, plan: RoundPlan, state: SiteState) -> None:
        """Bring private parameters and optimiser to where the round before ``plan.round`` left them.

        A site that missed rounds goes on from the last one that it took part in.
        """
        if self._round == plan.round - 1 and self._round > 0:
            self._began_from = self._round
            return
        remembered = state.newest(plan.run, upto=plan.round - 1) or Remembered(0, self._initial, {})
        self._began_from = remembered.round
        self._put_private(remembered.private)
        load_optimiser_tensors(self.network, self.optimiser, remembered.optimiser)
        self._round = plan.round - 1

    def receive(self, shared: Mapping[str, np.ndarray]) -> None:
        """Take over the shared parameters that came.

        Raises:
            ValueError: if they are not exactly the network's shared ones; nothing is changed then.
        """
        put(self.network, self.partition.shared, shared)

    def train(self, plan: RoundPlan, on_step: OnStep | None) -> float:
        """Train for the plan's steps; returns the mean loss."""
        first = (plan.round - 1) * plan.local_steps
        steps = range(first, first + plan.local_steps)
        self._round = -1  # neither one round nor the other, should training be interrupted
        losses = train(self.network, self.optimiser, self.sources, self.recipe, steps, on_step)
        self._round = plan.round
        return losses[LOSS]

    def remember(self, plan: RoundPlan, state: SiteState) -> None:
        """Save the round's private state, and forget what no later visit can ask for."""
        state.save(plan.run, plan.round, self._private(), optimiser_tensors(self.network, self.optimiser))
        state.forget(plan.run, {plan.round, self._began_from}, plan.best_round)

    def shared(self) -> dict[str, np.ndarray]:
        """The shared parameters as they are now; views of the network's own on the CPU."""
        return take(self.network, self.partition.shared)

    def become(self, plan: RoundPlan, shared: Mapping[str, np.ndarray], state: SiteState) -> None:
        """Put the network into the state at the end of ``plan.round``: shared as given, private as remembered.

        A site that missed that round uses what it remembers of the last one before it.

        Raises:
            RunFailedError: if it remembers none.
        """
        self.receive(shared)
        if self._round != plan.round:
            private = state.private_upto(plan.run, plan.round)
            if private is None:
                raise RunFailedError(f"{self.data.site} has no private parameters of round {plan.round} or before it.")
            self._put_private(private)
            self._round = -1  # the optimiser does not belong to this state: train only after restore()

    def evaluate(self, plan: RoundPlan, exams: tuple[str, ...]) -> SiteScores:
        """Segment and score some of the site's exams.

        Where weights are averaged and statistics are private, these are measured anew first.
        """
        if self.partition.shared and self.partition.private:
            calibrate(self.network, self.sources, self.recipe, plan.calibration_batches)
        return evaluate_exams(self.network, self.space, self.data, exams)

    def _private(self) -> dict[str, torch.Tensor]:
        state = self.network.state_dict()
        return {name: state[name] for name in self.partition.private}

    def _put_private(self, private: dict[str, torch.Tensor]) -> None:
        put(self.network, self.partition.private, {name: t.cpu().numpy() for name, t in private.items()})


def _label_space(plan: RoundPlan, data: SiteData) -> LabelSpace:
    structures = len(data.structures)
    if plan.label_classes == 0:
        return LabelSpace(data.site, 0, structures, structures + 1)
    if plan.label_offset + structures >= plan.label_classes:
        raise ValueError(
            f"the plan has {plan.label_classes} classes in all and puts this site's {structures} structures after "
            f"{plan.label_offset}: they do not fit"
        )
    return LabelSpace(EVERY_SITE, plan.label_offset, structures, plan.label_classes)
