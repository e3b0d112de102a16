"""Keeps a site in its federation: Flower's SuperNode, which speaks with the server, and the warm worker, which does the work.

Both are children of this process and end with it. Each is replaced when it dies; a message that a worker died over is
answered with an error by the next one.
"""

import os
import secrets
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from mtmd_core.errors import RunFailedError, SiteError, UnreachableError
from mtmd_core.processes import (
    Interrupted,
    child_environment,
    end,
    exclusive,
    free_port,
    last_lines,
    open_log,
    signals_as_exceptions,
    start,
    text_since,
)

from .knock import knocker
from .settings import SiteSettings, require_data_folder, require_server
from .site_status import StatusFile, notice_line
from .worker_process import WorkerProcess

RESTARTS = 5
"""Times that a child may be replaced within ``RESTARTS_WINDOW_SECONDS``."""
RESTARTS_WINDOW_SECONDS = 600.0
REFUSED_BACKOFF_SECONDS = 65.0
"""A server refuses a key that it has seen within the last 60 s, so a SuperNode that was refused waits longer."""
HANGS = 2
"""Hangs in a row at which a message is answered as failed, instead of being asked for once more."""
_LOOK_SECONDS = 0.05
_HEALTH_SECONDS = 5.0
_GOODBYE_SECONDS = 3.0
_FLOWER_SWITCHES = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}

Say = Callable[[str], None]


def join(settings: SiteSettings, say: Say, on_joined: Callable[[], None]) -> int:
    """Take part in the server's run until it is over; the exit code that the server's good-bye came with (0 or 1).

    ``on_joined`` is called whenever the server has let the site in, also after a lost connection.

    Raises:
        ConfigurationError: if the settings do not allow it, or another process holds the state folder.
        DataError: if the site's exams cannot be opened; nothing has been sent by then.
        UnreachableError: if the server stays away for ``connect_timeout_seconds``, does not let this site in, or is not the
            one that the authority's certificate vouches for.
        RunFailedError: if a child process keeps dying.
        Interrupted: on SIGINT, SIGTERM or SIGHUP, after all children have ended.
    """
    check_ready(settings)
    with exclusive(settings.state, "mtmd-client"), signals_as_exceptions():
        supervisor = Supervisor(settings, say, on_joined)
        try:
            return supervisor.run()
        except Interrupted as ended:
            say(f"{ended}: ending all that it started; the same command takes part again")
            raise
        finally:
            supervisor.end()


def check_ready(settings: SiteSettings) -> None:
    """Refuse, before anything is started or written, what cannot work.

    Raises:
        ConfigurationError: if the settings do not allow to talk to the server, or no data folder is set.
        DataError: if the data folder is none.
    """
    require_server(settings)
    require_data_folder(settings)


