"""Whoever must not come in, and code that must not run: tried while a federation is at work, which notices nothing of it."""

import shutil
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from .exams import SITES
from .federation import Federation
from .foreign_code import MARKER, submit
from .premises import STRANGER, attempt
from .stage import Drill, Stage, check_round
from .verdict import Event, Findings, StuckError, Verdict, stuck

STOPPER = "knee"
"""Stands still in its training while things are tried, so that the federation is in the middle of a round."""
UNREACHABLE = 3
_ATTEMPT_SECONDS = "--connect-timeout-seconds", "20"


@dataclass(frozen=True)
class Attempt:
    """An event of this stage; ``without``: who takes part no more afterwards."""

    event: Event
    act: Callable[[Federation, int, Findings], None]
    without: tuple[str, ...] = ()


def _wrong_certificate(federation: Federation, round_: int, findings: Findings) -> None:
    state = federation.folder / "sites" / "ankle-misled"
    shutil.copytree(federation.premises.site("ankle"), state)
    shutil.copy(federation.premises.other_authority, state / "authority.pem")
    done = attempt(
        "client.command", "--site", "ankle", "--state", str(state), *_ATTEMPT_SECONDS, folder=federation.folder
    )
    _check_end(findings, done.returncode, done.stderr, "is not the server that")


def _unknown_key(federation: Federation, round_: int, findings: Findings) -> None:
    state = federation.site_folder(STRANGER)
    done = attempt(
        "client.command", "--site", STRANGER, "--state", str(state), *_ATTEMPT_SECONDS, folder=federation.folder
    )
    _check_end(findings, done.returncode, done.stderr, "is not admitted")


def _revoked_key(federation: Federation, round_: int, findings: Findings) -> None:
    since = federation.position("shoulder")
    done = attempt("server.command", "revoke", "--state", str(federation.state), "shoulder", folder=federation.folder)
    findings.check(done.returncode == 0, "revoked while it ran", f"`revoke` ended with {done.returncode}")
    code = federation.wait_site("shoulder")
    _check_end(findings, code, federation.said("shoulder", since), "was revoked on")


def _foreign_code(federation: Federation, round_: int, findings: Findings) -> None:
    idle = sorted(SITES.keys() - {STOPPER})
    answers = submit(federation, len(idle))
    findings.check(
        answers == ["bundle_refused"] * len(idle),
        f"{len(idle)} sites refused its message",
        f"its message was answered with {answers}",
    )
    ran = sorted(path.name for path in federation.folder.glob(f"{MARKER}*"))
    findings.check(not ran, "its code ran at no site", f"its code ran: {ran}")
    logs = [(federation.site_folder(site) / "logs" / "worker.log").read_text(errors="replace") for site in idle]
    findings.check(
        all("answering train" in log for log in logs), "logged there", "not every site logged that it refused"
    )


def _check_end(findings: Findings, code: int, said: str, words: str) -> None:
    fits = code == UNREACHABLE and words in said
    findings.check(fits, f"exit code {code}, '{words} …'", f"exit code {code}, said: {' '.join(said.split())[-200:]}")


ATTEMPTS = (
    Attempt(
        Event("wrong_certificate", "the server's certificate is another authority's", "nothing is sent, exit code 3"),
        _wrong_certificate,
    ),
    Attempt(Event("unknown_key", "a site that nobody admitted", "not let in, exit code 3"), _unknown_key),
    Attempt(Event("foreign_code", "a bundle with code of its own", "it runs at no site"), _foreign_code),
    Attempt(
        Event("revoked_key", "a site is revoked while it takes part", "refused at its next call, others go on"),
        _revoked_key, without=("shoulder",),
    ),
)  # fmt: skip
"""In the order in which they are tried: the last one costs the federation a site."""


def run(drill: Drill, wanted: Sequence[Event]) -> Generator[Verdict, None, None]:
    """Verdicts on the first of the wanted events: up to one that the federation did not get over."""
    rounds = {2 * place: a for place, a in enumerate((a for a in ATTEMPTS if a.event in wanted), start=1)}
    federation = drill.federation("strangers", f"federation.rounds={max(rounds) + 1}", "federation.quorum=2")
    federation.order(STOPPER, stops=list(rounds))
    with federation:
        federation.start()
        for round_, tried in rounds.items():
            try:
                verdict = _try(federation, round_, tried)
            except StuckError as error:
                verdict = stuck(tried.event, error)
            yield verdict
            if not verdict.passed:  # what is left of this federation says nothing about the next event
                return


def _try(federation: Federation, round_: int, tried: Attempt) -> Verdict:
    """Try it in the middle of a round; this round and the next must be as ever."""
    findings = Findings()
    federation.wait_stopped(STOPPER, round_)
    tried.act(federation, round_, findings)
    began = time.monotonic()
    federation.orders[STOPPER].go(round_)
    federation.wait_closed(round_ + 1)
    seconds = time.monotonic() - began
    check_round(findings, federation, round_ + 1, without=tried.without)
    lost = set(SITES) - set(tried.without) - set(federation.records().used(round_))
    findings.keeps(not lost, f"replies of {', '.join(sorted(lost))}")
    return findings.verdict(tried.event, seconds)


STAGE = Stage("strangers", tuple(tried.event for tried in ATTEMPTS), run)
