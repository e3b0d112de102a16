"""Processes that die and files that are damaged in mid-round: afterwards everything must be as if nothing had been."""

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .disk import small_disk
from .federation import Federation
from .records import Records
from .stage import Drill, Stage, check_round
from .undisturbed import check_figures, undisturbed
from .verdict import Event, Findings, StuckError, Verdict, stuck

_SAME = "same figures as undisturbed"
DISK_BYTES = 48 * 2**20
"""Of the server's whole folder where a disk of its own can be put under it."""

HANGS, STEP_SECONDS = "knee", 10.0
"""The site with a watchdog of short patience, and after how long that ends a training step; one takes some milliseconds."""


@dataclass(frozen=True)
class Crash:
    """An event of this stage: ``site`` stands still in its training of a round, then ``act`` breaks something and mends it.

    ``same``: whether the figures of this round and the next must be the undisturbed run's.
    """

    event: Event
    site: str
    act: Callable[[Federation, str, int, Findings], None]
    same: bool = True


def _worker_killed(federation: Federation, site: str, round_: int, findings: Findings) -> None:
    since = federation.position(site)
    federation.kill_child(federation.sites[site], "saboteur_worker")
    federation.wait_said(site, "starting it again", since)
    findings.check(True, "replaced at once", "")


def _supernode_killed(federation: Federation, site: str, round_: int, findings: Findings) -> None:
    since = federation.position(site)
    federation.kill_child(federation.sites[site], "client.supernode")
    federation.wait_said(site, "joined", since)
    findings.check(True, "joined again", "")
    federation.orders[site].go(round_)


def _site_killed(federation: Federation, site: str, round_: int, findings: Findings) -> None:
    federation.kill(federation.sites[site])
    federation.start_site(site)
    findings.check(True, "no child outlived it, the same command went on", "")


def _step_hangs(federation: Federation, site: str, round_: int, findings: Findings) -> None:
    federation.wait_said(site, "replacing the worker", 0)
    findings.check(True, "its watchdog replaced the worker", "")


def _superlink_killed(federation: Federation, site: str, round_: int, findings: Findings) -> None:
    since = federation.position("server")
    federation.kill_child(federation.server, "flower-superlink")
    code = federation.wait_server()
    named = "SuperLink ended" in federation.said("server", since)
    findings.check(
        code == 1 and named,
        "the command named it and ended with 1",
        f"the command ended with {code}, named it: {named}",
    )
    _resume(federation, site, round_, findings)


def _server_killed(federation: Federation, site: str, round_: int, findings: Findings) -> None:
    federation.kill(federation.server)
    _resume(federation, site, round_, findings)


def _server_file_truncated(federation: Federation, site: str, round_: int, findings: Findings) -> None:
    federation.kill(federation.server)
    _cut(federation.state / "checkpoints" / "last.safetensors")
    _cut(federation.state / "run.json")
    _cut(federation.state / "standing.json")
    _resume(federation, site, round_, findings, round_ - 2)


def _server_disk_full(federation: Federation, site: str, round_: int, findings: Findings) -> None:
    since, disk = federation.position("server"), federation.disk
    disk.fill(federation.family(federation.server))
    federation.orders[site].go(round_)
    code = federation.wait_server()
    ends = [federation.wait_site(other) for other in federation.sites]
    findings.check(set(ends) == {1}, "sites were sent home", f"the sites' commands ended with {ends}")
    disk.free()
    for other in federation.sites:
        federation.start_site(other)
    named = any(words in federation.said("server", since) for words in ("No space left", "File too large"))
    findings.check(
        code == 1 and named,
        f"it named the disk and ended with 1 ({disk.kind})",
        f"it ended with {code}, named it: {named} ({disk.kind})",
    )
    # the checkpoint before the last gives its space away, which may be enough for one more
    _resume(federation, site, round_, findings, round_ - 1, round_)


def _site_file_truncated(federation: Federation, site: str, round_: int, findings: Findings) -> None:
    federation.kill(federation.sites[site])
    folder = federation.site_folder(site)
    _cut(max(folder.glob("rounds/*/*.private.safetensors")))
    federation.start_site(site)
    federation.wait_closed(round_)
    log = (folder / "logs" / "worker.log").read_text(encoding="utf-8", errors="replace")
    findings.check(
        f"round {round_ - 1} is passed over" in log,
        f"refused, the state of round {round_ - 2} used",
        f"the site's log does not say that round {round_ - 1} is passed over",
    )


