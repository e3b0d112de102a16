"""Replies that cannot be used, from sites that are admitted: each is left out by name, and the run goes on."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

from mtmd_core.prototype_arrays import Fault
from mtmd_core.refusals import Reason

from .exams import SITES
from .faults import FAULTS, SENT_BEFORE, SENT_TWICE
from .federation import Federation
from .records import Records
from .stage import Drill, Stage
from .verdict import UNKNOWN, Event, Findings, StuckError, Verdict, stuck

FIRST_ROUND = 3
"""The first two rounds show what is usual."""
WORDS = ("federation.quorum=2", "strategy=dsl_ssc", "data.slice_size=32")


@dataclass(frozen=True)
class BadReply:
    """An event of this stage: one site's reply of one round is spoilt by ``event.name``.

    ``reason``: why it must be left out; None if it must be used, once. ``prototypes``: why its prototypes alone must be.
    """

    event: Event
    reason: Reason | None = None
    prototypes: Fault | None = None


def _left_out(name: str, what: str, reason: Reason) -> BadReply:
    return BadReply(Event(name, what, f"left out: {reason.value}, the next one used"), reason)


def _no_prototype(name: str, what: str, fault: Fault) -> BadReply:
    return BadReply(Event(name, what, f"left out: {fault.value}; the rest used"), prototypes=fault)


REPLIES = (
    _left_out("nan", "a parameter is NaN", Reason.NOT_FINITE),
    _left_out("infinite", "a parameter is infinite", Reason.NOT_FINITE),
    _left_out("mis_shaped", "a parameter of another shape", Reason.WRONG_PARAMETERS),
    _left_out("mis_typed", "a parameter of another dtype", Reason.WRONG_PARAMETERS),
    _left_out("missing", "a parameter is missing", Reason.WRONG_PARAMETERS),
    _left_out("extra", "a parameter too many", Reason.WRONG_PARAMETERS),
    _left_out("huge", "parameters ten thousand times too large", Reason.OUTLYING_NORM),
    _left_out(SENT_BEFORE, "the reply of the round before", Reason.STALE_ROUND),
    BadReply(Event(SENT_TWICE, "a reply comes twice", "used once")),
    _no_prototype("prototype_nan", "a prototype is NaN", Fault.NOT_FINITE),
    _no_prototype("prototype_long", "a mean off the sphere", Fault.MEAN_TOO_LONG),
    _no_prototype("prototype_negative", "variances below zero", Fault.NEGATIVE_VARIANCE),
    _no_prototype("prototype_spread", "moments of no unit vectors", Fault.NOT_UNIT_NORM),
    _no_prototype("prototype_few", "a prototype of one slice", Fault.TOO_FEW),
)
assert {bad.event.name for bad in REPLIES} == FAULTS.keys() | {SENT_BEFORE, SENT_TWICE}


def judge(bad: BadReply, site: str, round_: int, records: Records, told: str) -> Verdict:
    """What became of the spoilt reply of a site and round, from what the server wrote and what the site's command printed.

    It has passed if it was left out for its own reason and no other reply was, the site was told, and its next one was used.
    """
    if records.closed_at(round_) is None:
        return stuck(bad.event, StuckError(f"round {round_} was never closed"))
    findings = Findings()
    _judge_refusal(findings, bad, site, records.of("refused", round_))
    if bad.reason is not None:
        line = f"the server left out the reply of round {round_}: {bad.reason.value}"
        findings.check(line in told, "the site was told", "the site was not told")
    _judge_prototypes(findings, bad, site, records.of("prototypes_left_out", round_))
    here = sorted(SITES.keys() - ({site} if bad.reason else set()))
    used = records.used(round_)
    findings.check(used == here, "" if bad.reason else "its reply used once", f"the round used {used}, expected {here}")
    findings.keeps(set(here) <= set(used), f"replies of round {round_}")
    next_used = site in records.used(round_ + 1)
    findings.check(next_used, "its next reply used", f"its reply of round {round_ + 1} was not used")
    return findings.verdict(bad.event, _seconds(records, round_))


def _judge_refusal(findings: Findings, bad: BadReply, site: str, refused: Sequence[Mapping]) -> None:
    reasons = {entry["site"]: entry["reason"] for entry in refused}
    expected = {} if bad.reason is None else {site: bad.reason.value}
    seen = f"{site} left out: {bad.reason.value}" if bad.reason else ""
    findings.check(reasons == expected, seen, f"left out: {_listed(reasons)}, expected {_listed(expected)}")


def _judge_prototypes(findings: Findings, bad: BadReply, site: str, left_out: Sequence[Mapping]) -> None:
    details = {entry["site"]: entry["detail"] for entry in left_out}
    if bad.prototypes is None:
        findings.check(not details, "", f"prototypes left out: {_listed(details)}")
        return
    fits = details.keys() == {site} and details[site].startswith(bad.prototypes.value)
    seen = f"{site}'s prototypes left out: {bad.prototypes.value}"
    findings.check(fits, seen, f"prototypes left out: {_listed(details)}")


def _seconds(records: Records, round_: int) -> float | None:
    """From what was noted of the reply to the end of the next round, which used the site's reply again."""
    noted, closed = (
        records.of("refused", round_) + records.of("prototypes_left_out", round_),
        records.closed_at(round_ + 1),
    )
    return closed - noted[-1]["time"] if noted and closed is not None else None


def _listed(reasons: Mapping[str, str]) -> str:
    return ", ".join(f"{site} {reason}" for site, reason in sorted(reasons.items())) or "none"


def run(drill: Drill, wanted: Sequence[Event]) -> Generator[Verdict, None, None]:
    """Verdicts on the first of the wanted events: up to one that the federation did not get over.

    The sites take turns, so that no site has two bad replies in three rounds, and none is set aside.
    """
    chosen = [bad for bad in REPLIES if bad.event in wanted]
    turns = {FIRST_ROUND + place: (bad, sorted(SITES)[place % len(SITES)]) for place, bad in enumerate(chosen)}
    federation = drill.federation("replies", *WORDS, f"federation.rounds={max(turns) + 2}")
    for site in SITES:
        federation.order(site, {round_: bad.event.name for round_, (bad, whose) in turns.items() if whose == site})
    with federation:
        federation.start()
        trouble = _trouble(federation, max(turns) + 2)
    records = federation.records()
    verdicts = [judge(bad, site, round_, records, federation.said(site)) for round_, (bad, site) in turns.items()]
    yield from verdicts if trouble is None else _with_trouble(verdicts, trouble)


def _trouble(federation: Federation, rounds: int) -> StuckError | None:
    """Let the run come to its end; what kept it from that."""
    try:
        for round_ in range(1, rounds + 1):
            federation.wait_closed(round_)
        ends = [federation.wait_server(), *map(federation.wait_site, federation.sites)]
    except StuckError as error:
        return error
    return StuckError(f"the commands of server and sites ended with {ends}") if any(ends) else None


def _with_trouble(verdicts: list[Verdict], trouble: StuckError) -> list[Verdict]:
    """Verdicts up to the first that did not pass, which takes the run's bad end; the last one if all have passed."""
    places = [place for place, verdict in enumerate(verdicts) if not verdict.passed]
    upto = places[0] if places else len(verdicts) - 1
    failed = verdicts[upto]
    if failed.lost == UNKNOWN or failed.passed:
        failed = stuck(failed.event, trouble)
    return [*verdicts[:upto], failed]


STAGE = Stage("replies", tuple(bad.event for bad in REPLIES), run)
