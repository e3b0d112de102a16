"""What a site is doing, in a small file in its own folder, which ``mtmd-client status`` reads.

The process that supervises the site keeps it, replaced as a whole at every event; after a crash it says what was going on.
"""

import contextlib
import json
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mtmd_core.quantities import RECENT
from mtmd_core.refusals import MEANING, Reason

FILE = "status.json"


@dataclass
class SiteStatus:
    """A site in its last run.

    ``state`` is a phrase for people; ``run``, ``kind``, ``round``, ``rounds``, ``step`` and ``steps`` are of the last message.
    ``answered``: when the last TRAIN messages of the run were answered, in seconds since 1970. Bytes are of arrays, in this run.
    ``notice``: the last one that came (:class:`mtmd_core.wire.Notice`), ``refusals`` how many rounds of the run had one;
    ``set_aside`` until the site is asked again. ``error`` is of the last message that could not be answered.
    """

    site: str
    state: str = "not started"
    time: float = 0.0
    run: str = ""
    kind: str = ""
    round: int = 0
    rounds: int = 0
    step: int = 0
    steps: int = 0
    answered: list[float] = field(default_factory=list)
    bytes_received: int = 0
    bytes_sent: int = 0
    refusals: int = 0
    notice: dict[str, Any] | None = None
    set_aside: bool = False
    error: dict[str, Any] | None = None


class StatusFile:
    """Keeps a site's status.

    Args:
        folder: of the site.
        site: its name.
    """

    def __init__(self, folder: Path, site: str) -> None:
        self._folder = folder
        self.status = read_status(folder) or SiteStatus(site)

    def now(self, state: str) -> None:
        """Say what the site is doing."""
        self.status.state, self.status.time = state, time.time()
        draft = self._folder / f".{FILE}"  # replaced as a whole, and worth no flush to the disk
        with contextlib.suppress(OSError):  # a disk that is full ends no site: the next event tries again
            self._folder.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(asdict(self.status)), encoding="utf-8")
            draft.replace(self._folder / FILE)

    def hear(self, event: dict[str, Any]) -> bool:
        """Take note of what the worker says; whether it was news: the server repeats a notice until a reply was used."""
        status, what = self.status, event["event"]
        if what == "pulled":
            self._begin(event)
        elif what == "step":
            status.step, status.steps = event["done"], event["steps"]
        elif what == "notice":
            notice = {key: value for key, value in event.items() if key != "event"}
            if status.notice == notice:
                return False
            known = status.notice is not None and _visit(status.notice) == _visit(notice)
            status.notice, status.refusals = notice, status.refusals + (not known)
            status.set_aside = notice["set_aside"]
        elif what == "replied":
            status.bytes_sent += event["bytes"]
            if event["kind"] == "train":
                status.answered = [*status.answered, time.time()][-RECENT - 1 :]
        elif what == "failed":
            status.error = {"round": status.round, "error": event["error"]}
        elif what == "leaving":
            self.now("done" if event["code"] == 0 else "the run failed")
            return True
        else:
            return False
        self.now("waiting for a message" if what in ("replied", "failed") else status.state)
        return True

    def _begin(self, event: dict[str, Any]) -> None:
        """A message came; a run of another name begins with counts of its own."""
        status = self.status
        if event.get("run", status.run) != status.run:
            self.status = status = SiteStatus(status.site)
        status.run = event.get("run", status.run)
        status.kind = event["kind"] if "run" in event else status.kind
        status.round, status.rounds = event.get("round", status.round), event.get("rounds", status.rounds)
        status.step = status.steps = 0
        status.bytes_received += event["bytes"]
        if "run" in event:
            status.set_aside = False
        status.state = {"train": "training", "evaluate": "evaluating"}.get(event["kind"], "answering")


def read_status(folder: Path) -> SiteStatus | None:
    """The status that a site's folder holds; None if there is none."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    known = {entry.name for entry in fields(SiteStatus)}
    return SiteStatus(**{key: value for key, value in content.items() if key in known})


def notice_line(notice: dict[str, Any]) -> str:
    """What the server says of a reply, for people: nothing of it is quoted but numbers and words that are known here."""
    reason = notice["reason"]
    why = MEANING[Reason(reason)] if reason in set(Reason) else "this version does not know why"
    word = reason if reason in set(Reason) else "another reason"
    line = f"the server left out the reply of round {int(notice['round'])}: {word} ({why})"
    if notice["set_aside"]:
        return (
            f"{line}; after {int(notice['in_a_row'])} in a row this site is set aside until the coordinator readmits it"
        )
    return line


def _visit(notice: dict[str, Any]) -> tuple[str, int]:
    return notice["run"], notice["round"]