def _resume(federation: Federation, site: str, round_: int, findings: Findings, *lasts: int) -> None:
    """Give the server's command again, and see where it goes on: at one of ``lasts``, if not at the round before this one."""
    before = len(federation.records().of("resumed"))
    federation.start_server()
    federation.orders[site].go(round_)  # it answers the roll call only once it has let go of its message
    federation.wait(lambda: len(federation.records().of("resumed")) > before, "the run was resumed")
    went_on, expected = federation.records().of("resumed")[-1]["round"], lasts or (round_ - 1,)
    findings.check(went_on in expected, f"resumed from round {went_on}", f"resumed from {went_on}, expected {expected}")


def _cut(path: Path) -> None:
    """Leave the first half of a file, as a crash of the machine may."""
    if path.exists():
        with open(path, "rb+") as file:
            file.truncate(path.stat().st_size // 2)


CRASHES = (
    Crash(Event("worker_killed", "kill -9 of a site's worker", _SAME), "knee", _worker_killed),
    Crash(Event("supernode_killed", "kill -9 of a SuperNode", _SAME), "ankle", _supernode_killed),
    Crash(Event("site_killed", "kill -9 of mtmd-client", _SAME), "shoulder", _site_killed),
    Crash(Event("step_hangs", "a training step never ends", _SAME), HANGS, _step_hangs),
    Crash(Event("superlink_killed", "kill -9 of the SuperLink", _SAME), "ankle", _superlink_killed),
    Crash(Event("server_killed", "kill -9 of mtmd-server", _SAME), "shoulder", _server_killed),
    Crash(
        Event("server_file_truncated", "the server's state files cut in half", f"the ones before used; {_SAME}"),
        "ankle",
        _server_file_truncated,
    ),
    Crash(
        Event("server_disk_full", "no space left at the server", f"stops and says so; started again {_SAME}"),
        "shoulder",
        _server_disk_full,
    ),
    Crash(
        Event("site_file_truncated", "a site's last state file cut in half", "the state before used, no reply missing"),
        "shoulder",
        _site_file_truncated,
        same=False,
    ),
)
"""In the order in which a federation goes through them: after the last one its figures are others."""


def run(drill: Drill, wanted: Sequence[Event]) -> Generator[Verdict, None, None]:
    """Verdicts on the first of the wanted events: up to one that the federation did not get over."""
    crashes = {2 * place: crash for place, crash in enumerate((c for c in CRASHES if c.event in wanted), start=1)}
    rounds = max(crashes) + 2
    try:
        reference = Records.read(undisturbed(drill, rounds))
    except StuckError as error:
        yield from (stuck(event, error) for event in wanted)
        return
    federation = drill.federation("crashes", f"federation.rounds={rounds}")
    for site in {crash.site for crash in crashes.values()}:
        federation.order(site, stops=[round_ for round_, crash in crashes.items() if crash.site == site])
    federation.limit_steps(HANGS, STEP_SECONDS)
    with small_disk(federation.state, DISK_BYTES, mount=_fills_disk(crashes.values())) as federation.disk, federation:
        yield from _go_through(federation, crashes, reference)


def _fills_disk(crashes: Iterable[Crash]) -> bool:
    return any(crash.act is _server_disk_full for crash in crashes)


def _go_through(
    federation: Federation, crashes: dict[int, Crash], reference: Records
) -> Generator[Verdict, None, None]:
    federation.start()
    for round_, crash in crashes.items():
        try:
            verdict = _break(federation, round_, crash, reference)
        except StuckError as error:
            verdict = stuck(crash.event, error)
        yield verdict
        if not verdict.passed:  # what is left of this federation says nothing about the next event
            return


def _break(federation: Federation, round_: int, crash: Crash, reference: Records) -> Verdict:
    findings = Findings()
    federation.wait_stopped(crash.site, round_)
    began = time.monotonic()
    crash.act(federation, crash.site, round_, findings)
    federation.wait_closed(round_)
    seconds = time.monotonic() - began
    check_round(findings, federation, round_)
    federation.wait_closed(round_ + 1)
    if crash.same:
        check_figures(findings, federation.records(), reference, range(1, round_ + 2))
    return findings.verdict(crash.event, seconds)


STAGE = Stage("crashes", tuple(crash.event for crash in CRASHES), run)
