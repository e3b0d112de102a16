"""The federated algorithm as a Flower strategy: who is asked for what, and what becomes of the replies."""

from collections.abc import Callable, Collection, Iterable, Mapping
from logging import getLogger

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from mtmd_core.errors import RunFailedError
from mtmd_core.refusals import Reason
from mtmd_core.strategies import Sharing
from mtmd_core.wire import EVALUATE, NOTICE, TRAIN, to_record

from .aggregation import average
from .attendance import Attendance
from .checkpoints import Arrays, Checkpoint
from .fleet import Fleet
from .gate import TRAINING_SLICES, Refusal, Reply, Visit, admit
from .model_choice import VALIDATION_DICE, ModelChoice
from .plans import Plans, pack
from .prototype_shelf import PrototypeShelf
from .run_store import RunStore
from .server_optimiser import build_server_optimiser
from .update_norms import RecentNorms

log = getLogger(__name__)

Metrics = Mapping[str, Mapping[str, float]]
"""Site → metric → value."""
OnRound = Callable[[int, Metrics], None]
"""Called after each round with its number and what the sites released."""


class DomainStrategy(Strategy):
    """Federated averaging of what one of the paper's strategies shares, every site weighing alike (Eq. 1's 1/K) or by its
    slices, and the server's optimiser on the average.

    Flower's own ``start`` calls ``configure_train`` and ``aggregate_train`` once a round; the received model is evaluated
    in the same visit. Flower counts rounds from 1 at each start, this class goes on from the last finished one.

    Args:
        plans: what each site is asked.
        store: of the run; a run that stopped goes on from its last checkpoint.
        fleet: the sites.
        on_round: called after each round.
    """

    def __init__(self, plans: Plans, store: RunStore, fleet: Fleet, on_round: OnRound = lambda *_: None) -> None:
        self.plans = plans
        self.store = store
        self.fleet = fleet
        self.on_round = on_round
        self.rounds = plans.phase.rounds
        self.timeout = plans.config.federation.round_timeout_seconds
        self.standing = store.standing
        self.attendance = Attendance(plans.sites, plans.config.federation.quorum, store.standing, fleet)
        self.norms = RecentNorms(plans.config.federation.outlying_norm_factor, plans.contribution)
        self._by_slices = plans.config.federation.site_weights == "slices"
        self.choice = ModelChoice(apart=plans.sharing is Sharing.NOTHING)
        self.shared: Arrays = plans.initial
        self.best: Arrays = plans.initial
        self.optimiser = build_server_optimiser(
            plans.config, plans.initial, plans.statistics, plans.phase.learning_rate
        )
        self.finished = 0
        self.shelf: PrototypeShelf | None = None
        self._holders: set[str] = set()  # of the auto-encoder, as far as is known
        self._brought: dict[str, int] = {}  # bytes of prototypes and auto-encoder to each site in this round
        self._training: list[str] = []  # who trains in this round
        self._measuring: list[str] = []  # who measures what the last round ended with and does not train in this one
        self._trained: set[str] = set()  # who has private parameters of this phase
        self._resume()
        self._first = self.finished

    def summary(self) -> None:
        """Flower asks for a line on the strategy."""
        names = ", ".join(self.plans.sites)
        log.info("%s over %s", self.plans.config.strategy, names)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Fleet
    ) -> list[Message]:
        """One message a site: the plan of the round and the shared parameters.

        A site that does not train in this round measures the received model all the same when that is due, for a mean over
        some sites cannot be compared with a mean over others.
        """
        round_ = self._first + server_round
        self._readmit(round_)
        present, due = self.attendance.present(), self._is_due(round_)
        training = self._training = self.plans.training_sites(round_, present)
        self._measuring = [site for site in present if due and site in self._trained and site not in training]
        part = self.plans.phase.part
        message = f"{part + ', ' if part else ''}round {round_} of {self.rounds}"
        self.store.progress(part or "training", self.finished, message, training)
        self._brought = {}
        # Before its first training a site has no private parameters that a score could be of; the beginning's is for pages alone.
        able = [site for site in training if round_ == 1 or site in self._trained]
        messages = self._messages(TRAIN, dict.fromkeys(able, round_), arrays, validate=due)
        others = [site for site in training if site not in able]
        messages += self._messages(TRAIN, dict.fromkeys(others, round_), arrays, validate=False)
        return messages + self._messages(EVALUATE, dict.fromkeys(self._measuring, round_ - 1), arrays, validate=True)

    def _is_due(self, round_: int) -> bool:
        """Whether the model that a round begins with is to be measured."""
        return (round_ - 1) % self.plans.config.federation.validate_every_rounds == 0

    def _readmit(self, round_: int) -> None:
        for site in self.standing.readmit(self.fleet.sites):
            self.store.note("readmitted", round=round_, site=site)
            log.info("%s takes part again from round %d on", site, round_)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord, MetricRecord]:
        """Admit each reply by itself, average in the order of site names, let the optimiser step, save, tell."""
        round_ = self._first + server_round
        training, replies = self._training, list(replies)
        measuring = dict.fromkeys(self._measuring, round_ - 1)
        admitted = self._admit(self._from(training, replies), dict.fromkeys(training, round_), TRAIN)
        mean = self._average(admitted)
        self._note_terms(round_, training, admitted)
        admitted += self._admit(self._from(measuring, replies), measuring, EVALUATE, quorum=0)
        admitted.sort(key=lambda reply: reply.site)
        metrics = {reply.site: reply.metrics for reply in admitted}
        self._note_validation(round_ - 1, metrics)
        if self.plans.expected:
            rate = self.plans.phase.rate_in_lockstep(round_) if self.plans.config.federation.lockstep else None
            self.shared = self.optimiser.step(self.shared, mean, self.plans.contribution, rate)
        self.finished = round_
        self._record(admitted)
        self.on_round(round_, metrics)
        losses = [values["loss"] for values in metrics.values() if "loss" in values]
        return pack(self.shared), MetricRecord({"loss": sum(losses) / len(losses)} if losses else {})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Fleet
    ) -> list[Message]:
        """Nobody is asked: sites evaluate what they receive when they train."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        """Nobody was asked."""

    def conclude(self) -> tuple[Metrics, Checkpoint]:
        """After the last round: choose the best one and test it at every site.

        Returns:
            What the sites released of their test scores, and the chosen parameters.
        """
        chosen, checkpoint = self.choose()
        self.store.progress("evaluation", self.finished, f"testing round {checkpoint.round}", self.plans.sites)
        return self._evaluate(chosen, checkpoint.shared, test=True), checkpoint

    def choose(self) -> tuple[dict[str, int], Checkpoint]:
        """After the last round: measure its model too and choose the best round.

        Returns:
            Each site's round, and the shared parameters of the chosen one.
        """
        sites, last = self.attendance.present(), self.finished
        self.store.progress("evaluation", last, "validating the last round", sites)
        self._note_validation(last, self._evaluate(dict.fromkeys(sites, last), self.shared, validate=True))
        if (missed := self.choice.overlooked) is not None:
            log.warning(
                "the chosen round is %d, although round %d was no worse at the sites that measured it (%s): a round that more "
                "sites measured comes first. Revoke a site that stays away, and rounds are compared without it from then on",
                self.choice.best_round(sites[0]),
                missed.round,
                ", ".join(missed.sites),
            )
        chosen = {site: self.choice.best_round(site) or last for site in sites}
        shared = self.shared if chosen == dict.fromkeys(sites, last) else self.best
        return chosen, Checkpoint(max(chosen.values()), shared)

    def _note_terms(self, round_: int, training: Collection[str], admitted: list[Reply]) -> None:
        """Who of the sites that trained certainly holds the auto-encoder now, whose prototypes came, and how long updates are."""
        self._trained |= {reply.site for reply in admitted}
        self.norms.add([reply.norm for reply in admitted if self.plans.expected])
        self._holders = self._holders.difference(training) | {reply.site for reply in admitted}
        for reply in admitted:
            if reply.prototypes is not None:
                self.shelf.put(reply.site, round_, reply.prototypes)
            elif reply.prototype_refusal is not None:
                log.warning("the prototypes of %s are left out: %s", reply.site, reply.prototype_refusal)
                self.store.note("prototypes_left_out", round=round_, site=reply.site, detail=reply.prototype_refusal)

    def _average(self, admitted: list[Reply]) -> Arrays:
        """What the replies bring, averaged with the configured weights."""
        if not self.plans.expected:
            return {}
        weights = [float(reply.metrics[TRAINING_SLICES]) if self._by_slices else 1.0 for reply in admitted]
        return average([reply.shared for reply in admitted], weights)

    def _evaluate(self, rounds: Mapping[str, int], shared: Arrays, **purpose: bool) -> Metrics:
        messages = self._messages(EVALUATE, rounds, pack(shared), **purpose)
        replies = self._admit(self.fleet.send_and_receive(messages, timeout=self.timeout), rounds, EVALUATE)
        return {reply.site: reply.metrics for reply in replies}

    def _messages(self, kind: str, rounds: Mapping[str, int], shared: ArrayRecord, **purpose: bool) -> list[Message]:
        messages = []
        for site, round_ in rounds.items():
            content = self.plans.content(site, round_, shared, self.choice.best_round(site), **purpose)
            if kind == TRAIN:
                self._add_terms(content, site, round_)
            if (notice := self.standing.notice(site)) is not None:
                content[NOTICE] = ConfigRecord(to_record(notice))
            messages.append(Message(content, self.fleet.node_of(site), kind, ttl=self.timeout, group_id=str(round_)))
        return messages

    def _add_terms(self, content: RecordDict, site: str, round_: int) -> None:
        others = [] if self.shelf is None else self.shelf.others(site, round_)
        terms = self.plans.terms(others, with_prior=site not in self._holders)
        self._brought[site] = sum(len(a.data) for record in terms.array_records.values() for a in record.values())
        for name, record in terms.items():
            content[name] = record

    def _admit(
        self, replies: Iterable[Message], rounds: Mapping[str, int], kind: str, quorum: int | None = None
    ) -> list[Reply]:
        """The replies that are fit to use; ``quorum``: how many are needed, if not as many as the plans say."""
        revoked = self.fleet.revoked(rounds)
        silence = {site: "it was revoked" if site in revoked else "no reply in time" for site in rounds}
        verdicts = {site: Refusal(site, Reason.NO_REPLY, detail) for site, detail in silence.items()}
        longest = self.norms.limit()
        for message in replies:
            site = self.fleet.site_of(message.metadata.src_node_id)
            verdicts[site] = admit(message, site, self._visit(kind, rounds[site], longest))
        admitted = [verdict for verdict in verdicts.values() if isinstance(verdict, Reply)]
        refused = [verdict for verdict in verdicts.values() if isinstance(verdict, Refusal)]
        for refusal in refused:
            self._note_refusal(refusal, rounds[refusal.site], counts=kind == TRAIN)
        if kind == TRAIN:
            self.standing.admitted({reply.site for reply in admitted})
        quorum = self.plans.quorum(len(rounds)) if quorum is None else quorum
        if len(admitted) < quorum:
            reasons = "; ".join(f"{refusal.site}: {refusal.detail}" for refusal in refused)
            raise RunFailedError(f"only {len(admitted)} replies could be used, the quorum is {quorum} ({reasons}).")
        return admitted

    def _visit(self, kind: str, round_: int, longest: float) -> Visit:
        plans = self.plans
        if kind != TRAIN:
            return Visit(plans.run, round_, None)
        return Visit(
            run=plans.run,
            round=round_,
            expected=plans.expected,
            record=plans.contribution,
            encoding=plans.config.federation.update_encoding,
            tells_slices=self._by_slices,
            shelf=self.shelf,
            before=self.shared,
            statistics=plans.statistics,
            longest=longest,
        )

    def _note_refusal(self, refusal: Refusal, round_: int, counts: bool) -> None:
        """Say it, and tell the site; a site whose replies to TRAIN were refused too often in a row is set aside."""
        site, reason, detail = refusal.site, refusal.reason, refusal.detail
        log.warning("the reply of %s is left out: %s", site, detail)
        self.store.note("refused", round=round_, site=site, reason=reason, detail=detail)
        if not counts or reason is Reason.NO_REPLY:
            return
        if self.standing.refused(site, self.plans.run, round_, reason, detail):
            log.warning("%s is set aside until it is readmitted", site)
            self.store.note("set_aside", round=round_, site=site, reason=reason)
            self.fleet.notify(site, self.standing.notice(site))

    def _from(self, sites: Collection[str], replies: Iterable[Message]) -> list[Message]:
        return [reply for reply in replies if self.fleet.site_of(reply.metadata.src_node_id) in sites]

    def _note_validation(self, round_: int, metrics: Metrics) -> None:
        """The sites measured what ``round_`` ended with, which is what ``shared`` still holds.

        While a site is revoked or set aside, what came after is compared with what came before over the others.
        """
        self._leave_out()
        if self.choice.note(round_, metrics):
            self.best = self.shared
            self.store.save_best(round_, self.shared, self.choice.state())

    def _leave_out(self) -> None:
        self.choice.left_out = {*self.standing.set_aside(), *self.fleet.revoked(self.plans.sites)}

    def _record(self, replies: list[Reply]) -> None:
        sent = sum(array.nbytes for array in self.shared.values())
        self.store.append_metrics(
            [
                {
                    **reply.metrics,
                    **({"validated_round": self.finished - 1} if VALIDATION_DICE in reply.metrics else {}),
                    "round": self.finished,
                    "site": reply.site,
                    "bytes_to_site": sent + self._brought.get(reply.site, 0),
                    "bytes_from_site": reply.bytes,
                    **({"update_norm": reply.norm} if reply.site in self._training and self.plans.expected else {}),
                    **({} if self.shelf is None else {"prototype_bytes_from_site": reply.prototype_bytes}),
                }
                for reply in replies
            ]
        )
        prototypes = {} if self.shelf is None else self.shelf.shelved
        self.store.save_last(self.finished, self.shared, self.optimiser.state(), prototypes)
        self.store.note("round_closed", round=self.finished, rounds=self.rounds, replies=len(replies))
        log.info("round %d of %d is closed", self.finished, self.rounds)

    def _resume(self) -> None:
        last, best = self.store.last(), self.store.best()
        phase, age = self.plans.phase, self.plans.config.prototypes.maximum_age_rounds
        if phase.contrast is not None:
            self.shelf = PrototypeShelf(phase.network, phase.contrast, age, last.prototypes if last else {})
        self.store.note("started" if last is None else "resumed", round=last.round if last else 0, rounds=self.rounds)
        if last is None:
            return
        self.finished, self.shared = last.round, last.shared
        self.optimiser.load(last.optimiser)
        self.best = best.shared if best else last.shared
        by_round: dict[int, dict[str, dict]] = {}
        for line in self.store.metrics():
            by_round.setdefault(line["round"], {})[line["site"]] = line
        self.choice.load(best.choice if best else {})
        self._leave_out()
        for round_, metrics in sorted(by_round.items()):
            self._trained |= {site for site, line in metrics.items() if "steps" in line}
            self.norms.add([line["update_norm"] for line in metrics.values() if "update_norm" in line])
            if best and round_ - 1 > best.round:
                self.choice.pass_over(round_ - 1, metrics)
