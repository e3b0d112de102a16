"""A site's network in one run: built from the coordinator's plan, trained on the site's own exams."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mtmd_core.calibration import calibrate
from mtmd_core.config import AUTOENCODER, NetworkConfig
from mtmd_core.data.batches import draw_batch
from mtmd_core.data.site_data import SiteData
from mtmd_core.data.split import leave_one_out
from mtmd_core.devices import to_device
from mtmd_core.errors import RunFailedError, SiteError
from mtmd_core.evaluation import SiteScores, evaluate_exams, reconstruction_dice
from mtmd_core.models import ModelCard, SiteCard
from mtmd_core.networks.build import build_network
from mtmd_core.objectives import (
    Forward,
    Objective,
    PriorTerm,
    Proximal,
    Reconstruct,
    Reconstruction,
    Segmentation,
    segment,
)
from mtmd_core.parameters import partition, put, take
from mtmd_core.prototype_summary import DivergedError
from mtmd_core.site_contrast import without_memory
from mtmd_core.strategies import strategy_named
from mtmd_core.training import (
    LOSS,
    OnStep,
    Recipe,
    build_optimiser,
    compute_gradients,
    load_optimiser_tensors,
    measure_gradients,
    optimiser_tensors,
    set_learning_rate,
    train,
)
from mtmd_core.update_encoding import FLOAT32, INT8, encode_update, what_was_lost
from mtmd_core.wire import GRADIENT, SHARED, UPDATE, Contribution, RoundPlan, Terms

from .contrast import ContrastWork, PrototypePolicy
from .finite import require_finite
from .labels import label_space
from .site_state import Remembered, SiteState

_EMBEDDINGS = "embeddings/"
"""What the tensors of the last batches are called among those that training goes on from."""
RESIDUAL = "residual"
"""Beside a parameter's optimiser state: what rounding has kept back of its updates so far."""


class MissingStateError(RunFailedError):
    """The site remembers no private parameters of a round that it is asked for."""

    site_error = SiteError.STATE_MISSING


