"""Every name that the client takes from inside Flower 1.41, in one place; ``test_flower_contract.py`` holds them to it.

Flower offers no public way to run a ClientApp in a process that stays warm between messages, nor one that ignores the
code a coordinator sends. Both take the Runtime API that a SuperNode serves to its own machine, as Flower's ``flwr-clientapp``
does (``flwr/supernode/runtime/run_clientapp.py``), with two differences: the bundle that comes with a task is never unpacked,
and the text of an exception never becomes part of a reply.
"""

import sys
import time
from collections.abc import Callable
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

import httpx
from flwr.app import Context, Error, Message, Metadata, RecordDict
from flwr.app.message import array
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_and_inflate_object_from_tree,
    pull_objects,
)
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

ACQUIRE_TASK = "/flwr.proto.Runtime/AcquireTask"
APP_FAILED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
WORKER_DIED = ErrorCode.CLIENT_APP_CRASHED
SUPERNODE_GONE = (httpx.HTTPError, ObjectPullError, ObjectPushError)
"""What a call of the Runtime API raises when the SuperNode has ended, is ending, or no longer knows the task."""
SUPERNODE_IDLE_SECONDS = 3
OBJECT_WAIT_SECONDS = (0.02, 0.1)
"""First and longest wait for a part of a message that the SuperNode is still receiving (Flower: 1 s and 10 s)."""
SERVER_OBJECT_WAIT_SECONDS = (0.05, 0.25)
"""The same for a part that the server is still sending, over the network."""
PART_BYTES = 2**20
"""What a reply's arrays are sent in parts of (Flower: 5 MB): two go at a time, and Flower sends one again that has not arrived
within 30 s of its last byte's leaving this program, which over a slow line is long before it has left the machine."""
array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE = PART_BYTES

# The waits are defaults of the function that `pull_task_input` calls, out of its caller's reach. A SuperNode hands a message on
# when it has all of it, which over a slow line takes minutes: no number of looks is too many within Flower's own two hours.
run_clientapp.pull_and_inflate_object_from_tree = partial(
    pull_and_inflate_object_from_tree,
    initial_backoff=OBJECT_WAIT_SECONDS[0],
    backoff_cap=OBJECT_WAIT_SECONDS[1],
    max_tries_per_object=None,
)


_connect = ProtobufClient.__init__


@wraps(_connect)
def _connect_straight(client: ProtobufClient, *given: Any, **named: Any) -> None:
    """Flower's client follows an answer to any other address, in plain HTTP too, with body and signature; no site's does."""
    _connect(client, *given, **named)
    client._client.follow_redirects = False


ProtobufClient.__init__ = _connect_straight


class Runtime:
    """The Runtime API of this machine's SuperNode, as a worker sees it."""

    def __init__(self, address: str, secret: bytes) -> None:
        """``address`` is HOST:PORT, ``secret`` what the SuperNode got as ``--superexec-auth-secret-file``."""
        self._address = address
        self._claims = _client(
            address, SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({ACQUIRE_TASK}))
        )

    def claim(self) -> str | None:
        """Claim the oldest waiting ClientApp task; its token, or None if none waits."""
        reply = self._claims.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        return reply.token if reply.HasField("task") and reply.token else None

    def task(self, token: str) -> "Task":
        """The claimed task that ``token`` stands for."""
        return Task(_client(self._address, RuntimeTokenHttpInterceptor(token)))

    def close(self) -> None:
        """Close the connection."""
        self._claims.close()


