"""One federation of real processes on loopback, and what the drill does to them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mtmd_core.processes import child_environment, descendants, end, is_running, start, text_since

from .disk import Disk
from .exams import SITES
from .orders import VARIABLE, Orders
from .premises import Premises
from .records import Records
from .verdict import StuckError

PATIENCE_SECONDS = 150.0
"""How long anything that must come may take, on a machine that does other things too."""
_LOOK_SECONDS = 0.05
_GRACE_SECONDS = 2.0
TRAINING = (
    "network.width=4",
    "data.slice_size=16",
    "training.batch_size=6",
    "training.steps=6",
    "training.validate_every_steps=3",
    "threads=1",
    "federation.local_steps=2",
    "federation.validate_every_rounds=99",
    "federation.calibration_batches=1",
    f"federation.join_timeout_seconds={PATIENCE_SECONDS:g}",
    f"federation.round_timeout_seconds={PATIENCE_SECONDS:g}",
)
"""A run over the sites of which a round takes about a second."""


class Federation:
    """A coordinator and three sites, each in a folder of its own.

    Args:
        folder: of all four.
        premises: what they begin as.
        words: of the run's configuration; later ones win.
    """

    def __init__(self, folder: Path, premises: Premises, words: Sequence[str]) -> None:
        self.folder = folder
        self.premises = premises
        self.words = (*TRAINING, *words)
        self.server: subprocess.Popen[bytes] | None = None
        self.sites: dict[str, subprocess.Popen[bytes]] = {}
        self.orders: dict[str, Orders] = {}
        self.disk: Disk | None = None  # under one of the folders, where an event fills it
        premises.copy_to(folder)

    def __enter__(self) -> "Federation":
        return self

    def __exit__(self, *_exception: object) -> None:
        for process in (*self.sites.values(), self.server):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    _signal([process.pid, *descendants(process.pid)], signal.SIGCONT)  # one that is frozen cannot end
                end(process, _GRACE_SECONDS)

    @property
    def state(self) -> Path:
        """The coordinator's folder."""
        return self.folder / "server"

    def site_folder(self, site: str) -> Path:
        """A site's own folder."""
        return self.folder / "sites" / site

    def order(self, site: str, faults: Mapping[int, str] | None = None, stops: Sequence[int] = ()) -> Orders:
        """Have a site start with the drill's own worker from now on, under orders (:mod:`.orders`)."""
        self.orders[site] = Orders.give(self.folder / "orders" / site, dict(faults or {}), list(stops))
        return self.orders[site]

    def limit_steps(self, site: str, seconds: float) -> None:
        """Have a site's watchdog end each training step after so many seconds."""
        with open(self.site_folder(site) / "site.yaml", "a", encoding="utf-8") as file:
            file.write(f"step_timeout_seconds: {seconds:g}\n")

    def start(self) -> None:
        """Start the server and all sites."""
        self.start_server()
        for site in SITES:
            self.start_site(site)

    def start_server(self, *words: str) -> None:
        """Start ``mtmd-server``, anew or for the first time; ``words`` of the configuration win over the federation's own."""
        self.server = self._start(
            "server.command", self.folder / "server.log", {}, "--state", str(self.state), "--sites", ",".join(SITES),
            "--port", str(self.premises.port), "--page-port", "0", *self.words, *words,
        )  # fmt: skip

    def start_site(self, site: str) -> None:
        """Start ``mtmd-client`` at a site, anew or for the first time; the drill's own where there are orders for it."""
        orders = self.orders.get(site)
        module = "client.command" if orders is None else "simulation.drill.saboteur"
        environment = {} if orders is None else {VARIABLE: str(orders.folder)}
        words = ("--site", site, "--state", str(self.site_folder(site)))
        self.sites[site] = self._start(module, self.site_log(site), environment, *words)

    def site_log(self, site: str) -> Path:
        """What a site's command printed."""
        return self.folder / f"{site}.log"

    def records(self) -> Records:
        """What the server has written so far."""
        return Records.read(self.state)

    def said(self, who: str, since: int = 0) -> str:
        """What a site's command, or ``server``, printed from a position on."""
        return text_since(self.folder / f"{who}.log", since)

    def position(self, who: str) -> int:
        """Where the output of a site's command, or of ``server``, ends now."""
        path = self.folder / f"{who}.log"
        return path.stat().st_size if path.exists() else 0

    def wait(self, condition: Callable[[], object], what: str, ends: bool = False) -> float:
        """Wait for something; how many seconds it took.

        Args:
            condition: asked again and again.
            what: is waited for.
            ends: whether the server may end meanwhile.

        Raises:
            StuckError: if it does not come in time, or cannot any more because the server has ended.
        """
        began = time.monotonic()
        while not condition():
            if not ends and self.server is not None and self.server.poll() is not None and not condition():
                raise StuckError(f"the server ended with {self.server.returncode} before {what}: {self._last_words()}")
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise StuckError(f"{what}: not within {PATIENCE_SECONDS:g} s")
            time.sleep(_LOOK_SECONDS)
        return time.monotonic() - began

    def wait_closed(self, round_: int) -> None:
        """Wait until a round was closed; a later one says so, too, for on a full disk an event may go unwritten."""
        self.wait(lambda: self.records().last_closed() >= round_, f"round {round_} was closed")

    def wait_stopped(self, site: str, round_: int) -> None:
        """Wait until a site's worker has come to a stop in its training of a round."""
        self.wait(lambda: self.orders[site].is_stopped(round_), f"{site} trained in round {round_}")

    def wait_said(self, who: str, words: str, since: int) -> None:
        """Wait until a site's command, or ``server``, has printed some words after a position."""
        self.wait(lambda: words in self.said(who, since), f"{who} said '{words}'", ends=True)

    def wait_server(self) -> int:
        """Wait for the server's end; its exit code."""
        self.wait(lambda: self.server.poll() is not None, "the server ended", ends=True)
        return self.server.returncode

    def wait_site(self, site: str) -> int:
        """Wait for the end of a site's command; its exit code."""
        self.wait(lambda: self.sites[site].poll() is not None, f"the command of {site} ended", ends=True)
        return self.sites[site].returncode

    def kill(self, process: subprocess.Popen[bytes]) -> list[int]:
        """Kill one of the two commands outright and wait until its children have ended by themselves; their numbers.

        Raises:
            StuckError: if one of them outlives it.
        """
        family = descendants(process.pid)
        process.kill()
        process.wait()
        self.wait(lambda: not any(map(is_running, family)), "the children of a killed command ended", ends=True)
        return family

    def kill_child(self, process: subprocess.Popen[bytes], module: str) -> None:
        """Kill the child of a command that runs a certain module or program.

        Raises:
            StuckError: if there is none.
        """
        found = [pid for pid in descendants(process.pid) if module in _command_line(pid)]
        if not found:
            raise StuckError(f"no process runs {module}")
        os.kill(found[0], signal.SIGKILL)

    def family(self, process: subprocess.Popen[bytes]) -> list[int]:
        """A command's process and all that it started."""
        return [process.pid, *descendants(process.pid)]

    def freeze(self, process: subprocess.Popen[bytes]) -> None:
        """Have a command and all that it started stand still: alive and deaf."""
        _signal(self.family(process), signal.SIGSTOP)

    def thaw(self, process: subprocess.Popen[bytes]) -> None:
        """Undo :meth:`freeze`."""
        _signal(self.family(process), signal.SIGCONT)

    def _start(self, module: str, log: Path, environment: Mapping[str, str], *words: str) -> subprocess.Popen[bytes]:
        # by mtmd_core.processes: it ends when the drill does, however the drill ends
        command = [sys.executable, "-m", "mtmd_core.processes", sys.executable, "-m", module, *words]
        return start(command, log, child_environment({"OMP_NUM_THREADS": "1", **environment}))

    def _last_words(self) -> str:
        lines = [line for line in self.said("server").splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
