"""One site at work: its data, its memory, its door out, and what it does at each visit of the coordinator."""

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from mtmd_core.data.dataset import load_dataset
from mtmd_core.data.identity import differences
from mtmd_core.data.site_data import SiteData, forget_cuts, load_site
from mtmd_core.data.validation import check_dataset
from mtmd_core.devices import be_deterministic, choose_device, limit_threads, memory_of
from mtmd_core.durable import remove_leftovers, write_json
from mtmd_core.errors import ConfigurationError, DataError
from mtmd_core.evaluation import SiteScores
from mtmd_core.minimum import Minimum
from mtmd_core.models import save_model
from mtmd_core.objectives import PriorTerm
from mtmd_core.page.best_effort import best_effort
from mtmd_core.page.exams import describe
from mtmd_core.refusals import BAD_TRAINING
from mtmd_core.strategies import FEDERATED_STRATEGIES
from mtmd_core.training import OnStep
from mtmd_core.wire import Notice, Receipt, RoundPlan, SiteFacts, Terms, to_record

from .contrast import PrototypePolicy
from .learner import Learner
from .ledger import Ledger
from .limits import Limits, check_plan, check_terms
from .outbox import Outbox
from .prior import SitePrior
from .privacy import PrivacyBudget
from .report import note_round, similarity_within, write_report
from .settings import SiteSettings
from .site_state import DiskState, SiteState

log = logging.getLogger(__name__)

Metrics = dict[str, float]


NO_TERMS = Terms()
LAST_PLAN = "last_plan.json"
"""Where a site keeps what it was last asked to train, in its own folder."""
KEPT_CUTS = 4
"""Of how many slice sizes and axes a site keeps its exams cut, so that what a coordinator asks for cannot fill its disk."""


