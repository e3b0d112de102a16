"""Durations and sizes as people read them, and how long is left."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

RECENT = 10
"""Rounds whose length tells how long the next ones take."""


def say_duration(seconds: float) -> str:
    """Seconds in the two largest units that say something; below ten, to a tenth.

    >>> [say_duration(seconds) for seconds in (0.42, 59, 61, 7260, 200000)]
    ['0.4 s', '59 s', '1 min 1 s', '2 h 1 min', '2 d 7 h']
    """
    if seconds < 9.95:
        return f"{round(seconds, 1):g} s"
    left = round(seconds)
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if parts or count or unit == "s":
            parts.append(f"{count} {unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 ") or len(parts) == 1)


def say_bytes(count: float) -> str:
    """Bytes in decimal units.

    >>> [say_bytes(count) for count in (0, 999, 34_911_232)]
    ['0 B', '999 B', '34.9 MB']
    """
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{count:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


def seconds_a_round(ends: Sequence[float]) -> float | None:
    """Median time between the last ends of rounds; None with fewer than two. A night's stop between two rounds changes nothing.

    >>> seconds_a_round([0.0, 10.0, 21.0, 50000.0, 50009.0])
    10.5
    """
    recent = ends[-RECENT - 1 :]
    gaps = [later - earlier for earlier, later in pairwise(recent)]
    return median(gaps) if gaps else None
