"""What :mod:`client.flower_internals` relies on inside Flower: that it exists, and is called as it is there."""

import importlib
import inspect
import re
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import get_type_hints

import flwr
import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, Metadata, RecordDict
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectUnavailableError,
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
from flwr.supercore.superexec import run_superexec
from flwr.supernode import start_client_internal as supernode_loop
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.runtime import run_clientapp

from client import flower_internals

# its package hides the module behind the function of the same name
supernode_command = importlib.import_module("flwr.supernode.cli.flower_supernode")


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_flower_is_the_minor_version_that_this_was_written_for() -> None:
    assert flwr.__version__.split(".")[:2] == ["1", "41"]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (run_clientapp.pull_task_input, ["client"]),
        (run_clientapp.push_message, ["client", "message", "context"]),
        (run_clientapp.push_task_output, ["client", "context", "sub_status", "details"]),
        (make_task_heartbeat_fn_http, ["client"]),
        (HeartbeatSender, ["heartbeat_fn"]),
        (RuntimeTokenHttpInterceptor, ["token"]),
        (RuntimeVersionHttpInterceptor, ["component_name"]),
        (SuperExecAuthHttpInterceptor, ["master_secret", "protected_methods"]),
        (
            RuntimeHttpClient.from_server_address,
            ["server_address", "insecure", "root_certificates", "interceptors", "retry_invoker"],
        ),
        (supernode_command.flower_supernode, []),
    ],
)
def test_signatures(function: object, expected: list[str]) -> None:
    assert parameters(function) == expected


def test_pulling_a_task_gives_message_context_run_and_bundle() -> None:
    hints = get_type_hints(run_clientapp.pull_task_input)["return"]
    assert [kind.__name__ for kind in hints.__args__] == ["Message", "Context", "Run", "Fab"]


def test_the_waits_for_parts_of_a_message_can_be_shortened() -> None:
    assert {"initial_backoff", "backoff_cap"} <= set(parameters(pull_and_inflate_object_from_tree))
    assert "pull_and_inflate_object_from_tree(" in inspect.getsource(run_clientapp.pull_task_input)
    assert run_clientapp.pull_and_inflate_object_from_tree.func is pull_and_inflate_object_from_tree


def test_a_reply_leaves_in_parts_that_a_slow_line_can_carry_in_time() -> None:
    arrays = ArrayRecord({"w": Array(np.arange(700_000, dtype=np.float32))})
    sizes = [len(part.deflate()) for part in get_all_nested_objects(arrays).values()]
    assert max(sizes) < flower_internals.PART_BYTES + 1000
    assert sum(size > flower_internals.PART_BYTES // 2 for size in sizes) == 3


def test_a_worker_outwaits_a_message_that_comes_over_a_slow_line() -> None:
    """Five hundred looks were Flower's most, for it takes ten seconds between two of them."""
    sent, looks = ConfigRecord({"word": 1}), iter(range(700))

    def pull(object_id: str) -> bytes:
        if next(looks, None) is not None:
            raise ObjectUnavailableError(object_id)
        return sent.deflate()

    received = run_clientapp.pull_and_inflate_object_from_tree(
        get_object_tree(sent), pull, lambda object_id: None, return_type=ConfigRecord, initial_backoff=0, backoff_cap=0
    )
    assert received == sent


def test_no_answer_leads_a_site_to_another_address() -> None:
    """The client by which a SuperNode calls the server, and a worker its SuperNode."""
    called: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            called.append(self.path)
            self.send_response(307)
            self.send_header("location", f"http://localhost:{self.server.server_port}/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_words: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        runtime = flower_internals.Runtime(f"127.0.0.1:{server.server_port}", b"secret")
        with closing(runtime), pytest.raises(httpx.HTTPStatusError, match="307"):
            runtime.claim()
        server.shutdown()
    assert len(called) == 1
    assert issubclass(FleetHttpClient, ProtobufClient)


def test_the_supernodes_waits_are_the_ones_that_are_shortened() -> None:
    source = inspect.getsource(supernode_loop)
    assert re.findall(r"\btime\.[a-z_]+", source) == ["time.sleep"] * 3
    assert source.count("time.sleep(0.5)") == 2
    assert source.count(f"time.sleep({flower_internals.SUPERNODE_IDLE_SECONDS})") == 1


def test_the_supernode_waits_for_parts_of_a_message_by_a_function_that_can_be_exchanged() -> None:
    source = inspect.getsource(supernode_loop)
    assert source.count("pull_objects(") == 1
    assert "backoff" not in source
    assert {"initial_backoff", "backoff_cap"} <= set(parameters(pull_objects))


def test_pushing_a_message_reads_only_the_ids_of_its_context() -> None:
    body = inspect.getsource(run_clientapp.push_message).split('"""')[-1]
    assert body.count("context") == body.count("context.node_id") + body.count("context.run_id") == 2


def test_the_supernode_logs_one_fate_for_each_message_it_receives() -> None:
    source = inspect.getsource(supernode_loop)
    for words in (
        "Receiving:",
        "Sent successfully",
        "Failed to send",
        "Failed to receive",
        "Ignoring",
        "SuperNode ID:",
    ):
        assert words in source


def test_words_of_the_supernodes_command_line() -> None:
    known = supernode_command._parse_args_run_supernode()._option_string_actions
    used = (
        "--insecure",
        "--root-certificates",
        "--auth-supernode-private-key",
        "--superlink",
        "--isolation",
        "--host",
        "--port",
        "--superexec-auth-secret-file",
    )
    assert [word for word in used if word not in known] == []


def test_the_claim_is_protected_as_flowers_own_executor_protects_it() -> None:
    assert {flower_internals.ACQUIRE_TASK} == run_superexec._SUPEREXEC_AUTH_METHODS
    assert "supported_task_types" in AcquireTaskRequest.DESCRIPTOR.fields_by_name
    assert {"task", "token"} <= set(AcquireTaskResponse.DESCRIPTOR.fields_by_name)
    assert TaskType.CLIENT_APP == "flwr-clientapp"


def test_words_of_outcomes() -> None:
    assert (SubStatus.COMPLETED, SubStatus.FAILED) == ("completed", "failed")
    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION != ErrorCode.CLIENT_APP_CRASHED


def test_a_message_can_be_answered_from_its_metadata_alone() -> None:
    original = Message(metadata=Metadata(1, "id", 2, 3, "", "4", 5.0, 1e12, "train"), content=RecordDict())
    rebuilt = Message(metadata=Metadata(**flower_internals.metadata_of(original)), content=RecordDict())
    reply = Message(Error(8, "WorkerDied"), reply_to=rebuilt)
    assert vars(rebuilt.metadata) == vars(original.metadata)
    assert (reply.metadata.reply_to_message_id, reply.metadata.src_node_id, reply.metadata.dst_node_id) == ("id", 3, 2)
    assert {"run_id", "node_id"} <= set(parameters(Context))
