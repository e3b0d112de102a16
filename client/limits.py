"""What a site refuses to do, whoever asks: every word and number of a plan is held against the site's own settings."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mtmd_core.config import (
    AUTOENCODER,
    DECAYS,
    DTYPES,
    IMAGENET,
    NO_WEIGHTS,
    OPTIMISERS,
    UPDATE_ENCODINGS,
    NetworkConfig,
)
from mtmd_core.errors import ConfigurationError, SiteError
from mtmd_core.networks.build import count_parameters
from mtmd_core.networks.memory import training_bytes
from mtmd_core.quantities import say_duration
from mtmd_core.round_slices import Rounds
from mtmd_core.strategies import Contrast, Sharing, strategy_named
from mtmd_core.wire import ContrastPlan, PriorPlan, RoundPlan, Terms

from .prior import autoencoder_plan

MEGABYTE = 1_000_000
TELLING_FRACTION = 0.1
"""Of a round's time: a pace is measured that long before a round is refused for it, so that a moment's delay refuses none."""

_CHOICES = {
    "optimiser": OPTIMISERS,
    "learning_rate_decay": DECAYS,
    "dtype": DTYPES,
    "update_encoding": UPDATE_ENCODINGS,
}
"""Words of a plan → what a site knows."""


class RefusedPlanError(ConfigurationError):
    """The coordinator asked for more than this site's own limits allow."""

    site_error = SiteError.PLAN_REFUSED


@dataclass(frozen=True)
class Limits:
    """What a plan may ask for at most, and of how many slices a round's update must be made at least.

    Args:
        values: limit → value, as in ``configs/client.yaml``; None, and what is left out, is no limit.
        memory: bytes that the site's device has, the limit where ``max_memory_mb`` names none; None is no limit.
        clock: seconds.
    """

    values: Mapping[str, float | None] = field(default_factory=dict)
    memory: int | None = None
    clock: Callable[[], float] = time.monotonic

    def check(self, plan: RoundPlan, terms: Terms, classes: int) -> None:
        """Refuse what takes too many steps, too large a network, batch or slices, or too much memory, and what tells too much.

        Rounds that are counted in epochs take :meth:`require_slices` once the site's slices are known.

        Args:
            plan: of a visit.
            terms: what comes with it.
            classes: of the site's label maps, background included.

        Raises:
            RefusedPlanError: naming what was asked, what is allowed and the setting.
        """
        plans = [plan] if terms.prior is None else [plan, autoencoder_plan(plan, terms.prior)]
        for each in plans:
            self.require("max_local_steps", each.local_steps, "local steps")
            self.require("max_local_steps", each.calibration_batches, "calibration batches")
            self.require("max_batch_size", each.share, "slices in a batch")
            self.require("max_slice_size", each.slice_size, "pixels along a slice's side")
            self.require("max_parameters", count_parameters(NetworkConfig(each.network, each.width)), "parameters")
        self.require("max_sites", 1 + len(terms.others), "sites' prototypes")
        self.require("max_learning_rate", plan.learning_rate, "as learning rate")
        self.require("max_proximal_mu", plan.proximal_mu, "as proximal_mu")
        if not plan.local_epochs:
            self.require_slices(plan, plan.local_steps, plan.share)
        most = self.values.get("max_memory_mb")
        allowed = self.memory if most is None else most * MEGABYTE
        if allowed is not None:
            self._require_memory(sum(_bytes(each, plan.share, classes) for each in plans), allowed)

    def require(self, limit: str, asked: float, what: str) -> None:
        """Refuse more than a limit; ``what`` names the things that are counted, or what a number is.

        Raises:
            RefusedPlanError: naming it.
        """
        most = self.values.get(limit)
        if most is not None and asked > most:
            raise RefusedPlanError(
                f"the plan asks for {asked} {what}, but this site's {limit} is {most}: raise limits.{limit} in site.yaml "
                "(read at its next start) if so "
                "much may be asked, or have the coordinator ask for less"
            )

    def require_slices(self, plan: RoundPlan, steps: int, batch: int) -> None:
        """Refuse a round if its update, or the last round's, would be made of fewer slices than ``min_round_slices``.

        Args:
            plan: of the round.
            steps: that it takes.
            batch: slices that a step trains on.

        Raises:
            RefusedPlanError: naming both numbers and what they come from.
        """
        least = self.values.get("min_round_slices")
        if least is None or strategy_named(plan.strategy).sharing is Sharing.NOTHING:
            return
        rounds = Rounds(plan.rounds, plan.learning_rate, plan.learning_rate_decay, plan.proximal_mu)
        behind, round_ = rounds.fewest_behind(plan.round, steps, batch)
        if behind < least:
            raise RefusedPlanError(
                f"the update of round {round_} would be made of {behind:.4g} slices ({steps} steps of {batch}, each as far as "
                f"learning_rate {plan.learning_rate:g}, learning_rate_decay {plan.learning_rate_decay} and "
                f"proximal_mu {plan.proximal_mu:g} let it count), but this site's min_round_slices is {least}, for images can "
                "be inferred from an update of few: have the coordinator ask for more local steps or larger batches, or lower "
                "limits.min_round_slices in site.yaml (read at its next start) if an update of so few may leave"
            )

    def watch(self, steps: int) -> Callable[[int], None]:
        """A function to be called after each step of a round with the number of those done.

        It raises RefusedPlanError as soon as ``max_round_seconds`` are over, or the pace so far says that they will not do.
        """
        most, began = self.values.get("max_round_seconds"), self.clock()

        def look(done: int) -> None:
            gone = self.clock() - began
            if most is None or gone < TELLING_FRACTION * most or gone * steps / done <= most:
                return
            raise RefusedPlanError(
                f"the plan asks for {steps} steps, of which {done} took {say_duration(gone)}: all would take about "
                f"{say_duration(gone * steps / done)}, but this site's max_round_seconds is {most}: raise "
                "limits.max_round_seconds in site.yaml "
                "(read at its next start) if a round may take so long, or have the coordinator ask for fewer steps"
            )

        return look

    def _require_memory(self, asked: int, allowed: int) -> None:
        if asked <= allowed:
            return
        owner = "this site's device has" if self.values.get("max_memory_mb") is None else "this site's max_memory_mb is"
        raise RefusedPlanError(
            f"the plan's network, batch and slice size take about {asked // MEGABYTE} MB of memory to train, but {owner} "
            f"{allowed // MEGABYTE}: raise limits.max_memory_mb in site.yaml "
            "(read at its next start) if there is more, or have the coordinator ask for "
            "smaller batches, slices or networks"
        )