@dataclass
class Site:
    """A site during the life of its process.

    Args:
        name: of the site.
        structures: how many structures its exams have.
        load_data: reads the exams for a slice size and a slice axis.
        state: its memory.
        outbox: its door out.
        device: where it trains.
        results: folder for the site's own summary and model; None keeps them in memory alone.
        limits: what a plan may ask for.
        strategies: those that the site takes part in; they decide what is shared.
        policy: what it asks of the prototypes that it sends.
        lockstep: whether it takes part in lock-step, in which gradients of single batches leave it: a simulation's sites alone.
        on_step: called after each training step.
        on_progress: called before the first training step of a visit and after each, with the steps done and all of them.
        on_notice: called with what the coordinator says of a reply that it left out.
        last_plan: file in which the plan of the last TRAIN visit is kept; None keeps it nowhere.

    ``exit_code`` is set once the coordinator has said farewell; ``tested`` and ``summary`` once the test exams were scored.
    """

    name: str
    structures: int
    load_data: Callable[[int, str], SiteData]
    state: SiteState
    outbox: Outbox
    device: torch.device
    results: Path | None = None
    limits: Limits = field(default_factory=Limits)
    strategies: tuple[str, ...] = FEDERATED_STRATEGIES
    policy: PrototypePolicy = field(default_factory=PrototypePolicy)
    lockstep: bool = False
    on_step: OnStep | None = None
    on_progress: Callable[[int, int], None] = lambda done, steps: None
    on_notice: Callable[[Notice], None] = lambda notice: None
    last_plan: Path | None = None
    exit_code: int | None = None
    summary: dict | None = None
    tested: SiteScores | None = None
    learner: Learner | None = None
    _asked: RoundPlan | None = None
    _prior: SitePrior | None = None

    def facts(self) -> SiteFacts:
        """What the site says of itself at roll call."""
        return SiteFacts(self.name, self.structures)

    def train(
        self, plan: RoundPlan, shared: dict[str, np.ndarray], terms: Terms = NO_TERMS
    ) -> tuple[Receipt, Metrics, dict[str, np.ndarray] | None]:
        """A TRAIN visit: measure the model that came, then train it; ``learner.contribution`` then holds the result.

        Returns:
            Receipt, metrics, and the site's prototypes if the plan asks for some and there are enough exams and slices.
        """
        self.check_limits(plan, terms)
        be_deterministic(plan.deterministic)
        prior = self._prior_term(plan, terms)
        learner = self._learner_for(plan)
        self.limits.require("max_local_steps", learner.steps(plan), "local steps")
        self.limits.require_slices(plan, learner.steps(plan), min(plan.share, learner.slices))
        if self.last_plan is not None:
            contrast = None if terms.contrast is None else to_record(terms.contrast)
            write_json(self.last_plan, {"plan": to_record(plan), "contrast": contrast})
        learner.restore(plan, self.state)
        learner.receive(shared)
        metrics = self._validate(learner, plan) if plan.validate and plan.round > 1 else {}
        started = time.perf_counter()
        metrics |= learner.train(plan, terms, prior, self._counted(learner.steps(plan)))
        metrics |= {"seconds_training": time.perf_counter() - started, "steps": learner.steps(plan)}
        if plan.tell_slices:
            metrics["training_slices"] = learner.slices
        prototypes = learner.prototypes(plan, terms, self.policy)
        if self.results is not None:
            with best_effort("the round's line on the site's page"):
                note_round(self.results, plan, self.name, metrics | similarity_within(plan, prototypes))
        learner.remember(plan, self.state)
        return self._receipt(plan), metrics, prototypes

    def part(self, exit_code: int) -> None:
        """The coordinator's farewell; 0: the run is done, and no round of it will come."""
        if exit_code == 0 and self._asked is not None:
            self.state.finish(self._asked.run)
        self.exit_code = exit_code

    def heed(self, notice: Notice) -> None:
        """What the coordinator says of a reply that it left out; state that training spoilt is not gone on from.

        A notice comes again until a later reply is used, and changes nothing then.
        """
        self.on_notice(notice)
        if notice.reason not in BAD_TRAINING:
            return
        log.warning(
            "the coordinator could not use the update of round %d (%s): the next round goes on from the one before",
            notice.round, notice.reason,
        )  # fmt: skip
        self.state.drop(notice.run, notice.round)
        if self._asked is not None and self._asked.run == notice.run:
            self.learner.disown(notice.round)

    def _counted(self, steps: int) -> OnStep:
        """Called after each step of a visit: counts them, and sees that they do not take too long."""
        count, look = itertools.count(1), self.limits.watch(steps)
        self.on_progress(0, steps)

        def on_step(step: int, loss: float) -> None:
            done = next(count)
            self.on_progress(done, steps)
            look(done)
            if self.on_step is not None:
                self.on_step(step, loss)

        return on_step

    def evaluate(self, plan: RoundPlan, shared: dict[str, np.ndarray]) -> tuple[Receipt, Metrics]:
        """An EVALUATE visit: the model of ``plan.round`` on the validation exam or, if the plan says so, the test exam."""
        self.check_limits(plan)
        be_deterministic(plan.deterministic)
        learner = self._learner_for(plan)
        learner.become(plan, shared, self.state)
        if not plan.test:
            return self._receipt(plan), self._validate(learner, plan)
        scores = learner.evaluate(plan, learner.split.test)
        self.tested = scores
        self.summary = scores.summary | {"round": plan.round, "split": learner.split.as_dict()}
        if (privacy := self.policy.budget.facts()) is not None:
            self.summary["privacy"] = privacy
        if self.results is not None:
            save_model(self.results / "model.safetensors", learner.network, learner.card)
            write_json(self.results / "summary.json", self.summary)
            write_json(self.results / "slice_scores.json", scores.slices)
            ledger = self.outbox.ledger.path if self.outbox.ledger is not None else None
            with best_effort("the site's page"):
                data = describe(learner.data, learner.split)
                write_report(self.results, plan, self.name, self.summary, data, ledger)
        return self._receipt(plan), scores.metrics("test")

    def _validate(self, learner: Learner, plan: RoundPlan) -> Metrics:
        started = time.perf_counter()
        metrics = learner.evaluate(plan, learner.split.validation).metrics("validation")
        return metrics | {"seconds_evaluation": time.perf_counter() - started}

    def _learner_for(self, plan: RoundPlan) -> Learner:
        """The learner that the last visit left, as long as what is asked differs in the words of a visit alone."""
        asked = replace(plan, round=0, best_round=0, validate=False, test=False)
        if self.learner is None or self._asked != asked:
            self.learner = Learner(plan, self._exams_of(plan.run, plan), self.device)
            self._asked = asked
        return self.learner

    def _prior_term(self, plan: RoundPlan, terms: Terms) -> PriorTerm | None:
        if terms.prior is None:
            return None
        if self._prior is None:
            self._prior = SitePrior(self.state, self.device)
        run = terms.prior.run
        return self._prior.term(plan, terms.prior, terms.prior_shared, lambda: self._exams_of(run, plan))

    def _exams_of(self, run: str, plan: RoundPlan) -> SiteData:
        """The site's exams, cut as a plan says.

        Raises:
            DataError: if they are not those that the run was begun with here.
        """
        data, begun = self.load_data(plan.slice_size, plan.slice_axis), self.state.exams(run)
        changed = differences(begun, data.exam_record()) if begun is not None else ""
        if changed:
            raise DataError(
                f"{self.name} did not begin run {run} with these exams: {changed}. Which exam tests and which ones train depends "
                "on all of them: put them back as they were, and new ones aside, until the run has ended."
            )
        return data

    def check_limits(self, plan: RoundPlan, terms: Terms = NO_TERMS) -> None:
        """Refuse a plan that asks for more than the site's own settings allow.

        Raises:
            RefusedPlanError: naming what was asked, what is allowed and the setting that says so.
            ConfigurationError: if it asks for noise whose cost could not be counted here.
        """
        check_plan(plan, self.strategies, self.lockstep)
        check_terms(plan, terms)
        if terms.contrast is not None:
            self.policy.budget.require_accountant(terms.contrast.noise_multiplier)
        self.limits.check(plan, terms, self.structures + 1)

    def _receipt(self, plan: RoundPlan) -> Receipt:
        return Receipt(plan.run, plan.round, self.name)