class Supervisor:
    """One site's children and what is known about them."""

    def __init__(self, settings: SiteSettings, say: Say, on_joined: Callable[[], None]) -> None:
        self._settings = settings
        self._say = say
        self._on_joined = on_joined
        self._knock = knocker(settings)
        self._logs = settings.state / "logs"
        self._secret = secrets.token_bytes(32)
        self._secret_file = settings.state / "supernode.secret"
        self._worker: WorkerProcess | None = None
        self._worker_ends: deque[float] = deque()
        self._hangs = 0  # messages in a row that ended by the watchdog
        self._status = StatusFile(settings.state, settings.site)
        self._supernode: subprocess.Popen[bytes] | None = None
        self._supernode_ends: deque[float] = deque()
        self._supernode_start_at = 0.0
        self._supernode_log_from = 0
        self._runtime = ""
        self._joined = False
        self._server_answers = False
        self._server_seen = time.monotonic()
        self._server_asked = 0.0

    def run(self) -> int:
        """Open the data, join, and watch until the run is over."""
        self._knock()  # a site that is refused need not wait until its data are open
        self._write_secret()
        self._status.now("opening the data")
        self._say(f"opening {self._settings.data}")
        self._start_worker()
        while not self._worker.is_open:
            if (code := self._watch_worker()) is not None:
                return code
            time.sleep(_LOOK_SECONDS)
        self._status.now("looking for the server")
        self._say(f"data opened; looking for the server at {self._settings.server}")
        self._server_seen = time.monotonic()
        while True:
            self._watch_server()
            self._watch_supernode()
            if (code := self._watch_worker()) is not None:
                return code
            time.sleep(_LOOK_SECONDS)

    def end(self) -> None:
        """End both children and all that they started."""
        if self._worker is not None:
            end(self._worker.process, grace_seconds=3.0)
        if self._supernode is not None:
            end(self._supernode)
        self._secret_file.unlink(missing_ok=True)

    # the worker

    def _start_worker(self, lost: dict[str, Any] | None = None) -> None:
        self._worker = WorkerProcess(self._settings, self._secret, self._logs / "worker.log")
        if self._runtime:
            self._worker.order(runtime=self._runtime, lost=lost)

    def _watch_worker(self) -> int | None:
        """Hear what the worker says; the exit code once it says that the run is over."""
        worker = self._worker
        ended = worker.process.poll() is not None  # asked first: what it said before is still heard below
        for event in worker.events():
            line = worker.hear(event)
            if line:
                self._say(line)
            if self._status.hear(event) and event["event"] == "notice":
                self._say(notice_line(event))
            if event["event"] in ("replied", "failed"):
                self._hangs = 0
        if worker.left is not None:
            self._let_reply_through()
            return worker.left
        error = SiteError.WORKER_DIED
        if not ended and (overdue := worker.overdue(self._settings)):
            self._say(f"{overdue}: replacing the worker")
            end(worker.process, grace_seconds=0.0)
            self._hangs += 1
            error, ended = SiteError.WORKER_HUNG, True
        if ended:
            if worker.refusal is not None:
                raise worker.refusal
            cause = f"the worker ended unexpectedly ({_ending(worker.process)})"
            if not self._runtime and not worker.is_open:
                raise RunFailedError(
                    f"{cause} before it had opened the data: {last_lines(worker.log, worker.log_from, count=1)} "
                    f"(more in {worker.log})"
                )
            if _too_many(self._worker_ends):
                raise RunFailedError(
                    f"{cause} {RESTARTS + 1} times within {RESTARTS_WINDOW_SECONDS / 60:.0f} minutes; the cause is in "
                    f"{self._logs / 'worker.log'}."
                )
            self._say(f"{cause}; starting it again")
            end(worker.process, grace_seconds=0.0)
            again = error is SiteError.WORKER_DIED or self._hangs < HANGS
            self._start_worker(None if worker.task is None else {**worker.task, "error": error.value, "again": again})
        return None

    def _let_reply_through(self) -> None:
        """Give the SuperNode a moment to send the reply to the good-bye: it logs one fate for each message received."""
        if self._supernode is None:  # it has ended meanwhile, and its reply with it
            return
        deadline = time.monotonic() + _GOODBYE_SECONDS
        while self._supernode.poll() is None and time.monotonic() < deadline:
            said = text_since(self._logs / "supernode.log", self._supernode_log_from)
            fates = ("Sent successfully", "Failed to send", "Failed to receive", "Ignoring")
            if said.count("Receiving:") <= sum(map(said.count, fates)):
                return
            time.sleep(_LOOK_SECONDS)

    # the SuperNode

    def _start_supernode(self) -> None:
        log = self._logs / "supernode.log"
        port = free_port()
        self._runtime = f"127.0.0.1:{port}"
        with open_log(log) as file:
            self._supernode_log_from = file.tell()
        waits = [str(self._settings.server_poll_seconds), str(self._settings.poll_seconds)]
        command = [sys.executable, "-m", "client.supernode", *waits]
        command += ["--superlink", self._settings.server]
        if self._settings.insecure:
            command += ["--insecure"]
        else:
            command += ["--root-certificates", str(self._settings.authority_file)]
            command += ["--auth-supernode-private-key", str(self._settings.key_file)]
        command += ["--isolation", "process", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--superexec-auth-secret-file", str(self._secret_file)]
        switches = {**_FLOWER_SWITCHES, "FLWR_HOME": str(self._settings.state / "flower")}
        self._supernode = start(command, log, child_environment(switches))
        self._joined = False
        self._worker.order(runtime=self._runtime, lost=None)

    def _watch_supernode(self) -> None:
        log = self._logs / "supernode.log"
        if self._supernode is None:
            if self._server_answers and time.monotonic() >= self._supernode_start_at:
                self._start_supernode()
        elif self._supernode.poll() is None:
            if not self._joined and "SuperNode ID:" in text_since(log, self._supernode_log_from):
                self._joined = True
                self._status.now("waiting for a message")
                self._say(f"joined {self._settings.server}")
                self._on_joined()
        else:
            said = text_since(log, self._supernode_log_from)
            end(self._supernode, grace_seconds=0.0)
            cause = f"the connection to the server ended ({_ending(self._supernode)})"
            self._supernode = None
            self._server_answers, self._server_asked = False, 0.0  # whether it still lets this site in is asked first
            if _too_many(self._supernode_ends):
                raise UnreachableError(
                    f"{cause} {RESTARTS + 1} times within {RESTARTS_WINDOW_SECONDS / 60:.0f} minutes; the cause is in {log}."
                )
            attempts = len(self._supernode_ends)
            wait = REFUSED_BACKOFF_SECONDS if "Exit Code: 305" in said else 0.0 if self._joined else 2.0**attempts
            self._supernode_start_at = time.monotonic() + wait
            self._say(f"{cause}; joining again" + (f" in {wait:.0f} s" if wait else ""))

    # the server

    def _watch_server(self) -> None:
        now = time.monotonic()
        interval = _HEALTH_SECONDS if self._server_answers else 0.5
        if now - self._server_asked < interval:
            return
        answers = self._knock()
        self._server_asked = time.monotonic()
        if answers:
            self._server_seen = self._server_asked
        elif self._server_answers:
            self._status.now("looking for the server")
            self._say(f"the server at {self._settings.server} does not answer; waiting for it")
        self._server_answers = answers
        away = self._server_asked - self._server_seen
        if away > self._settings.connect_timeout_seconds:
            raise UnreachableError(
                f"no answer from {self._settings.server} for {away:.0f} s: check that mtmd-server is running there and that "
                "host and port are right (connect_timeout_seconds sets how long to wait)."
            )

    def _write_secret(self) -> None:
        self._secret_file.unlink(missing_ok=True)
        handle = os.open(self._secret_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(self._secret)


def _too_many(ends: deque[float]) -> bool:
    """Note that a child has ended; whether that happened more than ``RESTARTS`` times within the window."""
    now = time.monotonic()
    ends.append(now)
    while now - ends[0] > RESTARTS_WINDOW_SECONDS:
        ends.popleft()
    return len(ends) > RESTARTS


def _ending(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
