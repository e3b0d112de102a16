"""Flower's SuperLink as a child process, and the run that it carries.

The SuperLink is driven through Flower's own command line (``flwr ... --format json``) and asked for the run's state by
``flwr ls``, because ``flwr run`` ends with 0 even when the run fails. One port serves everything and asks for no
credential, so it listens on loopback only.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from mtmd_core.durable import write_text
from mtmd_core.errors import ConfigurationError, RunFailedError, UnreachableError
from mtmd_core.processes import (
    child_environment,
    descendants,
    end,
    installed_command,
    is_healthy,
    is_running,
    last_lines,
    open_log,
    start,
)

HOST = "127.0.0.1"
_CONNECTION = "mtmd"
_COMMAND_TIMEOUT_SECONDS = 60.0
_STATUS_TIMEOUT_SECONDS = 20.0
STATUS_SECONDS = 60.0
"""Seconds between two questions how the run is: the run's own outcome normally comes first."""
STATUS_FAILURES = 5
"""Questions in a row that may fail while the SuperLink lives."""

_log = logging.getLogger("mtmd.server")


class SuperLink:
    """One SuperLink process on loopback."""

    def __init__(self, state: Path, port: int, admission: bool = False) -> None:
        """Nothing is started yet.

        Args:
            state: the coordinator's folder; Flower's own files go to ``state/flower``, its output to ``state/logs``.
            port: of loopback.
            admission: only nodes with the key of an admitted site take part, each under that site's name.
        """
        self._state = state
        self._port = port
        self._home = state / "flower"
        self._log = state / "logs" / "superlink.log"
        self._log_from = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._app: list[int] | None = None
        self._environment = child_environment(
            {
                "FLWR_HOME": str(self._home),
                "FLWR_TELEMETRY_ENABLED": "0",
                "FLWR_DISABLE_UPDATE_CHECK": "1",
                "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
                "MTMD_SERVER_STATE": str(state),
                "MTMD_ADMISSION": "1" if admission else "",
            }
        )

    def start(self, timeout_seconds: float) -> None:
        """Start it and wait until it answers.

        Raises:
            ConfigurationError: if the port is in use.
            RunFailedError: if it ends instead.
            UnreachableError: if it does not answer in time.
        """
        require_free_port(self._port)
        self._home.mkdir(parents=True, exist_ok=True)
        write_text(
            self._home / "config.toml",
            f'[superlink]\ndefault = "{_CONNECTION}"\n\n'
            f'[superlink.{_CONNECTION}]\naddress = "{HOST}:{self._port}"\ninsecure = true\n',
        )
        with open_log(self._log) as file:
            self._log_from = file.tell()
        command = [sys.executable, "-m", "mtmd_core.processes", installed_command("flower-superlink"), "--insecure"]
        # No --database: it would keep every message on disk (12 MB there and back take 3.0 s instead of 1.2 s) and buy
        # nothing, because a SuperLink that restarts does not resume its run; the run's own store does.
        command += ["--host", HOST, "--port", str(self._port), "--disable-runtime-dependency-installation"]
        self._process = start(command, self._log, self._environment)
        deadline = time.monotonic() + timeout_seconds
        while not is_healthy(HOST, self._port):
            self.require_alive()
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"Flower's SuperLink has not answered on {HOST}:{self._port} within {timeout_seconds:g} s; its output "
                    f"is in {self._log}."
                )
            time.sleep(0.1)

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def require_alive(self) -> None:
        """Raise if the SuperLink has ended.

        Raises:
            RunFailedError: with its last words.
        """
        if not self.is_alive():
            raise RunFailedError(
                f"Flower's SuperLink ended with code {self._process.returncode}: "
                f"{last_lines(self._log, self._log_from)} (more in {self._log})"
            )

    def app_runs(self) -> bool:
        """Whether the process of the ServerApp runs; to be asked only once the app has given a sign of life.

        The SuperLink starts a SuperExec, and that one the app. Flower itself notices the death of an app only when its
        heartbeats stay away.
        """
        if self._app is None:
            self._app = [app for child in descendants(self._process.pid) for app in descendants(child)]
        return any(map(is_running, self._app))

    def submit(self) -> str:
        """Start the run; its id.

        Raises:
            RunFailedError: if it is not accepted.
        """
        with as_file(files("server") / "bundle") as bundle:
            reply = self._flwr("run", str(bundle), _CONNECTION)
        if not reply.get("success") or not reply.get("run-id"):
            raise RunFailedError(f"Flower did not accept the run: {reply}")
        return str(reply["run-id"])

    def status(self, run_id: str) -> tuple[str, str]:
        """The run's state in Flower's words (``running``, ``finished:completed``, ``finished:failed``), and details.

        Raises:
            RunFailedError: if Flower does not know the run, or does not answer.
        """
        words = ("ls", _CONNECTION, "--run-id", run_id)
        runs = self._flwr(*words, timeout_seconds=_STATUS_TIMEOUT_SECONDS).get("runs")
        if not runs:
            raise RunFailedError(
                f"Flower does not know the run {run_id} any more; the SuperLink's output is in {self._log}."
            )
        return str(runs[0]["status"]), str(runs[0].get("status-details", ""))

    def stop_run(self, run_id: str) -> None:
        """Mark a run as stopped, if the SuperLink still lives; nothing else depends on it."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(RunFailedError):
                self._flwr("stop", run_id, _CONNECTION, timeout_seconds=10.0)

    def end(self, grace_seconds: float) -> None:
        """End the SuperLink and the processes that it started, the ServerApp among them."""
        if self._process is None:
            return
        end(self._process, grace_seconds)
        # Of a SuperLink that was killed nothing leads to its app any more.
        for pid in filter(is_running, self._app or []):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _flwr(self, *words: str, timeout_seconds: float = _COMMAND_TIMEOUT_SECONDS) -> dict[str, Any]:
        try:
            done = subprocess.run(
                [installed_command("flwr"), *words, "--format", "json"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_seconds,
                check=False,
            )
            reply = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            raise RunFailedError(f"`flwr {words[0]}` did not answer within {timeout_seconds:g} s.") from None
        except ValueError:
            said = " ".join((done.stderr or done.stdout).split())[-400:]
            raise RunFailedError(f"`flwr {words[0]}` ended with code {done.returncode}: {said}") from None
        if reply.get("success") is False:
            raise RunFailedError(f"`flwr {words[0]}`: {reply.get('error-message', reply)}")
        return reply


class StatusWatch:
    """Asks Flower how the run is, seldom and patiently: one question that fails says nothing about the run."""

    def __init__(self, ask: Callable[[], tuple[str, str]], now: float) -> None:
        """``ask`` gives the run's state and details, or raises RunFailedError; ``now`` is in seconds of any clock."""
        self._ask = ask
        self._next = now + STATUS_SECONDS
        self._failures = 0

    def ending(self, now: float) -> str:
        """How the run ended, in Flower's words; empty while it goes on, or until the next question is due.

        A run counts as ended, too, once more than ``STATUS_FAILURES`` questions in a row have failed.
        """
        if now < self._next:
            return ""
        self._next = now + STATUS_SECONDS
        try:
            status, details = self._ask()
        except RunFailedError as error:
            self._failures += 1
            _log.warning("how the run is could not be asked (%d in a row): %s", self._failures, error)
            return f"Flower gives no answer: {error}" if self._failures > STATUS_FAILURES else ""
        self._failures = 0
        return f"{status} {details}".strip() if status.startswith("finished") else ""


def require_free_port(port: int, host: str = HOST) -> None:
    """Raise if somebody listens on a port of this machine already.

    Raises:
        ConfigurationError: naming the port.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} of {host} cannot be used ({error.strerror}): end the program that listens there, or give "
                "another --port."
            ) from None
