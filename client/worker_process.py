"""The worker as its supervisor sees it: a process that takes orders and says what it does, line by line in JSON."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from mtmd_core.errors import ConfigurationError, DataError, RunFailedError
from mtmd_core.processes import child_environment, open_log, start

from .settings import SiteSettings, to_plain

WORKER_MODULE = "client.worker"
"""What a worker's process runs."""


class WorkerProcess:
    """The worker's process and what it has said so far."""

    def __init__(self, settings: SiteSettings, secret: bytes, log: Path) -> None:
        self.log = log
        with open_log(log) as file:
            self.log_from = file.tell()
        self.process = start([sys.executable, "-m", WORKER_MODULE], log, child_environment({}), talks=True)
        os.set_blocking(self.process.stdout.fileno(), False)
        self._heard = b""
        self._busy_since: float | None = None
        self._step_since: float | None = None  # while there are training steps to come
        self.is_open = False
        self.left: int | None = None
        self.refusal: Exception | None = None
        self.task: dict[str, Any] | None = None
        self.order(settings=to_plain(settings), secret=secret.hex())

    def order(self, **order: Any) -> None:
        """Send one line; a worker that has died meanwhile is noticed elsewhere."""
        try:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return

    def events(self) -> list[dict[str, Any]]:
        """What the worker has said since the last call."""
        while chunk := self._read():
            self._heard += chunk
        *lines, self._heard = self._heard.split(b"\n")
        return [json.loads(line) for line in lines]

    def hear(self, event: dict[str, Any]) -> str | None:
        """Take note of one event; a line for people, if it is worth one."""
        what, name = event["event"], _name(event)
        if what == "open":
            self.is_open = True
        elif what == "refused":
            self.refusal = _refusal(event["code"], event["message"])
        elif what == "claimed":
            self.task, self._busy_since = {"token": event["token"], "metadata": None}, time.monotonic()
        elif what == "pulled":
            self.task["metadata"] = event["metadata"]
        elif what == "step":
            self._step_since = time.monotonic() if event["done"] < event["steps"] else None
        elif what in ("replied", "failed", "dropped", "lost"):
            self.task, self._busy_since, self._step_since = None, None, None
        elif what == "leaving":
            self.left = event["code"]
        if what == "replied":
            return f"{name} answered in {event['seconds']:.1f} s"
        if what == "failed":
            return f"{name} failed ({event['error']}); the cause is in {self.log}"
        return None

    def overdue(self, settings: SiteSettings) -> str | None:
        """What takes longer than the site's settings allow: a training step, or the message in hand; None if nothing does."""
        now = time.monotonic()
        for what, since, limit in (
            ("a training step has taken", self._step_since, settings.step_timeout_seconds),
            ("a message has been worked on for", self._busy_since, settings.message_timeout_seconds),
        ):
            if since is not None and now - since > limit:
                return f"{what} more than {limit:g} s"
        return None

    def _read(self) -> bytes:
        return self.process.stdout.read(65536) or b""  # None: nothing to read just now


def _refusal(code: int, message: str) -> Exception:
    """The worker's error in this process, under its own exit code."""
    kinds = {kind.exit_code: kind for kind in (RunFailedError, ConfigurationError, DataError)}
    return kinds.get(code, RunFailedError)(message)


def _name(event: dict[str, Any]) -> str:
    group, kind = event.get("group"), event.get("kind", "")
    return f"round {group}: {kind}" if group else kind
