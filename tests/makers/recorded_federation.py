"""Sites of a federation in one process, and a grid that keeps what crosses between them and the server, or loses it."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from records import arrays_in
from tiny_sites import SITES

from client.app import build_client_app
from client.outbox import Outbox
from client.site import Site
from client.site_state import DiskState, MemoryState
from mtmd_core.data.site_data import load_site
from mtmd_core.wire import PLAN, RoundPlan, from_record
from simulation.grid import InProcessGrid


def open_sites(
    folders: dict[str, Path], cache: Path, state: Path | None = None, release: str = "structure", lockstep: bool = False
) -> dict[str, Site]:
    """Sites over folders of exams, with their memory in this process or on disk in ``state``."""
    return {
        name: Site(
            name=name,
            structures=SITES[name],
            load_data=lambda size, axis, name=name, folder=folder: load_site(name, folder, size, axis, cache),
            state=MemoryState() if state is None else DiskState(state / name),
            outbox=Outbox(release),
            device=torch.device("cpu"),
            lockstep=lockstep,
        )
        for name, folder in folders.items()
    }


class RecordingGrid(InProcessGrid):
    """Keeps every message that crosses, both ways.

    Args:
        sites: by name.
        absent: whether a site is away when it is asked for a visit; its message is then answered with Flower's error.
        spoil: what becomes of a reply on its way.
    """

    def __init__(
        self,
        sites: dict[str, Site],
        absent: Callable[[str, str, RoundPlan], bool] = lambda *_: False,
        spoil: Callable[[str, Message], None] = lambda *_: None,
    ) -> None:
        super().__init__({name: build_client_app(site) for name, site in sites.items()})
        self.names = dict(enumerate(sites, start=1))
        self.absent, self.spoil = absent, spoil
        self.to_sites: list[Message] = []
        self.from_sites: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        self.to_sites += messages
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = super().pull_messages(message_ids)
        self.from_sites += replies
        return replies

    def visits(self, site: str, network: str, kind: str = "train") -> dict[int, Message]:
        """The messages that a site was sent, round → message."""
        found = {}
        for message in self.to_sites:
            if self.names[message.metadata.dst_node_id] == site and message.metadata.message_type == kind:
                plan = from_record(RoundPlan, message.content[PLAN])
                if plan.network == network:
                    found[plan.round] = message
        return found

    def _deliver(self, message: Message) -> str:
        name, kind = self.names[message.metadata.dst_node_id], message.metadata.message_type
        if PLAN in message.content and self.absent(name, kind, from_record(RoundPlan, message.content[PLAN])):
            key = next(self._ids)
            message.metadata.__dict__["_message_id"] = key
            self._replies[key] = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "away"), reply_to=message)
            return key
        key = super()._deliver(message)
        self.spoil(name, self._replies[key])
        return key


def arrays_of(messages: list[Message]) -> dict[str, list[np.ndarray]]:
    """Every array in the messages, by name."""
    found: dict[str, list[np.ndarray]] = {}
    for message in messages:
        if message.has_error():
            continue
        for record in message.content.array_records.values():
            for name, array in arrays_in(record).items():
                found.setdefault(name, []).append(array)
    return found
