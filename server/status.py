"""``mtmd-server status``: how a run is, read from the files of the coordinator's folder alone.

It works while the run goes on, after its end and after a crash, and disturbs nothing.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtmd_core.errors import ConfigurationError
from mtmd_core.event_log import events
from mtmd_core.processes import is_held
from mtmd_core.quantities import say_bytes, say_duration, seconds_a_round

from .admission import Admission
from .progress import read_json
from .standing import SiteStanding, read_standing

AUDIT = "audit.jsonl"  # names of files, for their modules import PyTorch
METRICS = "round_metrics.jsonl"


@dataclass(frozen=True)
class SiteView:
    """One site as the coordinator sees it.

    ``revoked``: since when it may not take part any more (UTC, ISO 8601); None while it may. ``last_round``: the last one whose
    reply was used (of any phase). ``last_refusal``: round, reason and detail. Bytes are of the
    arrays of rounds' replies that were used, and of what was sent for them.
    """

    here: bool
    revoked: str | None
    set_aside: bool
    last_round: int
    refusals: int
    refusals_in_a_row: int
    last_refusal: dict[str, Any] | None
    bytes_to_site: int
    bytes_from_site: int


@dataclass(frozen=True)
class RunView:
    """A run.

    ``state``: ``running``, ``finished``, ``failed`` or ``stopped`` (no process holds the folder and no outcome was stated).
    ``round`` is the last one that was closed of ``rounds`` in this ``phase``. ``seconds_left`` is for the rest of the phase; None
    where it cannot be said. ``age_seconds``: since the run last said something.
    """

    state: str
    message: str
    run: str
    phase: str
    round: int
    rounds: int
    age_seconds: float | None
    seconds_a_round: float | None
    seconds_left: float | None
    bytes_to_sites: int
    bytes_from_sites: int
    sites: dict[str, SiteView]


def view(state: Path, now: float) -> RunView:
    """How the run of a folder is; ``now`` in seconds since 1970.

    Raises:
        ConfigurationError: if the folder holds no run.
    """
    facts = read_json(state / "run.json")
    if facts is None and (state / "run.json").exists():
        raise ConfigurationError(
            f"{state / 'run.json'} is damaged: the next start of mtmd-server makes it anew, and goes on."
        )
    if facts is None:
        raise ConfigurationError(
            f"{state} holds no run: none was begun there yet, or give the --state folder that mtmd-server was given."
        )
    progress, outcome = read_json(state / "progress.json") or {}, read_json(state / "outcome.json")
    word = _state(facts, outcome, is_held(state))
    pace, last = _pace(state, facts["name"])
    round_, rounds = progress.get("round", last[0]), progress.get("rounds", last[1])
    running = word == "running"
    sites = _sites(state, facts, progress.get("here", []) if running else [])
    return RunView(
        state=word,
        message=str((outcome or progress).get("message", "")),
        run=facts["name"],
        phase=progress.get("phase", ""),
        round=round_,
        rounds=rounds,
        age_seconds=now - progress["time"] if "time" in progress else None,
        seconds_a_round=pace,
        seconds_left=pace * (rounds - round_) if running and pace is not None else None,
        bytes_to_sites=sum(site.bytes_to_site for site in sites.values()),
        bytes_from_sites=sum(site.bytes_from_site for site in sites.values()),
        sites=sites,
    )


def status(state: Path, as_json: bool) -> int:
    """Print how the run is; 0."""
    now = view(state, time.time())
    print(json.dumps(asdict(now), indent=2) if as_json else "\n".join(lines(now)))
    return 0


def lines(run: RunView) -> list[str]:
    """A run's view for people."""
    what = {
        "stopped": "stopped (mtmd-server with the same words goes on from its last round)",
        "running": "running",
    }.get(run.state, run.state)
    text = [f"run {run.run}: {what}"]
    phase = f"{run.phase}, " if run.phase else ""
    text.append(f"  {phase}{run.round} of {run.rounds} rounds closed" + (f"; {run.message}" if run.message else ""))
    if run.seconds_left is not None:
        text.append(
            f"  about {say_duration(run.seconds_left)} left in this phase, {say_duration(run.seconds_a_round)} a round"
        )
    if run.age_seconds is not None:
        text.append(f"  last sign of life {say_duration(max(run.age_seconds, 0))} ago")
    text.append(f"  {say_bytes(run.bytes_to_sites)} to sites, {say_bytes(run.bytes_from_sites)} from sites")
    width = max(map(len, run.sites), default=0)
    for name, site in run.sites.items():
        words = [_presence(site, run), f"last used in round {site.last_round or '–'}"]
        words.append(f"{say_bytes(site.bytes_to_site)} to, {say_bytes(site.bytes_from_site)} from")
        if site.refusals:
            words.append(f"refused {site.refusals} times, {site.refusals_in_a_row} in a row")
        text.append(f"  {name:<{width}}  {' · '.join(words)}")
        if site.last_refusal is not None:
            refusal = site.last_refusal
            text.append(f"  {'':<{width}}  round {refusal['round']}: {refusal['reason']}: {refusal['detail']}")
        if site.revoked:
            text.append(f"  {'':<{width}}  revoked on {site.revoked}; let it in again with: mtmd-server admit FILE")
        if site.set_aside:
            text.append(f"  {'':<{width}}  take it back with: mtmd-server readmit {name}")
    return text


def _presence(site: SiteView, run: RunView) -> str:
    if site.revoked:
        return "REVOKED"
    if site.set_aside:
        return "SET ASIDE"
    if site.here:
        return "here"
    return "away" if run.state == "running" else "–"


def _state(facts: dict[str, Any], outcome: dict[str, Any] | None, held: bool) -> str:
    if outcome is not None:
        return "failed" if outcome["exit_code"] else "finished"
    if facts.get("finished"):
        return "finished"
    return "running" if held else "stopped"


def _pace(state: Path, run: str) -> tuple[float | None, tuple[int, int]]:
    """Seconds a round in the run's last phase, and that phase's last closed round with its rounds."""
    closed = [event for event in events(state / AUDIT) if event["event"] == "round_closed" and event["run"] == run]
    if not closed:
        return None, (0, 0)
    own = [event for event in closed if event["phase"] == closed[-1]["phase"]]
    return seconds_a_round([event["time"] for event in own]), (own[-1]["round"], own[-1]["rounds"])


def _sites(state: Path, facts: dict[str, Any], here: list[str]) -> dict[str, SiteView]:
    standing, sums = read_standing(state), {}
    for path in sorted(state.glob(f"*{METRICS}")):
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # it is being written, or a crash cut it short
                continue
            to, back, last = sums.get(line["site"], (0, 0, 0))
            last = line["round"] if path.name == METRICS else last
            sums[line["site"]] = to + line["bytes_to_site"], back + line["bytes_from_site"], last
    names = sorted({*facts.get("sites", {}), *standing, *here})
    revoked = {name: entry.revoked for name, entry in Admission(state).entries().items()}
    return {
        name: _site(name in here, revoked.get(name), standing.get(name, SiteStanding()), *sums.get(name, (0, 0, 0)))
        for name in names
    }


def _site(here: bool, revoked: str | None, own: SiteStanding, to: int, back: int, last: int) -> SiteView:
    refusal = {"round": own.round, "reason": own.reason, "detail": own.detail} if own.reason else None
    return SiteView(here, revoked, own.set_aside, last, own.refusals, len(own.in_a_row), refusal, to, back)
