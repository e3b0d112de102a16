"""A site's real worker that hangs in the middle of training: stopped by a signal, so that nothing more comes from it."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, RecordDict
from local_supernode import SuperNode, serving
from records import record_of
from tiny_sites import own_settings, write_sites

from client.flower_internals import APP_FAILED, WORKER_DIED
from client.site_status import read_status
from client.supervisor import Supervisor
from mtmd_core.config import NetworkConfig
from mtmd_core.networks.build import build_network
from mtmd_core.parameters import partition, take
from mtmd_core.strategies import Sharing
from mtmd_core.wire import PLAN, RECEIPT, SHARED, RoundPlan, to_record

WAIT_SECONDS = 120
PLAN_OF_MANY_STEPS = RoundPlan(
    run="run", round=1, strategy="dsl", network="att_unet", width=4, encoder_weights="none", slice_size=16,
    slice_axis="auto", fold=0, seed=0, local_steps=100_000, share=2, learning_rate=1e-3, augment=False, autocast=False,
    calibration_batches=0, validate=False, test=False, best_round=0, label_offset=0, label_classes=0, rounds=3,
)  # fmt: skip


def message(steps: int) -> RecordDict:
    network = build_network(NetworkConfig(width=4), {}, seed=0)
    shared = take(network, partition(network, Sharing.CONVOLUTIONS).shared)
    plan = to_record(PLAN_OF_MANY_STEPS) | {"local_steps": steps}
    return RecordDict({PLAN: ConfigRecord(plan), SHARED: record_of(shared)})


def watch(supervisor: Supervisor, until: Callable[[], object]) -> None:
    """Let the supervisor watch its worker until something has happened."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not until():
        assert time.monotonic() < deadline, supervisor.lines
        assert supervisor._watch_worker() is None
        time.sleep(0.02)


def hang_in_training(supervisor: Supervisor, supernode: SuperNode) -> None:
    """Send a message, and stop the worker as soon as it trains."""
    supernode.receive(content=message(steps=100_000))
    watch(supervisor, lambda: supervisor._worker._step_since is not None)
    os.kill(supervisor._worker.process.pid, signal.SIGSTOP)


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    folder = write_sites(tmp_path / "data", sites={"knee": 2})["knee"]
    given = {"server": "127.0.0.1:9", "insecure": True, "step_timeout_seconds": 2, "poll_seconds": 0.02}
    settings = own_settings("knee", tmp_path / "state", folder, **given)
    lines: list[str] = []
    supervisor = Supervisor(settings, lines.append, lambda: None)
    supervisor.lines = lines
    yield supervisor
    supervisor.end()


def test_a_hung_step_is_ended_and_its_message_asked_for_again_once(supervisor: Supervisor, tmp_path: Path) -> None:
    with serving(supervisor._secret) as supernode:
        supervisor._runtime = supernode.address
        supervisor._start_worker()
        supervisor._worker.order(runtime=supernode.address, lost=None)
        for code in (WORKER_DIED, APP_FAILED):  # lost on its way, says the first; the site failed, says the second
            hang_in_training(supervisor, supernode)
            hung = supervisor._worker.process
            replies = []
            watch(supervisor, lambda replies=replies: replies.extend(supernode.replies()) or replies)
            assert [(reply.error.code, reply.error.reason) for reply in replies] == [(code, "worker_hung")]
            assert hung.returncode == -signal.SIGKILL
        supernode.receive(content=message(steps=1))
        watch(supervisor, lambda: any("round 3: train answered" in line for line in supervisor.lines))
        (reply,) = supernode.replies()
        assert RECEIPT in supernode.content_of(reply)
    assert sum("a training step has taken more than 2 s" in line for line in supervisor.lines) == 2
    status = read_status(tmp_path / "state")
    assert (status.run, status.round, status.rounds, status.step, status.steps) == ("run", 1, 3, 1, 1)
    assert status.bytes_sent > 0
