"""Every name that the server takes from inside Flower 1.41, in one place; ``test_flower_contract.py`` holds them to it."""

import logging
from functools import partial, wraps
from typing import Any

from flwr.app import Message, RecordDict
from flwr.app.error import Error
from flwr.app.message.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.control_pb2 import RegisterNodeRequest
from flwr.proto.fleet_pb2 import DeactivateNodeRequest, PushMessagesRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
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
    "take_announced_metadata",
]

log = logging.getLogger(__name__)

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


def take_announced_metadata() -> None:
    """Let this process's Grid take from the object that a reply is sent as its content alone.

    Who replied to what is announced beside the object, which the site makes itself: the door and the SuperLink check what is
    announced, and Flower's Grid believes the object. One that is no message, or cannot be read, is a reply without records,
    which the gate refuses; Flower's Grid would raise, and lose the replies of other sites with it.
    """
    from flwr.common.serde import metadata_from_proto
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.superlink.grid import http_grid

    announced: dict[str, Any] = {}
    ask = RuntimeHttpClient.PullMessages

    @wraps(ask)
    def pull(client: RuntimeHttpClient, *given: Any, **named: Any) -> Any:
        answer = ask(client, *given, **named)
        announced.clear()
        announced.update({each.metadata.message_id: each.metadata for each in answer.messages_list})
        return answer

    def inflate(message_id: str, contents: dict[str, bytes]) -> Message:
        metadata = metadata_from_proto(announced[message_id])
        try:
            sent = inflate_object_from_contents(message_id, contents)
            if sent.has_error():
                return make_message(metadata=metadata, error=Error(sent.error.code, sent.error.reason))
            return make_message(metadata=metadata, content=sent.content)
        except Exception as error:  # of whatever kind: its text may quote the reply and is left out
            log.warning("a reply cannot be read (%s)", type(error).__name__)
            return make_message(metadata=metadata, content=RecordDict())

    RuntimeHttpClient.PullMessages = pull
    http_grid.inflate_object_from_contents = inflate


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
