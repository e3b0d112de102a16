"""Child processes that end with their parent, whatever ends the parent.

A command starts its children with :func:`start`, each as the leader of its own process group, so that Ctrl-C in a terminal
reaches the command alone and the command ends its children in order. Three things cover the rest:
:func:`end` ends a child with all that it started, :func:`signals_as_exceptions` turns a signal into an exception so that
``finally`` blocks run, and :func:`die_with_parent` makes the kernel end a child whose parent was killed outright.

``python -m mtmd_core.processes COMMAND ...`` runs a command that ends when the process that started it does.
"""

import contextlib
import ctypes
import fcntl
import http.client
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from mtmd_core.errors import ConfigurationError

LOG_LIMIT_BYTES = 5_000_000
_PR_SET_PDEATHSIG = 1
_KILLED_SECONDS = 5.0
_LOOK_SECONDS = 0.2


class Interrupted(Exception):  # noqa: N818 - a request from outside, not an error
    """A signal asked the process to end; ``exit_code`` is the shell's 128 + number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextlib.contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Raise :class:`Interrupted` in the main thread at the first SIGINT, SIGTERM or SIGHUP; ignore the following ones.

    They stay ignored when the block is left by that exception, so that the clean-up that follows is not cut short.
    SIGHUP stays ignored where it was (``nohup``); SIGINT does not, although a shell starts background jobs ignoring it.
    """

    def interrupt(number: int, _frame: object) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    handled = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handled.append(signal.SIGHUP)
    previous = {number: signal.signal(number, interrupt) for number in handled}
    interrupted = False
    try:
        yield
    except Interrupted:
        interrupted = True
        raise
    finally:
        if not interrupted:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT back until the block is left, so that a child which is being started is known when Ctrl-C comes.

    For the main thread. The signal's handler is exchanged, not blocked: another thread would still receive it.
    """
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(held[0])


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have this process end when its parent does, even if the parent is killed outright.

    On Linux the kernel sends ``number``; elsewhere a thread watches the parent and sends it.
    """
    parent = int(os.environ.get("MTMD_PARENT", os.getppid()))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it ended before the kernel was asked
            os.kill(os.getpid(), number)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


def end_with(*pids: int) -> None:
    """Have a thread end this process at once (SIGKILL) when its parent or one of the processes ``pids`` has ended.

    For a process that somebody else's program starts: from a thread of its own perhaps, whose end the kernel would take for the
    parent's.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and all(map(is_running, pids)):
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end with others", daemon=True).start()


def command_pid() -> int | None:
    """The process whose :func:`child_environment` this one lives in, whoever stands in between; None if there is none."""
    pid = os.environ.get("MTMD_PARENT")
    return None if pid is None else int(pid)


def installed_command(name: str) -> str:
    """The path of a console command that belongs to this Python's environment, whatever PATH says."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment for a child, plus ``extra``.

    This Python's commands come first on PATH (Flower starts its own by bare name), and loopback addresses never go
    through a proxy. What is imported is what is installed: not a folder that lies where the command was given, whatever its name.
    """
    environment = {**os.environ, "MTMD_PARENT": str(os.getpid()), "PYTHONSAFEPATH": "1", **extra}
    environment["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    for word in ("NO_PROXY", "no_proxy"):
        direct = [environment[word]] if environment.get(word) else []
        environment[word] = ",".join([*direct, "127.0.0.1", "localhost"])
    return environment


def start(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    *,
    talks: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a child as leader of its own process group, its output appended to the file ``log``.

    With ``talks``, its standard input and output are pipes and only its standard error goes to the log.
    """
    with open_log(log) as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else output,
            stderr=output,
            env=dict(environment),
            start_new_session=True,
        )


def open_log(path: Path) -> IO[bytes]:
    """Open a log for appending; one that has grown beyond ``LOG_LIMIT_BYTES`` is first put aside as ``*.1``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
        path.replace(path.with_suffix(path.suffix + ".1"))
    return open(path, "ab")


def end(child: subprocess.Popen[bytes], grace_seconds: float = 8.0) -> None:
    """End a child and everything that it started: ask first, and kill what is left after ``grace_seconds``.

    Descendants are listed before the child ends, because those in sessions of their own cannot be found afterwards.
    """
    family = descendants(child.pid)
    if child.poll() is None:
        _signal_group(child.pid, signal.SIGTERM)
    _wait_until_gone(child, family, grace_seconds)
    _signal_group(child.pid, signal.SIGKILL)
    for pid in family:
        if is_running(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    _wait_until_gone(child, family, _KILLED_SECONDS)
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was still to be written finds no reader
                pipe.close()


def descendants(pid: int) -> list[int]:
    """Process ids of all children, grandchildren and so on of ``pid``."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents().items():
        children.setdefault(parent, []).append(child)
    found, open_ends = [], [pid]
    while open_ends:
        for child in children.get(open_ends.pop(), []):
            found.append(child)
            open_ends.append(child)
    return found


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended yet (one that nobody has waited for has ended)."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        if Path("/proc/self").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def exclusive(folder: Path, what: str, word: str = "--state") -> Iterator[None]:
    """Hold ``folder`` for this process alone; the kernel lets go of it when the process ends, however it ends.

    Args:
        folder: made if it does not exist.
        what: runs in it, for the message.
        word: of the command line, by which another folder is given.

    Raises:
        ConfigurationError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a", encoding="utf-8") as file:
        if not _lock(file):
            raise ConfigurationError(
                f"{folder} is in use by another running {what}: end that one first, or give another {word} folder."
            )
        yield


@contextlib.contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Hold ``folder``, made if it does not exist, once whoever holds it by this function has let go of it or ended."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_held(folder: Path) -> bool:
    """Whether a process holds ``folder`` by :func:`exclusive` now."""
    try:
        with open(folder / ".lock", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def text_since(log: Path, position: int = 0) -> str:
    """What a log holds from byte ``position`` on; nothing if it does not exist."""
    if not log.exists():
        return ""
    with open(log, "rb") as file:
        file.seek(position)
        return file.read().decode(errors="replace")


def last_lines(log: Path, position: int = 0, count: int = 3) -> str:
    """The last ``count`` lines with content of a log, from byte ``position`` on, joined by spaces."""
    lines = [line.strip() for line in text_since(log, position).splitlines() if line.strip()]
    return " ".join(lines[-count:])


def _lock(file: IO[str]) -> bool:
    """Lock a file for this process; whether that was possible. Tried thrice, for :func:`is_held` holds it for an instant."""
    for pause in (0.02, 0.05, 0.0):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(pause)
    return False


def _parents() -> dict[int, int]:
    """The parent of every process, by process id."""
    if not Path("/proc/self/stat").exists():
        listing = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        return {int(pid): int(parent) for pid, parent in (line.split() for line in listing.splitlines())}
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                # "PID (NAME) STATE PARENT ...": the name may hold spaces and brackets
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return parents


def _wait_until_gone(child: subprocess.Popen[bytes], family: Sequence[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and (child.poll() is None or any(map(is_running, family))):
        time.sleep(0.02)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    die_with_parent(signal.SIGTERM)
    os.execvp(sys.argv[1], sys.argv[1:])


def is_healthy(host: str, port: int, timeout_seconds: float = 2.0) -> bool:
    """Whether a Flower server answers there."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_seconds)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
