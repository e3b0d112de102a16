"""Files that are whole or not there: written beside their place, flushed, then renamed."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to the disk and rename it into place.

    Whatever goes wrong on the way, the previous content of ``path`` stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that were killed, wherever they lie in a folder that nobody else writes to now."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def move(path: Path, folder: Path) -> None:
    """Rename a file or a folder into another folder, on the same disk and for good: it is in one of the two at any moment.

    Raises:
        OSError: if that is on another disk, or holds a folder of this name that is not empty.
    """
    path.replace(folder / path.name)
    _flush(folder)
    _flush(path.parent)


def _flush(folder: Path) -> None:
    """Have the disk know what a folder holds now."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8") and None)


def write_private(path: Path, content: bytes) -> None:
    """Write a secret whole or not at all, for the eyes of this user alone (mode 0600)."""

    def write(temporary: Path) -> None:
        temporary.chmod(0o600)  # as mkstemp made it; said again, because everything hangs on it
        temporary.write_bytes(content)

    write_with(path, write)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file; none where there is no file, and without a line that a crash cut short."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a table whole or not at all: a header from the first row's keys, None as an empty cell.

    Raises:
        ValueError: if there is no row, or a row has other columns than the first.
    """
    if not rows:
        raise ValueError(f"{path} would have no row: a table needs one at least.")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        if row.keys() != rows[0].keys():
            raise ValueError(f"a row of {path} has the columns {list(row)}, the first row has {list(rows[0])}.")
        writer.writerow(row)
    write_text(path, text.getvalue())
