"""The federated algorithm as a Flower strategy: who is asked for what, and what becomes of the replies."""

from collections.abc import Callable, Iterable, Mapping
from logging import getLogger

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from mtmd_core.arrays import all_finite
from mtmd_core.errors import RunFailedError
from mtmd_core.strategies import Sharing
from mtmd_core.wire import EVALUATE, TRAIN, ArrayShape

from .aggregation import average
from .fleet import Fleet
from .gate import Refusal, Reply, admit
from .model_choice import VALIDATION_DICE, ModelChoice
from .plans import Plans, pack
from .prototype_shelf import PrototypeShelf
from .run_store import Arrays, Checkpoint, RunStore

log = getLogger(__name__)

Metrics = Mapping[str, Mapping[str, float]]
"""Site → metric → value."""
OnRound = Callable[[int, Metrics], None]
"""Called after each round with its number and what the sites released."""


class DomainStrategy(Strategy):
    """FedAvg over what one of the paper's strategies shares, every site weighing alike (Eq. 1's 1/K).

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
        self.choice = ModelChoice(apart=plans.sharing is Sharing.NOTHING)
        self.shared: Arrays = plans.initial
        self.best: Arrays = plans.initial
        self.finished = 0
        self.shelf: PrototypeShelf | None = None
        self._holders: set[str] = set()  # of the auto-encoder, as far as is known
        self._brought: dict[str, int] = {}  # bytes of prototypes and auto-encoder to each site in this round
        self._resume()
        self._first = self.finished

    def summary(self) -> None:
        """Flower asks for a line on the strategy."""
        names = ", ".join(self.plans.sites)
        log.info("%s over %s, quorum %d", self.plans.config.strategy, names, self.plans.quorum)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Fleet
    ) -> list[Message]:
        """One message a site: the plan of the round and the shared parameters."""
        round_ = self._first + server_round
        part = self.plans.phase.part
        message = f"{part + ', ' if part else ''}round {round_} of {self.rounds}"
        self.store.progress(part or "training", self.finished, message, self.plans.sites)
        due = (round_ - 1) % self.plans.config.federation.validate_every_rounds == 0
        return self._messages(TRAIN, dict.fromkeys(self.plans.sites, round_), arrays, validate=due)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord, MetricRecord]:
        """Admit each reply by itself, average in the order of site names, save, tell."""
        round_ = self._first + server_round
        admitted, shared = self._average(list(replies), dict.fromkeys(self.plans.sites, round_))
        metrics = {reply.site: reply.metrics for reply in admitted}
        self._note_validation(round_ - 1, metrics)
        self._note_terms(round_, admitted)
        self.shared = shared
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
        sites, last = self.plans.sites, self.finished
        self.store.progress("evaluation", last, "validating the last round", sites)
        self._note_validation(last, self._evaluate(dict.fromkeys(sites, last), self.shared, validate=True))
        chosen = {site: self.choice.best_round(site) or last for site in sites}
        shared = self.shared if chosen == dict.fromkeys(sites, last) else self.best
        return chosen, Checkpoint(max(chosen.values()), shared)

    def _note_terms(self, round_: int, admitted: list[Reply]) -> None:
        """Who certainly holds the auto-encoder now, and whose prototypes came."""
        self._holders = {reply.site for reply in admitted}
        for reply in admitted:
            if reply.prototypes is not None:
                self.shelf.put(reply.site, round_, reply.prototypes)
            elif reply.prototype_refusal is not None:
                log.warning("the prototypes of %s are left out: %s", reply.site, reply.prototype_refusal)

    def _average(self, replies: list[Message], rounds: Mapping[str, int]) -> tuple[list[Reply], Arrays]:
        """The replies that are fit to use and the average of what they bring.

        An average is finite if and only if all that it was made of is, so only where it is not is each reply walked through.
        """
        for look_inside in (False, True):
            admitted = self._admit(replies, rounds, self.plans.expected, look_inside)
            if not self.plans.expected:
                return admitted, self.shared
            shared = average([reply.shared for reply in admitted], [1.0] * len(admitted))
            if all(map(all_finite, shared.values())):
                break
        return admitted, shared

    def _evaluate(self, rounds: Mapping[str, int], shared: Arrays, **purpose: bool) -> Metrics:
        messages = self._messages(EVALUATE, rounds, pack(shared), **purpose)
        replies = self._admit(self.fleet.send_and_receive(messages, timeout=self.timeout), rounds, None)
        return {reply.site: reply.metrics for reply in replies}

    def _messages(self, kind: str, rounds: Mapping[str, int], shared: ArrayRecord, **purpose: bool) -> list[Message]:
        messages = []
        for site, round_ in rounds.items():
            content = self.plans.content(site, round_, shared, self.choice.best_round(site), **purpose)
            if kind == TRAIN:
                self._add_terms(content, site, round_)
            messages.append(Message(content, self.fleet.node_of(site), kind, ttl=self.timeout, group_id=str(round_)))
        return messages

    def _add_terms(self, content: RecordDict, site: str, round_: int) -> None:
        others = [] if self.shelf is None else self.shelf.others(site, round_)
        terms = self.plans.terms(others, with_prior=site not in self._holders)
        self._brought[site] = sum(len(a.data) for record in terms.array_records.values() for a in record.values())
        for name, record in terms.items():
            content[name] = record

    def _admit(
        self,
        replies: Iterable[Message],
        rounds: Mapping[str, int],
        expected: Mapping[str, ArrayShape] | None,
        look_inside: bool = True,
    ) -> list[Reply]:
        verdicts = {site: Refusal(site, "no reply in time") for site in rounds}
        for message in replies:
            site = self.fleet.site_of(message.metadata.src_node_id)
            verdicts[site] = admit(message, site, self.plans.run, rounds[site], expected, look_inside, self.shelf)
        admitted = [verdict for verdict in verdicts.values() if isinstance(verdict, Reply)]
        refused = [verdict for verdict in verdicts.values() if isinstance(verdict, Refusal)]
        for refusal in refused:
            log.warning("the reply of %s is left out: %s", refusal.site, refusal.reason)
        if len(admitted) < self.plans.quorum:
            reasons = "; ".join(f"{refusal.site}: {refusal.reason}" for refusal in refused)
            raise RunFailedError(
                f"only {len(admitted)} replies could be used, the quorum is {self.plans.quorum} ({reasons})."
            )
        return admitted

    def _note_validation(self, round_: int, metrics: Metrics) -> None:
        """The sites measured what ``round_`` ended with, which is what ``shared`` still holds."""
        if self.choice.note(round_, metrics):
            self.best = self.shared
            self.store.save_best(round_, self.shared)

    def _record(self, replies: list[Reply]) -> None:
        sent = sum(array.nbytes for array in self.shared.values())
        self.store.append_metrics(
            [
                {
                    **reply.metrics,
                    **({"validated_round": self.finished - 1} if VALIDATION_DICE in reply.metrics else {}),
                    "round": self.finished,
                    "site": reply.site,
                    "bytes_to_site": sent + self._brought[reply.site],
                    "bytes_from_site": reply.bytes,
                    **({} if self.shelf is None else {"prototype_bytes_from_site": reply.prototype_bytes}),
                }
                for reply in replies
            ]
        )
        self.store.save_last(self.finished, self.shared, {} if self.shelf is None else self.shelf.shelved)

    def _resume(self) -> None:
        last, best = self.store.last(), self.store.best()
        phase, age = self.plans.phase, self.plans.config.prototypes.maximum_age_rounds
        if phase.contrast is not None:
            self.shelf = PrototypeShelf(phase.network, phase.contrast, age, last.prototypes if last else {})
        if last is None:
            return
        self.finished, self.shared = last.round, last.shared
        self.best = best.shared if best else last.shared
        by_round: dict[int, dict[str, dict]] = {}
        for line in self.store.metrics():
            by_round.setdefault(line["round"] - 1, {})[line["site"]] = line
        for round_, metrics in sorted(by_round.items()):
            if best and round_ <= best.round:
                self.choice.note(round_, metrics)