class Task:
    """One claimed message: pull it, answer it, and let go of it. A context manager that keeps the claim alive.

    The heartbeat raises SIGINT in this process when the SuperNode takes the task away.
    """

    def __init__(self, client: RuntimeHttpClient) -> None:
        self._client = client
        self._context: Context | None = None
        self._heartbeat = HeartbeatSender(_quiet(make_task_heartbeat_fn_http(client)))
        self._answered = False
        self._status, self._details = SubStatus.FAILED, ""

    def __enter__(self) -> "Task":
        self._heartbeat.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        try:
            # A task that is finished without a reply blocks the SuperNode for good: it waits for that reply. One that is
            # merely dropped expires after a minute, and the SuperNode makes an error reply of it.
            if self._answered:
                push_task_output(self._client, self._context, self._status, self._details)
        finally:
            if self._heartbeat.is_running:
                self._heartbeat.stop()
            self._client.close()

    def pull(self) -> tuple[Message, Context, bytes]:
        """The message, its context, and the bundle that comes along: bytes that nobody here unpacks."""
        message, self._context, _run, bundle = pull_task_input(self._client)
        return message, self._context, bundle.content

    def reply(self, message: Message) -> None:
        """Push a reply made by the app."""
        push_message(self._client, message, self._context)
        self._answered, self._status = True, SubStatus.COMPLETED

    def refuse(self, message: Message, code: int, reason: str) -> None:
        """Reply with an error; ``reason`` leaves the site, so it is a class name and never a text that an error carries."""
        push_message(self._client, Message(Error(code, reason), reply_to=message), self._context)
        self._answered, self._details = True, reason

    def refuse_unseen(self, metadata: dict[str, Any], code: int, reason: str) -> None:
        """As :meth:`refuse`, for a message pulled by a worker that has died, of which :func:`metadata_of` is left."""
        message = Message(content=RecordDict(), metadata=Metadata(**metadata))
        run_id, node_id = message.metadata.run_id, message.metadata.dst_node_id
        # only the two ids of a context are read when a message is pushed; the SuperNode keeps its own context
        ids = SimpleNamespace(run_id=run_id, node_id=node_id)
        push_message(self._client, Message(Error(code, reason), reply_to=message), ids)
        self._answered, self._details = True, reason


def metadata_of(message: Message) -> dict[str, Any]:
    """What is needed to answer ``message`` from another process, as JSON can hold it."""
    return {
        word: getattr(message.metadata, word)
        for word in (
            "run_id",
            "message_id",
            "src_node_id",
            "dst_node_id",
            "reply_to_message_id",
            "group_id",
            "created_at",
            "ttl",
            "message_type",
            "src_task_id",
            "dst_task_id",
        )
    }


def run_supernode(arguments: list[str], server_poll_seconds: float, poll_seconds: float) -> None:
    """Run Flower's SuperNode in this process with shorter waits.

    They are written into Flower's loop as numbers: 3 s between two questions to the server (here ``server_poll_seconds``)
    and 0.5 s between two looks at what the worker has done (here ``poll_seconds``). So the loop gets a ``time`` of its own. A
    message is announced before its arrays are at the server, and the waits for these are defaults that the loop does not set.
    """
    # both load a database's library, which no worker needs
    from flwr.supernode import start_client_internal as supernode_loop
    from flwr.supernode.cli.flower_supernode import flower_supernode

    def sleep(seconds: float) -> None:
        time.sleep(min(seconds, server_poll_seconds if seconds >= SUPERNODE_IDLE_SECONDS else poll_seconds))

    supernode_loop.time = SimpleNamespace(sleep=sleep)
    first, longest = SERVER_OBJECT_WAIT_SECONDS
    supernode_loop.pull_objects = partial(pull_objects, initial_backoff=first, backoff_cap=longest)
    sys.argv = ["flower-supernode", *arguments]
    flower_supernode()


def _quiet(beat: Callable[[], bool]) -> Callable[[], bool]:
    """A heartbeat that does not end its thread by an exception when the SuperNode no longer knows the task."""

    def quiet_beat() -> bool:
        try:
            return beat()
        except httpx.HTTPStatusError:
            return True  # pulling or pushing meets the same refusal, and reports it

    return quiet_beat


def _client(address: str, interceptor: Any) -> RuntimeHttpClient:
    # without a retry invoker: Flower's waits for ever, and ends the process by SIGINT when a token has expired
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), interceptor],
        retry_invoker=None,
    )
