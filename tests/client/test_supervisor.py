"""The supervisor's own steps, one at a time, with a real child process in the SuperNode's place."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.settings import load_settings
from client.supervisor import Supervisor


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    given = {"state": tmp_path, "server": "127.0.0.1:9", "insecure": True}
    lines: list[str] = []
    supervisor = Supervisor(load_settings("ankle", given), lines.append, lambda: lines.append("(kept)"))
    supervisor.lines = lines
    (tmp_path / "logs").mkdir()
    return supervisor


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as child:
        yield child
        child.kill()


def test_a_site_counts_as_joined_once_the_supernode_has_its_number(
    supervisor: Supervisor, sleeper: subprocess.Popen, tmp_path: Path
) -> None:
    supervisor._supernode = sleeper
    supervisor._watch_supernode()
    assert supervisor.lines == []
    (tmp_path / "logs" / "supernode.log").write_text("INFO : SuperNode ID: 17\n")
    supervisor._watch_supernode()
    supervisor._watch_supernode()
    assert supervisor.lines == ["joined 127.0.0.1:9", "(kept)"]


def test_the_goodbye_does_not_wait_for_a_supernode_that_is_gone(
    supervisor: Supervisor, sleeper: subprocess.Popen
) -> None:
    supervisor._let_reply_through()  # there never was one
    supervisor._supernode = sleeper
    sleeper.send_signal(signal.SIGKILL)
    sleeper.wait()
    supervisor._watch_supernode()
    supervisor._let_reply_through()
    assert supervisor.lines == ["the connection to the server ended (signal 9); joining again in 2 s"]
