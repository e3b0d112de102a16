"""A log for machines: JSON Lines, one event a line, in files that do not grow for ever."""

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from mtmd_core.durable import read_json_lines

LIMIT_BYTES = 5_000_000
KEPT = 9
"""Full files that are kept: ``audit.jsonl.1`` is the newest of them."""


class EventLog:
    """Appends events to a file; a full one is put aside.

    Args:
        path: of the file; made when the first event comes.
        limit_bytes: from which size on it is full.
    """

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.path = path
        self.limit_bytes = limit_bytes

    def note(self, event: str, **facts: object) -> None:
        """Write ``{"time": seconds since 1970, "event": event, **facts}`` as one line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size >= self.limit_bytes:
            _put_aside(self.path)
        line = json.dumps({"time": time.time(), "event": event, **facts}, allow_nan=False) + "\n"
        with open(self.path, "ab") as file:
            torn = file.tell() > 0 and _last_byte(self.path) != b"\n"  # a crash cut the last line short
            file.write((b"\n" if torn else b"") + line.encode())


def events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log, oldest first, those of full files included; lines that a crash cut short are left out."""
    for file in (*_full_files(path), path):
        yield from read_json_lines(file)


def _full_files(path: Path) -> list[Path]:
    """Where full files lie, the oldest first."""
    return [path.with_name(f"{path.name}.{number}") for number in range(KEPT, 0, -1)]


def _put_aside(path: Path) -> None:
    for older, newer in pairwise([*_full_files(path), path]):
        if newer.exists():
            newer.replace(older)


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, 2)
        return file.read(1)
