"""Sites of a federation in one process, and a grid that keeps what crosses between them and the server."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from flwr.app import Message
from tiny_sites import SITES

from client.app import build_client_app
from client.outbox import Outbox
from client.site import Site
from client.site_state import DiskState, MemoryState
from mtmd_core.data.site_data import load_site
from mtmd_core.wire import decode_array
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
    """Keeps every message that crosses, both ways."""

    def __init__(self, sites: dict[str, Site]) -> None:
        super().__init__({name: build_client_app(site) for name, site in sites.items()})
        self.names = dict(enumerate(sites, start=1))
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


def arrays_of(messages: list[Message]) -> dict[str, list[np.ndarray]]:
    """Every array in the messages, by name."""
    found: dict[str, list[np.ndarray]] = {}
    for message in messages:
        for record in message.content.array_records.values():
            for name, array in record.items():
                found.setdefault(name, []).append(decode_array(array.data))
    return found
