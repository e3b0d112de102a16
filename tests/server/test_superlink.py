"""The SuperLink as a child process, and children in general: they start, they are found, and nothing is left of them."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from rich.console import Console

from mtmd_core import processes
from mtmd_core.errors import ConfigurationError, RunFailedError
from server.command import _follow
from server.progress import RunDisplay, read_json
from server.superlink import STATUS_FAILURES, STATUS_SECONDS, StatusWatch, SuperLink, require_free_port

FAMILY = """
import subprocess, sys, signal, time
ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", ignore], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""
SLEEPER = "import time; print('here', flush=True); time.sleep(600)"


def is_gone(pid: int) -> bool:
    return not processes.is_running(pid)


def test_the_bundle_carries_no_code_and_names_installed_components() -> None:
    bundle = files("server") / "bundle"
    assert [entry.name for entry in bundle.iterdir()] == ["pyproject.toml"]
    described = tomllib.loads((bundle / "pyproject.toml").read_text())
    assert described["project"]["dependencies"] == []
    assert described["tool"]["flwr"]["app"]["components"]["serverapp"] == "server.app:app"


def test_a_port_that_somebody_listens_on_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} of 127.0.0.1"):
            require_free_port(port)
    require_free_port(port)


def test_ending_a_child_ends_descendants_in_sessions_of_their_own(tmp_path: Path) -> None:
    environment = processes.child_environment({})
    child = processes.start([sys.executable, "-c", FAMILY], tmp_path / "log", environment, talks=True)
    grandchild = int(child.stdout.readline())
    assert processes.descendants(child.pid) == [grandchild]
    processes.end(child, grace_seconds=0.2)
    assert child.returncode == -signal.SIGTERM
    assert is_gone(grandchild)


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent_code = f"""
import sys, time
from pathlib import Path
from mtmd_core.processes import child_environment, start
command = [sys.executable, "-m", "mtmd_core.processes", sys.executable, "-c", {SLEEPER!r}]
child = start(command, Path({str(tmp_path / "log")!r}), child_environment({{}}), talks=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    assert not is_gone(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    while not is_gone(child):  # the kernel's signal is on its way
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_becomes_an_exception_once_and_clean_up_is_not_cut_short(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    cleaned = []

    def work() -> None:
        with processes.signals_as_exceptions():
            try:
                signal.raise_signal(number)
            finally:
                signal.raise_signal(number)
                cleaned.append(True)

    signal.signal(number, signal.default_int_handler)  # under nohup SIGHUP is ignored, and stays so
    try:
        with pytest.raises(processes.Interrupted) as ended:
            work()
        assert cleaned
        assert ended.value.exit_code == 128 + number
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_signals_mean_what_they_meant_before_when_nothing_came() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with processes.signals_as_exceptions():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_children_find_this_environments_commands_and_reach_loopback_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "hospital.org")
    environment = processes.child_environment({"MTMD_X": "1"})
    assert environment["MTMD_X"] == "1"
    assert environment["NO_PROXY"] == "hospital.org,127.0.0.1,localhost"
    assert environment["PATH"].startswith(str(Path(processes.installed_command("flwr")).parent))


def test_a_long_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOG_LIMIT_BYTES", 10)
    log = tmp_path / "logs" / "x.log"
    for _ in range(2):
        with processes.open_log(log) as file:
            file.write(b"0123456789 end\n")
    assert log.read_bytes() == (tmp_path / "logs" / "x.log.1").read_bytes() == b"0123456789 end\n"
    assert processes.text_since(log, 11) == processes.last_lines(log, 11) + "\n" == "end\n"
    assert processes.text_since(tmp_path / "none") == ""


def test_without_a_terminal_each_new_message_is_one_line() -> None:
    output = io.StringIO()
    with RunDisplay(Console(file=output, highlight=False, soft_wrap=True)) as display:
        for message in ("waiting", "waiting", "round 1 [of 2]", "round 1 [of 2]", ""):
            display.show({"message": message, "round": 1, "rounds": 2})
        display.say("done")
    assert output.getvalue().splitlines() == ["waiting", "round 1 [of 2]", "done"]


def test_a_file_that_is_not_there_yet_reads_as_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "outcome.json") is None


def test_a_superlink_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    superlink = SuperLink(tmp_path, port)
    superlink._environment["PYTHONHOME"] = str(tmp_path / "no python here")
    try:
        with pytest.raises(RunFailedError, match=r"SuperLink ended with code 1: .*superlink\.log"):
            superlink.start(timeout_seconds=60)
    finally:
        superlink.end(grace_seconds=1)


def test_a_run_is_asked_after_once_a_minute_and_a_few_failures_in_a_row_are_borne() -> None:
    answers: list[tuple[str, str] | str] = []
    asked: list[float] = []
    now = 0.0

    def ask() -> tuple[str, str]:
        asked.append(now)
        if isinstance(answers[0], str):
            raise RunFailedError(answers.pop(0))
        return answers.pop(0)

    watch = StatusWatch(ask, now)
    answers += ["timeout"] * STATUS_FAILURES + [("running", "")] + ["timeout"] * STATUS_FAILURES + ["no such run"]
    endings = []
    while answers:
        now += STATUS_SECONDS / 4
        endings.append(watch.ending(now))
    assert endings[:-1] == [""] * (len(endings) - 1)
    assert endings[-1] == "Flower gives no answer: no such run"
    assert asked == [STATUS_SECONDS * (number + 1) for number in range(2 * STATUS_FAILURES + 2)]

    answers = [("finished:failed", "out of memory")]
    now += STATUS_SECONDS
    assert watch.ending(now) == "finished:failed out of memory"


APP = "import time; print('here', flush=True); time.sleep(600)"
SUPEREXEC = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {APP!r}]); import time; time.sleep(600)"
SUPERLINK = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SUPEREXEC!r}])"


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[SuperLink]:
    """A SuperLink with children and grandchildren as Flower's has, but without Flower: ``flwr`` cannot answer."""
    superlink = SuperLink(tmp_path, port=1)
    superlink._environment["PYTHONHOME"] = str(tmp_path / "no python here")
    environment = processes.child_environment({})
    superlink._process = processes.start([sys.executable, "-c", SUPERLINK], tmp_path / "log", environment, talks=True)
    superlink._process.stdout.readline()  # the app is there
    yield superlink
    superlink.end(grace_seconds=0.5)


