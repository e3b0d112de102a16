"""A site that is not there when the run is to begin."""

import time
from collections.abc import Generator, Sequence

from .exams import SITES
from .stage import Drill, Stage, check_round
from .verdict import Event, Findings, StuckError, Verdict, stuck

EVENT = Event(
    "site_absent", "a site is not there at the start", "it is named after the time to wait; with it the run begins"
)
JOIN_SECONDS = 5.0
SITE = "shoulder"


def run(drill: Drill, wanted: Sequence[Event]) -> Generator[Verdict, None, None]:
    """The verdict on the one event of this stage."""
    findings = Findings()
    try:
        with drill.federation("late", "federation.rounds=2") as federation:
            for site in sorted(SITES.keys() - {SITE}):
                federation.start_site(site)
                federation.wait_said(site, "data opened", 0)
            federation.start_server(f"federation.join_timeout_seconds={JOIN_SECONDS:g}")
            code = federation.wait_server()
            named = f"missing: {SITE}" in federation.said("server")
            findings.check(
                code == 3 and named, f"missing: {SITE}, exit code 3", f"exit code {code}, {SITE} named alone: {named}"
            )
            ended = [federation.wait_site(site) for site in list(federation.sites)]
            findings.check(ended == [1, 1], "the others were sent home", f"the others ended with {ended}")
            began = time.monotonic()
            federation.start()
            federation.wait_closed(1)
            seconds = time.monotonic() - began
            ends = [federation.wait_server(), *map(federation.wait_site, federation.sites)]
            findings.check(
                not any(ends), "the same command with it ran to the end", f"with it, commands ended with {ends}"
            )
            check_round(findings, federation, 1)
    except StuckError as error:
        yield stuck(EVENT, error)
    else:
        yield findings.verdict(EVENT, seconds)


STAGE = Stage("late", (EVENT,), run)
