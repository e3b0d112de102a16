"""A SuperNode's own Runtime API and state, served in this process: what a worker meets, without a server."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvicorn
from flwr.app import Array, ArrayRecord, Context, Message, Metadata, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeState, NodeStateFactory

SECRET = b"a secret of this test"
RUN_ID, NODE_ID = 7, 11
BUNDLE = Path(__file__).parents[2] / "server" / "bundle"


@dataclass
class SuperNode:
    """A SuperNode's Runtime API, and the state behind it."""

    address: str
    state: NodeState

    def receive(
        self, kind: str = "train", array: np.ndarray | None = None, content: RecordDict | None = None, group: str = "3"
    ) -> str:
        """Put a message there as if it had come from the server; its id."""
        if content is None:
            content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(1) if array is None else array)})})
        metadata = Metadata(RUN_ID, "", 1, NODE_ID, "", group, time.time(), 600.0, kind)
        message = Message(metadata=metadata, content=content)
        message.metadata.__dict__["_message_id"] = message.object_id
        self.state.create_task(TaskType.CLIENT_APP, RUN_ID)
        self.state.object_store.preregister(RUN_ID, get_object_tree(message))
        for object_id, part in get_all_nested_objects(message).items():
            self.state.object_store.put(object_id, part.deflate())
        self.state.store_message(message)
        return message.object_id

    def replies(self) -> list[Message]:
        """The replies that the SuperNode would now send to the server."""
        return list(self.state.get_messages_legacy(is_reply=True))

    def content_of(self, reply: Message) -> RecordDict:
        """The records of a reply, put together from the parts that the worker pushed."""
        store = self.state.object_store
        ids = [tree.object_id for tree in iterate_object_tree(store.get_object_tree(reply.metadata.message_id))]
        return inflate_object_from_contents(reply.metadata.message_id, {part: store.get(part) for part in ids}).content

    def outcomes(self) -> list[tuple[str, str, str]]:
        """State, outcome and details of all tasks."""
        return [(task.status.status, task.status.sub_status, task.status.details) for task in self.state.get_tasks()]


@contextlib.contextmanager
def serving(secret: bytes = SECRET, bundle: bytes | None = None) -> Iterator[SuperNode]:
    """Serve a SuperNode until the block is left; runs come with our own bundle, or with another one."""
    factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    state = factory.state()
    state.set_node_id(NODE_ID)
    run = Run.create_empty(RUN_ID)
    run.fab_hash = state.store_fab(Fab("", build_fab_from_disk(BUNDLE) if bundle is None else bundle, {}))
    state.store_run(run)
    context = Context(run_id=RUN_ID, node_id=NODE_ID, node_config={}, state=RecordDict(), run_config={}, series_id=0)
    state.set_run_series_context(0, context)
    config = uvicorn.Config(create_app(factory, secret), host="127.0.0.1", port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield SuperNode(f"127.0.0.1:{port}", state)
    finally:
        server.should_exit = True
        thread.join()