class Learner:
    """Network, optimiser and data of one site in one run: of segmentation, or of the auto-encoder of its label maps.

    Args:
        plan: of any round of the run.
        data: the site's exams, cut as the plan says.
        device: where to train.

    ``objective`` is what it trains for; ``contribution`` what the last round's training brought, as it is sent.
    """

    def __init__(self, plan: RoundPlan, data: SiteData, device: torch.device) -> None:
        self.data = data
        self.space = label_space(plan, data.site, len(data.structures))
        self.split = leave_one_out(list(data.exams), plan.fold)
        network = NetworkConfig(plan.network, plan.width, plan.encoder_weights)
        # An encoder's weights are for what no message brings, the first values of private layers; a site calls nobody for them.
        initial = build_network(network, {self.space.domain: self.space.classes}, plan.seed, download=False)
        self.network = to_device(initial, device, plan.dtype, plan.channels_last)
        self.partition = partition(self.network, strategy_named(plan.strategy).sharing)
        named = dict(self.network.named_parameters())
        # In lock-step the server steps for what is shared.
        own = [named[n] for n in self.partition.private if n in named] if plan.lockstep_weight else named.values()
        self.optimiser = build_optimiser(own, plan.learning_rate, plan.optimiser)
        self.sources = {self.space.domain: [data.source(self.split.train, self.space.offset)]}
        self.recipe = Recipe(
            share=plan.share,
            learning_rate=plan.learning_rate,
            seed=plan.seed,
            augment=plan.augment,
            autocast=plan.autocast,
            optimiser=plan.optimiser,
            decay=plan.learning_rate_decay,
            steps=plan.rounds * self.steps(plan),
        )
        classes = {self.space.domain: self.space.classes}
        self.reconstructs = plan.network == AUTOENCODER
        self.forward: Forward = Reconstruct(classes) if self.reconstructs else segment
        self.objective: Segmentation | Reconstruction = Reconstruction(classes) if self.reconstructs else Segmentation()
        (source,) = self.sources[self.space.domain]
        self.contrast = ContrastWork(network, self.space.domain, source, self.recipe, self.forward)
        self.card = ModelCard(
            network,
            plan.strategy,
            plan.slice_size,
            {data.site: SiteCard(self.space, data.structures, data.axis)},
        )
        self.contribution = Contribution(SHARED, {})
        self._residual: dict[str, Tensor] = {}
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
        by_kind: dict[str, dict[str, Tensor]] = {_EMBEDDINGS: {}, RESIDUAL: {}, "": {}}
        for name, tensor in remembered.optimiser.items():
            if name.startswith(_EMBEDDINGS):
                by_kind[_EMBEDDINGS][name.removeprefix(_EMBEDDINGS)] = tensor
            elif name.endswith(f"/{RESIDUAL}"):
                by_kind[RESIDUAL][name.removesuffix(f"/{RESIDUAL}")] = tensor
            else:
                by_kind[""][name] = tensor
        self.contrast.load(by_kind[_EMBEDDINGS])
        self._residual = by_kind[RESIDUAL]
        load_optimiser_tensors(self.network, self.optimiser, by_kind[""])
        self._round = plan.round - 1

    def receive(self, shared: Mapping[str, np.ndarray]) -> None:
        """Take over the shared parameters that came.

        Raises:
            ValueError: if they are not exactly the network's shared ones; nothing is changed then.
        """
        put(self.network, self.partition.shared, shared)

    @property
    def slices(self) -> int:
        """Number of slices that the site trains on."""
        return sum(len(source) for own in self.sources.values() for source in own)

    def steps(self, plan: RoundPlan) -> int:
        """Local steps of a round: as many as planned, or those of whole passes over the site's slices."""
        return plan.local_epochs * math.ceil(self.slices / plan.share) or plan.local_steps

    def train(self, plan: RoundPlan, terms: Terms, prior: PriorTerm | None, on_step: OnStep | None) -> dict[str, float]:
        """Train for the plan's steps, and leave in ``contribution`` what is to be sent.

        Returns:
            The mean ``loss`` and, as ``loss/<term>``, that of each of its terms. In rounds that are validated also, as
            ``gradient_norm/<term>``, how strongly each pulls after the last step, where that is finite.

        Args:
            plan: of the round.
            terms: of the round; its contrast is added to the objective.
            prior: the anatomical prior, added too.
            on_step: called after each step.

        Raises:
            NotFiniteError: if anything came to NaN or infinity; the next round must be restored then.
        """
        first = (plan.round - 1) * self.steps(plan)
        steps = range(first, first + self.steps(plan))
        received = self._received(plan)
        self._round = -1  # neither one round nor the other, should training be interrupted
        objective = self._with_terms(terms, prior, steps)
        if plan.lockstep_weight:
            losses = self._step_in_lockstep(plan, first, objective)
            if on_step is not None:
                on_step(first, losses[LOSS])
        else:
            objective = self._held_near(objective, received, plan.proximal_mu) if plan.proximal_mu else objective
            try:
                losses = train(self.network, self.optimiser, self.sources, self.recipe, steps, on_step, objective)
            except DivergedError:  # the contrast met it before the round's end, where all else is looked at
                losses = {LOSS: math.nan}
            else:
                self._contribute(plan, received)
        require_finite(plan.round, losses[LOSS], self._left_by_training())
        if plan.validate:
            norms = measure_gradients(self.network, self.sources, self.recipe, steps.stop, without_memory(objective))
            losses |= {name: norm for name, norm in norms.items() if math.isfinite(norm)}
        self._round = plan.round
        return losses

    def _left_by_training(self) -> dict[str, Tensor]:
        """All that a round's end leaves, and what a contribution is made of."""
        gradients = {f"{name}/gradient": p.grad for name, p in self.network.named_parameters() if p.grad is not None}
        return {**self.network.state_dict(), **gradients, **self._optimiser_state()}

    def _optimiser_state(self) -> dict[str, Tensor]:
        """What the optimiser, and the encoding of updates, go on from."""
        residual = {f"{name}/{RESIDUAL}": tensor for name, tensor in self._residual.items()}
        return optimiser_tensors(self.network, self.optimiser) | residual

    def _received(self, plan: RoundPlan) -> dict[str, Tensor]:
        """What the round began with of all that is shared, where the round's end is held against it."""
        if plan.update_encoding == FLOAT32 and not plan.proximal_mu:
            return {}
        state = self.network.state_dict()
        return {name: state[name].clone() for name in self.partition.shared}

    def _with_terms(self, terms: Terms, prior: PriorTerm | None, steps: range) -> Objective:
        """The objective with what a round adds to it."""
        if terms.contrast is None and prior is None:
            return self.objective
        contrast = None if terms.contrast is None else self.contrast.term(terms.contrast, terms.others, steps)
        return replace(self.objective, contrast=contrast, **({} if self.reconstructs else {"prior": prior}))

    def _held_near(self, objective: Objective, received: Mapping[str, Tensor], mu: float) -> Proximal:
        """The objective with FedProx's term for shared parameters; running statistics among what is shared have no gradient."""
        names = {name for name, _ in self.network.named_parameters()}
        return Proximal(objective, mu, {name: value for name, value in received.items() if name in names})

    def _step_in_lockstep(self, plan: RoundPlan, step: int, objective: Objective) -> dict[str, float]:
        """One step for what is private, with its gradient's weight in Eq. 1; what is shared only gives its gradient."""
        like = next(self.network.parameters())
        self.network.train()
        batch = draw_batch(self.sources, plan.seed, step, plan.share, plan.augment, like.device, like.dtype)
        losses = compute_gradients(self.network, batch, plan.autocast, objective)
        for group in self.optimiser.param_groups:
            for parameter in group["params"]:
                parameter.grad.mul_(plan.lockstep_weight)
        set_learning_rate(self.optimiser, self.recipe.rate(step))
        self.optimiser.step()
        named = dict(self.network.named_parameters())
        self.contribution = Contribution(
            GRADIENT, {name: named[name].grad.cpu().numpy() for name in self.partition.shared}
        )
        return {name: float(value) for name, value in losses.items()}

    def _contribute(self, plan: RoundPlan, received: Mapping[str, Tensor]) -> None:
        """Make the round's contribution, and keep what its encoding loses for the next round's."""
        if plan.update_encoding == FLOAT32:
            self.contribution = Contribution(SHARED, self.shared())
            return
        state = self.network.state_dict()
        update = {}
        for name, before in received.items():
            update[name] = (state[name] - before).cpu()
            if name in self._residual:
                update[name] += self._residual[name]
        arrays = {name: tensor.numpy() for name, tensor in update.items()}
        sent = encode_update(arrays, plan.update_encoding)
        if plan.update_encoding == INT8:
            lost = what_was_lost(arrays, sent, plan.update_encoding)
            self._residual = {name: torch.from_numpy(array) for name, array in lost.items()}
        self.contribution = Contribution(UPDATE, sent)

    def prototypes(self, plan: RoundPlan, terms: Terms, policy: PrototypePolicy) -> dict[str, np.ndarray] | None:
        """After training: what the site may send of its embeddings; None without a contrast, or where its policy allows none."""
        if terms.contrast is None:
            return None
        return self.contrast.prototypes(self.network, terms.contrast, plan.round, self.steps(plan), policy)

    def remember(self, plan: RoundPlan, state: SiteState) -> None:
        """Save the round's private state and which exams it was trained on, and forget what no later visit can ask for.

        A server whose last checkpoint is damaged goes on from the one before, and asks for the round after it once more, while
        this site is a round further on: it goes back by two.
        """
        goes_on = self._optimiser_state()
        goes_on |= {_EMBEDDINGS + name: tensor for name, tensor in self.contrast.tensors().items()}
        state.note_exams(plan.run, self.data.exam_record())
        state.save(plan.run, plan.round, self._private(), goes_on)
        begun = {self._began_from, state.before(plan.run, self._began_from)}
        state.forget(plan.run, {plan.round, *begun}, plan.best_round)

    def disown(self, round_: int) -> None:
        """Go on from what is remembered of an earlier round, where this one's end is still in hand."""
        if self._round == round_:
            self._round = -1

    def shared(self) -> dict[str, np.ndarray]:
        """The shared parameters as they are now; views of the network's own on the CPU."""
        return take(self.network, self.partition.shared)

    def become(self, plan: RoundPlan, shared: Mapping[str, np.ndarray], state: SiteState) -> None:
        """Put the network into the state at the end of ``plan.round``: shared as given, private as remembered.

        A site that missed that round uses what it remembers of the last one before it.

        Raises:
            MissingStateError: if it remembers none.
        """
        self.receive(shared)
        if self._round != plan.round and self.partition.private:
            private = state.private_upto(plan.run, plan.round)
            if private is None:
                raise MissingStateError(
                    f"{self.data.site} has no private parameters of round {plan.round} or before it."
                )
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
