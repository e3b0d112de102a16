import os
import signal

import pytest

from mtmd_core.processes import uninterrupted


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
