"""Every name that the server takes from inside Flower 1.41, in one place; ``test_flower_contract.py`` holds them to it."""

from functools import partial

from flwr.app.error import Error
from flwr.common.constant import ErrorCode
from flwr.proto.control_pb2 import RegisterNodeRequest
from flwr.proto.fleet_pb2 import DeactivateNodeRequest, PushMessagesRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE as MEDIA_TYPE
from flwr.supercore.run import Run
from google.protobuf.message import DecodeError

__all__ = [
    "ACTIVATE",
    "DEACTIVATE",
    "FLEET_PATH",
    "MEDIA_TYPE",
    "PUSH_MESSAGES",
    "SITE_CALLS",
    "NodeInfo",
    "Run",
    "deactivation",
    "register_site",
    "shorten_waits",
    "site_failed",
    "speaks_for_another",
]

FLEET_PATH = "/v1/fleet/"
ACTIVATE, DEACTIVATE, PUSH_MESSAGES = "activate-node", "deactivate-node", "push-messages"
SITE_CALLS = frozenset(
    {
        ACTIVATE,
        DEACTIVATE,
        PUSH_MESSAGES,
        "send-node-heartbeat",
        "pull-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    }
)
"""What a SuperNode with a key of its own asks of the Fleet API; not ``register-node`` and ``unregister-node``."""

OBJECT_WAIT_SECONDS = (0.02, 0.1)
"""First and longest wait for a part of a reply that the SuperLink is still receiving (Flower: 1 s and 10 s)."""
OBJECT_TRIES = 2000
"""Looks for a part before its reply counts as lost: 200 s, longer than Flower keeps an upload open of which nothing comes."""


def shorten_waits() -> None:
    """Let this process's Grid ask again sooner for what has not arrived yet.

    A reply is announced before its arrays are there, so the first question for each array usually comes too early, and
    Flower then waits a second or more. The waits are defaults of a function that ``pull_messages`` calls, out of reach.
    """
    from flwr.superlink.grid import http_grid  # loads a database's library, which the door does without

    http_grid.pull_objects = partial(
        pull_objects,
        initial_backoff=OBJECT_WAIT_SECONDS[0],
        backoff_cap=OBJECT_WAIT_SECONDS[1],
        max_tries_per_object=OBJECT_TRIES,
    )


_SITE_ERRORS = (
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION,
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
    ErrorCode.MOD_FAILED_PRECONDITION,
)


def site_failed(error: Error) -> bool:
    """Whether a site's own program answered with a failure; else the message was lost on its way or with its worker."""
    return error.code in _SITE_ERRORS


def register_site(superlink: str, public_key: str, site: str) -> int:
    """Make a site's key known to the SuperLink at HOST:PORT of loopback; the number of its node.

    Raises:
        httpx.HTTPError: if the SuperLink does not answer, or knows the key already.
    """
    version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
    client = ControlHttpClient.from_server_address(superlink, True, None, [version])
    try:
        return client.RegisterNode(RegisterNodeRequest(public_key=public_key.encode("ascii"), name=site)).node_id
    finally:
        client.close()


def deactivation(node: int) -> bytes:
    """The body of a call that says that a node's program has ended."""
    return DeactivateNodeRequest(node_id=node).SerializeToString()


def speaks_for_another(body: bytes) -> bool:
    """Whether a ``push-messages`` call holds a message that names another sender than the node that makes the call.

    The SuperLink checks whose call it is, and does not compare the messages' sender with it: a node could answer for another
    one, or, as node 1, instruct others in the coordinator's name. What cannot be read is taken for such a call.
    """
    try:
        request = PushMessagesRequest.FromString(body)
    except DecodeError:
        return True
    return any(message.metadata.src_node_id != request.node.node_id for message in request.messages_list)
