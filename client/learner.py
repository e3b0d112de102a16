"""A site's network in one run: built from the coordinator's plan, trained on the site's own exams."""

from collections.abc import Mapping

import numpy as np
import torch

from mtmd_core.calibration import calibrate
from mtmd_core.config import AUTOENCODER, NetworkConfig
from mtmd_core.data.site_data import SiteData
from mtmd_core.data.split import leave_one_out
from mtmd_core.errors import RunFailedError
from mtmd_core.evaluation import SiteScores, evaluate_exams, reconstruction_dice
from mtmd_core.models import ModelCard, SiteCard
from mtmd_core.networks.build import build_network
from mtmd_core.objectives import Forward, Objective, PriorTerm, Reconstruct, Reconstruction, Segmentation, segment
from mtmd_core.parameters import partition, put, take
from mtmd_core.prototypes import Minimum
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
from mtmd_core.wire import RoundPlan, Terms

from .contrast import ContrastWork
from .site_state import Remembered, SiteState

_EMBEDDINGS = "embeddings/"
"""What the tensors of the last batches are called among those that training goes on from."""


class Learner:
    """Network, optimiser and data of one site in one run: of segmentation, or of the auto-encoder of its label maps.

    Args:
        plan: of any round of the run.
        data: the site's exams, cut as the plan says.
        device: where to train.
    """

    def __init__(self, plan: RoundPlan, data: SiteData, device: torch.device) -> None:
        self.data = data
        self.space = label_space(plan, data)
        self.split = leave_one_out(list(data.exams), plan.fold)
        network = NetworkConfig(plan.network, plan.width, plan.encoder_weights)
        self.network = build_network(network, {self.space.domain: self.space.classes}, plan.seed).to(device)
        self.partition = partition(self.network, strategy_named(plan.strategy).sharing)
        self.optimiser = build_optimiser(self.network, plan.learning_rate)
        self.recipe = Recipe(plan.share, plan.learning_rate, plan.seed, plan.augment, plan.autocast)
        self.sources = {self.space.domain: [data.source(self.split.train, self.space.offset)]}
        classes = {self.space.domain: self.space.classes}
        self.reconstructs = plan.network == AUTOENCODER
        self.forward: Forward = Reconstruct(classes) if self.reconstructs else segment
        (source,) = self.sources[self.space.domain]
        self.contrast = ContrastWork(network, self.space.domain, source, self.recipe, self.forward)
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
        embeddings = {name for name in remembered.optimiser if name.startswith(_EMBEDDINGS)}
        self.contrast.load({name.removeprefix(_EMBEDDINGS): remembered.optimiser[name] for name in embeddings})
        optimiser = {name: tensor for name, tensor in remembered.optimiser.items() if name not in embeddings}
        load_optimiser_tensors(self.network, self.optimiser, optimiser)
        self._round = plan.round - 1

    def receive(self, shared: Mapping[str, np.ndarray]) -> None:
        """Take over the shared parameters that came.

        Raises:
            ValueError: if they are not exactly the network's shared ones; nothing is changed then.
        """
        put(self.network, self.partition.shared, shared)

    def train(self, plan: RoundPlan, terms: Terms, prior: PriorTerm | None, on_step: OnStep | None) -> float:
        """Train for the plan's steps; returns the mean loss.

        Args:
            plan: of the round.
            terms: of the round; its contrast is added to the cross-entropy.
            prior: the anatomical prior, added too.
            on_step: called after each step.
        """
        first = (plan.round - 1) * plan.local_steps
        steps = range(first, first + plan.local_steps)
        self._round = -1  # neither one round nor the other, should training be interrupted
        contrast = None if terms.contrast is None else self.contrast.term(terms.contrast, terms.others, steps)
        objective: Objective = Segmentation(contrast, prior)
        if self.reconstructs:
            objective = Reconstruction({self.space.domain: self.space.classes}, contrast)
        losses = train(self.network, self.optimiser, self.sources, self.recipe, steps, on_step, objective)
        self._round = plan.round
        return losses[LOSS]

    def prototypes(
        self, plan: RoundPlan, terms: Terms, minimum: Minimum, slices_per_exam: int | None
    ) -> dict[str, np.ndarray] | None:
        """After training: what the site may send of its embeddings; None without a contrast, or with too few exams or slices.

        Args:
            plan, terms: of the round.
            minimum, slices_per_exam: what the site itself asks for; of its limits and the plan's the stricter hold.
        """
        contrast = terms.contrast
        if contrast is None:
            return None
        stricter = Minimum(max(minimum.exams, contrast.minimum_exams), max(minimum.slices, contrast.minimum_slices))
        limits = [limit for limit in (slices_per_exam, contrast.slices_per_exam) if limit]
        return self.contrast.prototypes(self.network, contrast, plan.local_steps, stricter, min(limits, default=None))

    def remember(self, plan: RoundPlan, state: SiteState) -> None:
        """Save the round's private state, and forget what no later visit can ask for."""
        goes_on = optimiser_tensors(self.network, self.optimiser)
        goes_on |= {_EMBEDDINGS + name: tensor for name, tensor in self.contrast.tensors().items()}
        state.save(plan.run, plan.round, self._private(), goes_on)
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
        if self._round != plan.round and self.partition.private:
            private = state.private_upto(plan.run, plan.round)
            if private is None:
                raise RunFailedError(f"{self.data.site} has no private parameters of round {plan.round} or before it.")
            self._put_private(private)
        if self._round != plan.round:
            self._round = -1  # the optimiser does not belong to this state: train only after restore()

    def evaluate(self, plan: RoundPlan, exams: tuple[str, ...]) -> SiteScores:
        """Segment and score some of the site's exams; of an auto-encoder, the Dice of what it makes of their label maps."""
        self.calibrate(plan)
        if not self.reconstructs:
            return evaluate_exams(self.network, self.space, self.data, exams)
        labels = [self.data.exams[name].labels for name in exams]
        dice = reconstruction_dice(self.network, self.space, labels)
        return SiteScores({"foreground_mean": {"dice": dice}, "mean": {}})

    def calibrate(self, plan: RoundPlan) -> None:
        """Where weights are averaged and statistics are private, measure these anew."""
        if self.partition.shared and self.partition.private:
            calibrate(self.network, self.sources, self.recipe, plan.calibration_batches, self.forward)

    def _private(self) -> dict[str, torch.Tensor]:
        state = self.network.state_dict()
        return {name: state[name] for name in self.partition.private}

    def _put_private(self, private: dict[str, torch.Tensor]) -> None:
        put(self.network, self.partition.private, {name: t.cpu().numpy() for name, t in private.items()})


def label_space(plan: RoundPlan, data: SiteData) -> LabelSpace:
    """Where the site's structures lie among the network's classes.

    Raises:
        ValueError: if they do not fit among those of the plan.
    """
    structures = len(data.structures)
    if plan.label_classes == 0:
        return LabelSpace(data.site, 0, structures, structures + 1)
    if plan.label_offset + structures >= plan.label_classes:
        raise ValueError(
            f"the plan has {plan.label_classes} classes in all and puts this site's {structures} structures after "
            f"{plan.label_offset}: they do not fit"
        )
    return LabelSpace(EVERY_SITE, plan.label_offset, structures, plan.label_classes)
