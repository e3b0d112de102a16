"""The open port as a child process of ``mtmd-server``."""

import socket
import subprocess
import sys
import time
from pathlib import Path

from mtmd_core.errors import RunFailedError, UnreachableError
from mtmd_core.processes import child_environment, end, last_lines, open_log, start

from .superlink import require_free_port

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that mean every interface, and where this machine itself then finds the port."""


class DoorProcess:
    """:mod:`server.door`, from start to end."""

    def __init__(self, state: Path, listen: str, port: int) -> None:
        """``state`` is the coordinator's folder, ``listen`` the address of an interface of this machine."""
        self._state, self._listen, self._port = state, listen, port
        self._log = state / "logs" / "door.log"
        self._log_from = 0
        self._process: subprocess.Popen[bytes] | None = None

    def require_free(self) -> None:
        """Raise if the port is taken.

        Raises:
            ConfigurationError: naming the port.
        """
        require_free_port(self._port, self._listen)

    def start(self, superlink_port: int, timeout_seconds: float) -> None:
        """Open the port and wait until it is.

        Raises:
            RunFailedError: if the process ends instead.
            UnreachableError: if the port is not open in time.
        """
        with open_log(self._log) as file:
            self._log_from = file.tell()
        command = [
            sys.executable,
            "-m",
            "server.door",
            str(self._state),
            self._listen,
            str(self._port),
            str(superlink_port),
        ]
        self._process = start(command, self._log, child_environment({}))
        deadline = time.monotonic() + timeout_seconds
        while not self._is_open():
            self.require_alive()
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"port {self._port} of {self._listen} has not opened within {timeout_seconds:g} s; the output of what "
                    f"serves it is in {self._log}."
                )
            time.sleep(0.1)

    def require_alive(self) -> None:
        """Raise if the process has ended.

        Raises:
            RunFailedError: with its last words.
        """
        if self._process.poll() is not None:
            raise RunFailedError(
                f"what serves port {self._port} ended with code {self._process.returncode}: "
                f"{last_lines(self._log, self._log_from)} (more in {self._log}); start mtmd-server again, and the run goes on."
            )

    def end(self, grace_seconds: float) -> None:
        """Close the port."""
        if self._process is not None:
            end(self._process, grace_seconds)

    def _is_open(self) -> bool:
        try:
            with socket.create_connection((_EVERYWHERE.get(self._listen, self._listen), self._port), timeout=2.0):
                return True
        except OSError:
            return False
