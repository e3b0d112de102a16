"""``mtmd-client status``: what a site is doing, read from the files of its own folder alone, at any time."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtmd_core.errors import ConfigurationError
from mtmd_core.processes import is_held
from mtmd_core.quantities import say_bytes, say_duration, seconds_a_round

from .site_status import SiteStatus, notice_line, read_status


def status(site: str, state: Path, as_json: bool) -> int:
    """Print what a site is doing; 0.

    Raises:
        ConfigurationError: if the folder holds no status.
    """
    known = read_status(state)
    if known is None:
        raise ConfigurationError(
            f"{state} holds no status: {site} has not run from there yet (--state DIR: another folder)."
        )
    now = view(known, is_held(state), time.time())
    print(json.dumps(now, indent=2) if as_json else "\n".join(lines(now)))
    return 0


def view(known: SiteStatus, held: bool, now: float) -> dict[str, Any]:
    """The status with what follows from it: whether the program runs, and the time left in this phase of the run."""
    pace = seconds_a_round(known.answered)
    left = pace * (known.rounds - known.round) if held and pace is not None and known.rounds else None
    return {
        **asdict(known),
        "running": held,
        "age_seconds": now - known.time,
        "seconds_a_round": pace,
        "seconds_left": left,
    }


def lines(now: dict[str, Any]) -> list[str]:
    """A site's view for people."""
    doing = now["state"] if now["running"] or now["state"] == "done" else f"not running (last: {now['state']})"
    text = [f"{now['site']}: {doing}, {say_duration(max(now['age_seconds'], 0))} ago"]
    if now["run"]:
        of = f" of {now['rounds']}" if now["rounds"] else ""
        step = f", step {now['step']} of {now['steps']}" if now["steps"] and now["running"] else ""
        text.append(f"  run {now['run']}: {now['kind']}, round {now['round']}{of}{step}")
    if now["seconds_left"] is not None:
        text.append(
            f"  about {say_duration(now['seconds_left'])} left in this phase, {say_duration(now['seconds_a_round'])} a round"
        )
    text.append(f"  {say_bytes(now['bytes_received'])} received, {say_bytes(now['bytes_sent'])} sent in this phase")
    if now["notice"] is not None:
        again = "" if now["set_aside"] or not now["notice"]["set_aside"] else " (and asked again since)"
        text.append(f"  {notice_line(now['notice'])}{again}")
        text.append(f"  {now['refusals']} rounds left out in this phase")
    if now["error"] is not None:
        text.append(
            f"  round {now['error']['round']} could not be answered: {now['error']['error']}; see logs/worker.log"
        )
    return text
