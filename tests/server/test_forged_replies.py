"""Replies whose object says something else than what was announced of it, through Flower's own Grid."""

from collections.abc import Callable
from copy import copy
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id, get_object_tree
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import http_grid

from mtmd_core.wire import FACTS, QUERY, SiteFacts, to_record
from server import fleet as fleet_module
from server.fleet import Fleet
from server.flower_internals import NodeInfo, take_announced_metadata

SERVER, SITES = 1, {"ankle": 77, "knee": 78}
Forge = Callable[[Message], bytes]


class Grid(http_grid.HttpGrid):
    """Flower's, over a SuperLink that holds what two sites push; the ankle's replies to a round are forged."""

    def __init__(self, forge: Forge) -> None:
        self._run, self.node, self._forge = SimpleNamespace(run_id=1), Node(node_id=SERVER), forge
        self.waiting: dict[str, tuple] = {}
        self.objects: dict[str, bytes] = {}
        self.asked = 0

    @property
    def _runtime_client(self) -> RuntimeHttpClient:
        client = object.__new__(RuntimeHttpClient)
        client.grid = self
        return client

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node, last_activated_at="today") for node in SITES.values()]

    def push_messages(self, messages: list[Message]) -> list[str]:
        return [self._answered(message) for message in messages]

    def _answered(self, message: Message) -> str:
        self.asked += 1
        message.metadata.__dict__["_message_id"] = key = str(self.asked)
        node = TaskIdentity.node_id = message.metadata.dst_node_id
        site = next(name for name, number in SITES.items() if number == node)
        content = RecordDict({FACTS: ConfigRecord(to_record(SiteFacts(site, 3)))})
        reply = Message(content, reply_to=message)
        TaskIdentity.node_id = SERVER
        is_forged = message.metadata.message_type != QUERY and site == "ankle"
        body = self._forge(reply) if is_forged else reply.deflate()
        announced, tree = message_to_proto(reply), get_object_tree(reply)
        announced.metadata.message_id = tree.object_id = get_object_id(body)
        self.objects |= {name: each.deflate() for name, each in get_all_nested_objects(reply).items()}
        self.objects[tree.object_id] = body
        self.waiting[key] = (announced, tree)
        return key

    def close(self) -> None:
        """Nothing was opened."""


def pull_messages(client: RuntimeHttpClient, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
    found = [client.grid.waiting.pop(key) for key in request.message_ids if key in client.grid.waiting]
    return PullAppMessagesResponse(
        messages_list=[each for each, _ in found], message_object_trees=[tree for _, tree in found]
    )


def pull_object(client: RuntimeHttpClient, request: object) -> PullObjectResponse:
    content = client.grid.objects[request.object_id]
    return PullObjectResponse(object_found=True, object_available=True, object_content=content)


@pytest.fixture(autouse=True)
def flower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's client without a network, and the Grid as the server's app has it, for this test alone."""
    monkeypatch.setattr(RuntimeHttpClient, "PullMessages", pull_messages)
    monkeypatch.setattr(RuntimeHttpClient, "PullObject", pull_object)
    monkeypatch.setattr(RuntimeHttpClient, "ConfirmMessageReceived", lambda *_: None)
    monkeypatch.setattr(http_grid, "inflate_object_from_contents", http_grid.inflate_object_from_contents)
    monkeypatch.setattr(fleet_module, "LOOK_AROUND_SECONDS", 0.0)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 1, SERVER
    take_announced_metadata()


def saying(**words: object) -> Forge:
    """A message whose own metadata are others than the announced ones."""

    def forge(reply: Message) -> bytes:
        forged = make_message(metadata=copy(reply.metadata), content=reply.content)
        forged.metadata.__dict__.update({f"_{word}": value for word, value in words.items()})
        return forged.deflate()

    return forge


@pytest.mark.parametrize(
    ("forge", "is_readable"),
    [
        (saying(), True),
        (saying(reply_to_message_id="nothing"), True),
        (saying(src_node_id=12345), True),
        (saying(src_node_id=SITES["knee"]), True),
        (lambda reply: reply.deflate()[:-3] + b"\xff\xff\xff", False),
        (lambda reply: next(iter(get_all_nested_objects(reply).values())).deflate(), False),
    ],
    ids=["honest", "another question", "nobody", "another site", "no protobuf", "no message"],
)
def test_a_reply_is_its_senders_whatever_its_object_says(forge: Forge, is_readable: bool) -> None:
    fleet = Fleet(Grid(forge))
    fleet.assemble(2, [], timeout=5)
    asked = [Message(RecordDict(), fleet.node_of(site), "train", ttl=60.0) for site in SITES]
    replies = fleet.send_and_receive(asked, timeout=5)
    assert [fleet.site_of(reply.metadata.src_node_id) for reply in replies] == ["ankle", "knee"]
    assert [FACTS in reply.content for reply in replies] == [is_readable, True]