def open_site(settings: SiteSettings) -> Site:
    """The site that a settings file describes, with its memory and results in its own folder.

    Raises:
        ConfigurationError: if no data folder is set, or the device is not there.
        DataError: if the data folder cannot be used.
    """
    if settings.data is None:
        raise ConfigurationError(
            f"no data folder is set for {settings.site}: give --data DIR once, or add 'data:' to "
            f"{settings.state / 'site.yaml'}."
        )
    folder = settings.data
    limit_threads(settings.threads)
    remove_leftovers(settings.state / "rounds")
    report = check_dataset(folder)
    if not report.is_usable:
        wrong = [problem for problem in report.problems if not problem.warning]
        raise DataError(
            f"{wrong[0]} ({len(wrong)} problem(s) in all: mtmd-client check --site {settings.site} shows them)"
        )
    minimum, device = Minimum(settings.minimum_exams, settings.minimum_slices), choose_device(settings.device)
    return Site(
        name=settings.site,
        structures=len(load_dataset(folder).structures),
        load_data=lambda size, axis: _load_cut(settings.site, folder, size, axis, settings.state / "cache"),
        state=DiskState(settings.state / "rounds"),
        outbox=Outbox(settings.release, Ledger(settings.state / "ledger.jsonl"), minimum),
        device=device,
        results=settings.state / "results",
        limits=Limits(settings.limits, memory_of(device)),
        policy=PrototypePolicy(minimum, settings.slices_per_exam, _budget(settings)),
        strategies=settings.strategies,
        last_plan=settings.state / LAST_PLAN,
    )


def _load_cut(site: str, folder: Path, slice_size: int, slice_axis: str, cache: Path) -> SiteData:
    data = load_site(site, folder, slice_size, slice_axis, cache)
    forget_cuts(cache, KEPT_CUTS * len(data.exams))
    return data


def _budget(settings: SiteSettings) -> PrivacyBudget:
    path = settings.state / "privacy.json"
    return PrivacyBudget(settings.noise_multiplier, settings.delta, settings.max_epsilon, path)
