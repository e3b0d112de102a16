import os
import signal
import subprocess
import sys
import time

import pytest

from mtmd_core.processes import is_running, uninterrupted

BOUND = """
import sys, time
from mtmd_core.processes import end_with
end_with(*map(int, sys.argv[1:]))
print("here", flush=True)
time.sleep(600)
"""
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {BOUND!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""
SLEEP = "import time; time.sleep(600)"


def test_an_interrupt_waits_until_the_block_is_left():
    done = []

    def start_a_child() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("the whole block")

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs ignoring it
    try:
        with pytest.raises(KeyboardInterrupt):
            start_a_child()
        assert done == ["the whole block"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_without_an_interrupt_nothing_is_raised():
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        pass
    assert signal.getsignal(signal.SIGINT) is before


def test_a_process_ends_with_the_one_that_it_is_bound_to():
    other = subprocess.Popen([sys.executable, "-c", SLEEP])
    bound = subprocess.Popen([sys.executable, "-c", BOUND, str(other.pid)], stdout=subprocess.PIPE)
    with bound.stdout as said:
        assert said.readline() == b"here\n"
        assert bound.poll() is None
        other.kill()
        other.wait()
        assert bound.wait(60) == -signal.SIGKILL


def test_a_bound_process_ends_with_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    with parent.stdout as said:
        bound = int(said.readline())
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 60
    while is_running(bound) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(bound)
