"""The worker against a SuperNode's own Runtime API and state, served in this process; only the server is left out."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from local_supernode import NODE_ID, SECRET, SuperNode, serving

from client.flower_internals import APP_FAILED, SUPERNODE_GONE, WORKER_DIED, Runtime, metadata_of
from client.settings import SiteSettings, to_plain
from client.worker import PlainLines, answer, report_lost, serve, steps_told
from mtmd_core.wire import PLAN


@pytest.fixture
def supernode() -> Iterator[SuperNode]:
    with serving() as supernode:
        yield supernode


@pytest.fixture
def runtime(supernode: SuperNode) -> Iterator[Runtime]:
    runtime = Runtime(supernode.address, SECRET)
    yield runtime
    runtime.close()


def app_that(handle: Callable[[Message], Message]) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return handle(message)

    return app


def heard() -> tuple[list[dict[str, Any]], Callable[..., None]]:
    events: list[dict[str, Any]] = []
    return events, lambda event, **details: events.append({"event": event, **details})


def doubled(message: Message) -> Message:
    weights = message.content["arrays"]["w"].numpy()
    return Message(RecordDict({"arrays": ArrayRecord({"w": Array(2 * weights)})}), reply_to=message)


def test_a_message_is_answered_by_the_installed_app(supernode: SuperNode, runtime: Runtime) -> None:
    sent = np.arange(6.0).reshape(2, 3)
    message_id = supernode.receive(array=sent)
    events, tell = heard()
    answer(runtime, runtime.claim(), app_that(doubled), tell)
    (reply,) = supernode.replies()
    assert reply.metadata.reply_to_message_id == message_id
    np.testing.assert_array_equal(supernode.content_of(reply)["arrays"]["w"].numpy(), 2 * sent)
    assert supernode.outcomes() == [("finished", "completed", "")]
    assert [event["event"] for event in events] == ["pulled", "replied"]
    assert (events[0]["kind"], events[0]["group"]) == ("train", "3")
    assert runtime.claim() is None


def test_the_text_of_an_exception_stays_at_the_site(
    supernode: SuperNode, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(message: Message) -> Message:
        raise ValueError("exam of Jane Doe in /data/clinic")

    supernode.receive(content=RecordDict({PLAN: ConfigRecord({"run": "run_1", "round": 4})}))
    events, tell = heard()
    noted: list[tuple[str, str, int]] = []
    answer(runtime, runtime.claim(), app_that(fail), tell, lambda *words: noted.append(words))
    assert noted == [("unexpected", "run_1", 4)]
    (reply,) = supernode.replies()
    assert (reply.error.code, reply.error.reason) == (APP_FAILED, "unexpected")
    assert supernode.outcomes() == [("finished", "failed", "unexpected")]
    assert "Jane" not in json.dumps(events)
    assert "Jane Doe" in caplog.text


def test_what_a_message_calls_itself_cannot_rewrite_a_terminal(supernode: SuperNode, runtime: Runtime) -> None:
    wild = "x\x1b]0;owned\x07\nankle: done"
    supernode.receive(content=RecordDict({PLAN: ConfigRecord({"run": wild, "round": 1})}), group=wild)
    events, tell = heard()
    answer(runtime, runtime.claim(), app_that(doubled), tell)
    assert [event["group"] for event in events] == ["?", "?"]
    assert events[0]["run"] == "?"


def test_no_line_of_the_log_can_rewrite_a_terminal() -> None:
    record = logging.makeLogRecord({"msg": "strategy %s", "args": ("\x1b[2J\x1b[31mowned",), "levelname": "INFO"})
    assert PlainLines("%(levelname)s %(message)s").format(record) == "INFO strategy ?[2J?[31mowned"


def test_work_is_given_only_to_those_who_know_the_secret(supernode: SuperNode) -> None:
    supernode.receive()
    stranger = Runtime(supernode.address, b"a guess")
    with pytest.raises(SUPERNODE_GONE):
        stranger.claim()
    stranger.close()


def test_an_interrupted_message_is_left_unfinished(supernode: SuperNode, runtime: Runtime) -> None:
    def leave(message: Message) -> Message:
        raise SystemExit(143)

    supernode.receive()
    with pytest.raises(SystemExit):
        answer(runtime, runtime.claim(), app_that(leave), heard()[1])
    assert supernode.replies() == []
    assert supernode.outcomes()[0][0] != "finished"  # else the SuperNode would wait for its reply for ever


@pytest.mark.parametrize("pulled", [True, False])
@pytest.mark.parametrize(
    ("error", "again", "code"),
    [("worker_died", True, WORKER_DIED), ("worker_hung", True, WORKER_DIED), ("worker_hung", False, APP_FAILED)],
)
def test_a_successor_answers_the_message_that_a_worker_died_over(
    pulled: bool, error: str, again: bool, code: int, supernode: SuperNode, runtime: Runtime
) -> None:
    message_id = supernode.receive()
    token = runtime.claim()
    metadata = None
    if pulled:
        with runtime.task(token) as task:
            metadata = json.loads(json.dumps(metadata_of(task.pull()[0])))
    events, tell = heard()
    report_lost(runtime, {"token": token, "metadata": metadata, "error": error, "again": again}, tell)
    (reply,) = supernode.replies()
    assert reply.metadata.reply_to_message_id == message_id
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (NODE_ID, 1)
    assert (reply.error.code, reply.error.reason) == (code, error)
    assert supernode.outcomes() == [("finished", "failed", error)]
    assert [event["event"] for event in events] == ["lost"]


def test_a_message_that_nobody_waits_for_any_more_does_not_stop_the_worker(
    supernode: SuperNode, runtime: Runtime
) -> None:
    events, tell = heard()
    report_lost(runtime, {"token": "expired", "metadata": None, "error": "worker_died", "again": True}, tell)
    assert [event["event"] for event in events] == ["lost"]
    assert supernode.replies() == []


def test_serving_goes_on_until_the_site_says_that_the_run_is_over(supernode: SuperNode, tmp_path: Path) -> None:
    handled: list[str] = []

    def handle(message: Message) -> Message:
        handled.append(message.metadata.message_id)
        return doubled(message)

    sent = [supernode.receive(array=np.full(2, float(number))) for number in range(3)]
    orders: SimpleQueue[dict[str, Any]] = SimpleQueue()
    orders.put({"runtime": "127.0.0.1:1", "lost": None})  # a SuperNode that is gone
    orders.put({"runtime": supernode.address, "lost": None})
    events, tell = heard()
    settings = SiteSettings(site="ankle", state=tmp_path, poll_seconds=0.01)
    code = serve(app_that(handle), lambda: 0 if len(handled) == 3 else None, settings, SECRET, orders, tell)
    assert code == 0
    assert sorted(handled) == sorted(sent)
    assert len(supernode.replies()) == 3
    assert [event["event"] for event in events] == ["dropped", *(["claimed", "pulled", "replied"] * 3)]


def test_a_site_that_cannot_be_opened_ends_the_worker_with_its_own_code(tmp_path: Path) -> None:
    settings = SiteSettings(site="ankle", state=tmp_path / "state", data=tmp_path / "nothing")
    first = json.dumps({"settings": to_plain(settings), "secret": SECRET.hex()}).encode() + b"\n"
    environment = {key: value for key, value in os.environ.items() if key != "MTMD_PARENT"}
    worker = subprocess.Popen(
        [sys.executable, "-m", "client.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    worker.stdin.write(first)
    worker.stdin.flush()
    code = worker.wait()  # its standard input stays open until then: the end of it would end the worker otherwise
    said = [json.loads(line) for line in worker.stdout]
    for pipe in (worker.stdin, worker.stdout, worker.stderr):
        pipe.close()
    assert code == 4
    assert [(event["event"], event["code"]) for event in said] == [("refused", 4)]
    assert "dataset.json" in said[0]["message"]


def test_the_end_of_its_orders_ends_the_worker(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "MTMD_PARENT"}
    worker = subprocess.run(
        [sys.executable, "-m", "client.worker"], input=b"", env=environment, capture_output=True, check=False
    )
    assert worker.returncode == 1
    assert worker.stdout == b""


def test_steps_are_told_of_at_the_beginning_the_end_and_once_a_second() -> None:
    events, tell = heard()
    now = [0.0]
    on_progress = steps_told(tell, lambda: now[0])
    for done, now[0] in enumerate((0.0, 0.4, 0.8, 1.2, 1.6, 2.0)):
        on_progress(done, 5)
    assert [event["done"] for event in events] == [0, 3, 5]
    assert all(event["steps"] == 5 for event in events)
