"""Sites that do not answer: the round closes on a quorum once its time is over, and whoever comes back takes part again."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from mtmd_core.refusals import Reason

from .disk import small_disk
from .exams import SITES
from .federation import Federation
from .premises import call
from .stage import Drill, Stage, check_round
from .verdict import Event, Findings, StuckError, Verdict, stuck

ROUND_SECONDS = 40.0
"""How long a round of this stage waits for its sites."""
HOLDER = "knee"
"""Keeps a round open where something must be mended before the next one."""
DISK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Absence:
    """An event of this stage: in a round for which ``stopper`` has come to a stop in its training, ``act`` has its way.

    ``rounds``: how many it needs after its first one. ``stops``: those in which ``stopper`` stops, ``faults``: those whose
    replies ``knee`` spoils, both counted from 0. ``held``: the holder keeps the first round open until it is told to go on.
    ``act`` returns the seconds that the federation took to work again.
    """

    event: Event
    stopper: str
    act: Callable[[Federation, int, Findings], float | None]
    rounds: int
    stops: tuple[int, ...] = (0,)
    faults: tuple[int, ...] = ()
    held: bool = False


def _site_frozen(federation: Federation, round_: int, findings: Findings) -> float:
    site = "ankle"
    federation.freeze(federation.sites[site])
    federation.wait_closed(round_)
    _check_refused(findings, federation, round_, site, Reason.NO_REPLY)
    check_round(findings, federation, round_, without=[site])
    federation.thaw(federation.sites[site])
    federation.orders[site].go(round_)
    return _wait_used(federation, site, round_, findings)


def _site_disk_full(federation: Federation, round_: int, findings: Findings) -> float:
    site, disk, since = "shoulder", federation.disk, federation.position("shoulder")
    disk.fill(federation.family(federation.sites[site]))
    began = time.monotonic()
    federation.orders[site].go(round_)
    federation.wait_said(site, "train failed (disk)", since)
    disk.free()
    federation.orders[HOLDER].go(round_)
    federation.wait_closed(round_)
    _check_refused(findings, federation, round_, site, Reason.SITE_ERROR, "disk")
    lives = federation.sites[site].poll() is None
    findings.check(lives, f"the site lives ({disk.kind})", f"the site's command ended ({disk.kind})")
    _wait_used(federation, site, round_, findings)
    return time.monotonic() - began


def _site_set_aside(federation: Federation, round_: int, findings: Findings) -> float:
    site, stopper = "knee", "ankle"
    aside = [entry["site"] for entry in federation.records().of("set_aside")]
    findings.check(aside == [site], "set aside after three", f"set aside: {aside}")
    federation.orders[stopper].go(round_ + 3)
    federation.wait_stopped(stopper, round_ + 4)
    check_round(findings, federation, round_ + 3, without=[site])
    began = time.monotonic()
    call("server.command", "readmit", "--state", str(federation.state), site, folder=federation.folder)
    federation.orders[stopper].go(round_ + 4)
    _wait_used(federation, site, round_ + 4, findings)
    return time.monotonic() - began


def _site_leaves(federation: Federation, round_: int, findings: Findings) -> float:
    site = "ankle"
    federation.kill(federation.sites[site])
    began = time.monotonic()
    federation.wait_closed(round_)
    seconds = time.monotonic() - began
    _check_refused(findings, federation, round_, site, Reason.NO_REPLY)
    check_round(findings, federation, round_, without=[site])
    code = federation.wait_server()
    findings.check(code == 0, "the run ended well without it", f"the run ended with {code}")
    return seconds


ABSENCES = (
    Absence(
        Event("site_disk_full", "no space left at a site", "its reply left out: disk; it lives, the next one used"),
        "shoulder",
        _site_disk_full,
        rounds=1,
        held=True,
    ),
    Absence(
        Event("set_aside", "three bad replies in a row", "set aside, then readmitted"),
        "ankle",
        _site_set_aside,
        rounds=5,
        stops=(3, 4),
        faults=(0, 1, 2),
    ),
    Absence(
        Event("site_frozen", "a site stands still and says nothing", "the round closes without it, it comes back"),
        "ankle",
        _site_frozen,
        rounds=3,
    ),
    Absence(
        Event("site_leaves", "kill -9 of a site that never comes back", "rounds close and the run ends without it"),
        "ankle",
        _site_leaves,
        rounds=0,
    ),
)
"""In the order in which a federation goes through them.

The last one leaves it with two sites. The site that leaves is the one that stood still: a minute later Flower's SuperNode takes
the claim that it dropped then for a crash, and a message of a later round is lost with it.
"""


def _check_refused(
    findings: Findings, federation: Federation, round_: int, site: str, reason: Reason, detail: str = ""
) -> None:
    refused = [(entry["site"], entry["reason"]) for entry in federation.records().of("refused", round_)]
    details = " ".join(entry["detail"] for entry in federation.records().of("refused", round_))
    seen = f"{site} left out: {reason.value}" + (f" ({detail})" if detail else "")
    findings.check(refused == [(site, reason.value)] and detail in details, seen, f"left out: {refused} ({details})")


def _wait_used(federation: Federation, site: str, after: int, findings: Findings) -> float:
    """Wait until a reply of a site is used again in a round after ``after``; how many seconds that took."""

    def is_used() -> bool:
        return any(
            line["site"] == site and line["round"] > after and "steps" in line for line in federation.records().lines
        )

    seconds = federation.wait(is_used, f"a reply of {site} was used after round {after}")
    findings.check(True, "used again", "")
    return seconds


def run(drill: Drill, wanted: Sequence[Event]) -> Generator[Verdict, None, None]:
    """Verdicts on the first of the wanted events: up to one that the federation did not get over."""
    first, starts = 2, {}
    for absence in (absence for absence in ABSENCES if absence.event in wanted):
        starts[first] = absence
        first += absence.rounds + 1
    federation = drill.federation(
        "absences",
        f"federation.rounds={first - 1}",
        "federation.quorum=2",
        f"federation.round_timeout_seconds={ROUND_SECONDS:g}",
    )
    for site in SITES:
        stops = [begin + stop for begin, absence in starts.items() if absence.stopper == site for stop in absence.stops]
        stops += [begin for begin, absence in starts.items() if absence.held and site == HOLDER]
        faults = {
            begin + fault: "nan" for begin, absence in starts.items() if site == "knee" for fault in absence.faults
        }
        federation.order(site, faults, stops)
    fills = any(absence.act is _site_disk_full for absence in starts.values())
    with small_disk(federation.site_folder("shoulder"), DISK_BYTES, mount=fills) as federation.disk, federation:
        federation.start()
        yield from _go_through(federation, starts)


def _go_through(federation: Federation, starts: dict[int, Absence]) -> Generator[Verdict, None, None]:
    for begin, absence in starts.items():
        findings = Findings()
        try:
            federation.wait_stopped(absence.stopper, begin + absence.stops[0])
            verdict = findings.verdict(absence.event, absence.act(federation, begin, findings))
        except StuckError as error:
            verdict = stuck(absence.event, error)
        yield verdict
        if not verdict.passed:  # what is left of this federation says nothing about the next event
            return


STAGE = Stage("absences", tuple(absence.event for absence in ABSENCES), run)
