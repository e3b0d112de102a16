"""The federation in one process: a Flower grid whose nodes are ClientApps called directly, without network or Ray."""

import itertools
from collections.abc import Iterable, Mapping

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


class InProcessGrid(Grid):
    """Hands each message to its site's ClientApp at once and keeps the reply until it is pulled.

    An exception in a ClientApp is raised as it is: the researcher owns both sides.

    Args:
        apps: one ClientApp a site; nodes are numbered from 1 in this order.
    """

    def __init__(self, apps: Mapping[str, ClientApp]) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 1, 0  # a Message needs a sender
        self._apps = dict(enumerate(apps.values(), start=1))
        self._contexts = {
            node: Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
            for node in self._apps
        }
        self._replies: dict[str, Message] = {}
        self._ids = map(str, itertools.count(1))
        self._run: Run | None = None

    def set_run(self, run: Run) -> None:
        """See :class:`flwr.serverapp.Grid`."""
        self._run = run

    @property
    def run(self) -> Run:
        """See :class:`flwr.serverapp.Grid`."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """See :class:`flwr.serverapp.Grid`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Every site is always there."""
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Run each message's ClientApp, one after another."""
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Hand out replies, each once."""
        return [self._replies.pop(key) for key in list(message_ids) if key in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then pull."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> str:
        key = next(self._ids)
        message.metadata.__dict__["_message_id"] = key  # so that the reply names what it answers
        node = message.metadata.dst_node_id
        self._replies[key] = self._apps[node](message=message, context=self._contexts[node])
        return key