def follow(superlink: SuperLink, state: Path) -> tuple[int, str]:
    output = io.StringIO()
    with RunDisplay(Console(file=output, highlight=False, soft_wrap=True)) as display:
        code = _follow(superlink, "1", state, display)
    return code, output.getvalue()


def test_an_app_that_dies_without_an_outcome_is_noticed_without_asking_flower(
    superlink: SuperLink, tmp_path: Path
) -> None:
    (tmp_path / "progress.json").write_text(json.dumps({"message": "round 1", "round": 1, "rounds": 2}))
    assert superlink.app_runs()
    os.kill(processes.descendants(superlink._process.pid)[-1], signal.SIGKILL)
    with pytest.raises(RunFailedError, match=r"without stating an outcome \(its process is gone\)"):
        follow(superlink, tmp_path)


@pytest.mark.parametrize("gone", ["app", "superlink"])
def test_an_outcome_counts_although_nobody_can_be_asked_any_more(
    superlink: SuperLink, tmp_path: Path, gone: str
) -> None:
    assert superlink.app_runs()
    family = [superlink._process.pid, *processes.descendants(superlink._process.pid)]
    for pid in family if gone == "superlink" else family[-1:]:
        os.kill(pid, signal.SIGKILL)
    if gone == "superlink":
        superlink._process.wait()
    (tmp_path / "progress.json").write_text(json.dumps({"message": "round 2", "round": 2, "rounds": 2}))
    (tmp_path / "outcome.json").write_text(json.dumps({"exit_code": 0, "message": "2 rounds are done"}))
    assert follow(superlink, tmp_path) == (0, "round 2\n2 rounds are done\n")


def test_a_superlink_that_dies_is_noticed(superlink: SuperLink, tmp_path: Path) -> None:
    superlink._process.kill()
    superlink._process.wait()
    with pytest.raises(RunFailedError, match="SuperLink ended with code -9"):
        follow(superlink, tmp_path)
