"""An append-only record of everything that left a site: JSON Lines, each line bound to the one before by its digest."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

START = "0" * 32


class Ledger:
    """What left a site, in the order it left.

    Args:
        path: of the JSON Lines file; made when the first line is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = _last_digest(path)

    def append(self, run: str, round_: int, record: str, content: Mapping[str, object]) -> None:
        """Write one line an entry of ``content`` (arrays or scalars), before it is sent."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            for name, value in content.items():
                line = {"time": time.time(), "run": run, "round": round_, "record": record, "name": name}
                line |= _describe(value) | {"previous": self._last}
                self._last = _digest(line)
                file.write(json.dumps({**line, "chain": self._last}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def verify(path: Path) -> int:
    """Number of lines of a ledger whose chain is whole.

    Raises:
        ValueError: naming the first line that was altered, removed or added later.
    """
    previous = START
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            chain = line.pop("chain")
        except (ValueError, KeyError):
            raise ValueError(f"{path}: line {number} is not a line of a ledger") from None
        if line.get("previous") != previous or chain != _digest(line):
            raise ValueError(f"{path}: the chain breaks at line {number}: it or a line before it was altered")
        previous = chain
    return len(lines)


def _describe(value: object) -> dict[str, object]:
    if not isinstance(value, np.ndarray):
        return {"value": value}
    flat = np.ascontiguousarray(value)
    return {
        "shape": list(value.shape),
        "dtype": str(value.dtype),
        "bytes": value.nbytes,
        "norm": float(np.linalg.norm(flat.ravel())),
        "digest": hashlib.sha256(flat.data).hexdigest(),
    }


def _digest(line: Mapping[str, object]) -> str:
    return hashlib.blake2b(json.dumps(line, sort_keys=True).encode(), digest_size=16).hexdigest()


def _last_digest(path: Path) -> str:
    if not path.is_file() or path.stat().st_size == 0:
        return START
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["chain"]