def check_plan(plan: RoundPlan, strategies: tuple[str, ...], lockstep: bool) -> None:
    """Refuse what no site knows, and what this one takes no part in.

    Raises:
        RefusedPlanError: naming what was asked and what is possible.
    """
    if plan.strategy not in strategies:
        raise RefusedPlanError(
            f"the plan's strategy is '{plan.strategy}', but this site takes part in {', '.join(strategies)}: "
            "add it to 'strategies' in site.yaml (read at its next start) if all that it shares may leave"
        )
    if plan.encoder_weights not in (NO_WEIGHTS, IMAGENET):
        raise RefusedPlanError(
            f"the plan's encoder_weights is '{plan.encoder_weights}'; a site takes {IMAGENET} or {NO_WEIGHTS} alone"
        )
    for word, known in _CHOICES.items():
        if getattr(plan, word) not in known:
            raise RefusedPlanError(f"the plan's {word} is '{getattr(plan, word)}'; a site knows {', '.join(known)}")
    _check_numbers(plan, ("round", "local_steps", "share", "slice_size", "width"), least=1)
    _check_numbers(plan, ("fold", "calibration_batches", "best_round", "rounds", "label_offset", "label_classes"))
    _check_numbers(plan, ("local_epochs", "proximal_mu", "lockstep_weight", "learning_rate"))
    if plan.learning_rate_decay != DECAYS[0] and plan.round > plan.rounds:
        raise RefusedPlanError(
            f"the plan's learning_rate_decay is '{plan.learning_rate_decay}' over {plan.rounds} rounds, and this is round "
            f"{plan.round}"
        )
    if plan.lockstep_weight > 1:
        raise RefusedPlanError(
            f"the plan's lockstep_weight is {plan.lockstep_weight}; it is a site's share of all, at most 1"
        )
    if plan.lockstep_weight and not lockstep:
        raise RefusedPlanError(
            "the plan asks for lock-step, in which gradients of single batches leave a site; images can be inferred from "
            "them, so it is for simulations"
        )
    if plan.lockstep_weight and plan.local_steps != 1:
        raise RefusedPlanError(f"the plan's local_steps is {plan.local_steps}; lock-step takes one step a round")


def check_terms(plan: RoundPlan, terms: Terms) -> None:
    """A strategy that the site takes part in says which terms there are, and so what of its data they may touch.

    Raises:
        RefusedPlanError: for a term that the strategy has none of, or a number in one that makes no sense.
    """
    strategy = strategy_named(plan.strategy)
    reconstructs = plan.network == AUTOENCODER
    contrast = strategy.autoencoder_contrast if reconstructs else strategy.contrast
    for name, asked, fits in (
        ("contrast", terms.contrast is not None, contrast is not Contrast.NONE),
        ("prior", terms.prior is not None, strategy.prior and not reconstructs),
        ("auto-encoder", reconstructs, strategy.prior or not reconstructs),
    ):
        if asked and not fits:
            raise RefusedPlanError(f"the plan brings a term '{name}', which strategy '{plan.strategy}' has none of")
    if terms.contrast is not None:
        _check_numbers(terms.contrast, ("weight", "noise_multiplier", "slices_per_exam", "full_pass_steps"))
        if not 0 < terms.contrast.temperature < math.inf:
            raise RefusedPlanError(f"the plan's temperature is {terms.contrast.temperature}; it must be above 0")
    if terms.prior is not None:
        _check_numbers(terms.prior, ("round", "width", "share"), least=1)
        _check_numbers(terms.prior, ("weight",))


def _check_numbers(plan: RoundPlan | ContrastPlan | PriorPlan, words: tuple[str, ...], least: int = 0) -> None:
    for word in words:
        if not least <= getattr(plan, word) < math.inf:  # NaN is not, either
            raise RefusedPlanError(
                f"the plan's {word} is {getattr(plan, word)}; it must be a finite number of at least {least}"
            )


def _bytes(plan: RoundPlan, batch: int, classes: int) -> int:
    """Memory for the steps of a visit; an auto-encoder that serves as a prior reads the batch of the segmentation."""
    try:
        return training_bytes(
            plan.network, plan.width, max(classes, plan.label_classes), batch, plan.slice_size, plan.dtype
        )
    except ValueError as error:
        raise RefusedPlanError(f"the plan's slice_size is {plan.slice_size}: {error}") from None
