"""An append-only record of everything that left a site: JSON Lines, each line bound to the one before by its digest."""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mtmd_core.errors import DataError
from mtmd_core.update_encoding import from_bfloat16

log = logging.getLogger(__name__)

START = "0" * 32


class Ledger:
    """What left a site, in the order it left.

    Args:
        path: of the JSON Lines file; made when the first line is written.

    Raises:
        DataError: if the file ends in something else than a line of a ledger.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _drop_torn_line(path)
        self._last = _last_digest(path)

    def append(self, run: str, round_: int, record: str, content: Mapping[str, object]) -> None:
        """Write one line an entry of ``content`` (arrays or scalars), before it is sent; none if the disk is full."""
        last, lines = self._last, []
        for name, value in content.items():
            line = {"time": time.time(), "run": run, "round": round_, "record": record, "name": name}
            line |= _describe(value) | {"previous": last}
            last = _digest(line)
            lines.append(json.dumps({**line, "chain": last}) + "\n")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # a disk that is full: half a line would break the chain for ever
            with contextlib.suppress(FileNotFoundError):
                os.truncate(self.path, size)
            raise
        self._last = last


def verify(path: Path) -> int:
    """Number of lines of a ledger whose chain is whole.

    Raises:
        ValueError: naming the first line that was altered, removed or added later. Lines that are missing at the end
            leave no gap, and are not noticed.
    """
    previous = START
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            chain = line.pop("chain")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path}: line {number} is not a line of a ledger") from None
        if line.get("previous") != previous or chain != _digest(line):
            raise ValueError(f"{path}: the chain breaks at line {number}: it or a line before it was altered")
        previous = chain
    return len(lines)


def _describe(value: object) -> dict[str, object]:
    if not isinstance(value, np.ndarray):
        return {"value": value}
    flat = np.ascontiguousarray(value)
    bfloat16 = value.dtype == np.uint16  # NumPy has no name for it: its bits are what is sent
    return {
        "shape": list(value.shape),
        "dtype": "bfloat16" if bfloat16 else str(value.dtype),
        "bytes": value.nbytes,
        "norm": float(np.linalg.norm((from_bfloat16(flat) if bfloat16 else flat).ravel())),
        "digest": hashlib.sha256(flat.data).hexdigest(),
    }


def _digest(line: Mapping[str, object]) -> str:
    return hashlib.blake2b(json.dumps(line, sort_keys=True).encode(), digest_size=16).hexdigest()


def _last_digest(path: Path) -> str:
    if not path.is_file() or path.stat().st_size == 0:
        return START
    try:
        return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["chain"]
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"the last line of {path} is not a line of a ledger, so nothing can be added to it: keep the file as "
            "evidence under another name, and a new one will be begun."
        ) from None


def _drop_torn_line(path: Path) -> None:
    """Remove a last line that a crash cut short: lines are complete before what they describe is sent."""
    if not path.is_file():
        return
    with open(path, "rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        if whole < file.tell():
            log.warning("the last line of %s was cut short before anything was sent, and is removed", path)
            file.truncate(whole)
