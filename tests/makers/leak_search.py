"""Looks for private things in recorded bytes, by value: what they are called there does not matter."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

FLOATS = {"float32": np.float32, "float64": np.float64}
LEAST_BYTES = 8
"""A tensor's bytes are found by eight of them; shorter ones would be found by chance."""


@dataclass(frozen=True)
class Leak:
    """A private thing in a recording: what it is, as what type of bytes it was there, and where."""

    what: str
    kind: str
    place: int


def find_tensors(recording: bytes, private: Mapping[str, Sequence[np.ndarray]]) -> list[Leak]:
    """Private tensors whose values lie in the recording one after another, as float32, float64 or bfloat16, or as they are.

    Tensors with fewer than three different values are passed over (zeros, ones, counters): they tell nothing.
    """
    needles: dict[int, list[tuple[str, str, bytes, int]]] = {}
    for what, arrays in private.items():
        for array in arrays:
            for kind, needle in _encodings(array):
                start = _telling_place(needle)
                key = int.from_bytes(needle[start : start + LEAST_BYTES], "little")
                needles.setdefault(key, []).append((what, kind, needle, start))
    keys = np.array(sorted(needles), np.uint64)
    leaks = []
    for shift in range(LEAST_BYTES) if needles else ():  # a tensor may begin at any byte
        words = np.frombuffer(recording, "<u8", (len(recording) - shift) // LEAST_BYTES, shift)
        nearest = keys[np.minimum(np.searchsorted(keys, words), len(keys) - 1)]
        for index in np.flatnonzero(nearest == words):
            for what, kind, needle, start in needles[int(words[index])]:
                place = LEAST_BYTES * int(index) + shift - start
                if place >= 0 and recording.startswith(needle, place):
                    leaks.append(Leak(what, kind, place))
    return leaks


def find_words(recording: bytes, words: Iterable[str]) -> list[Leak]:
    """Private words in the recording, in UTF-8."""
    places = {word: recording.find(word.encode()) for word in words}
    return [Leak(word, "text", place) for word, place in places.items() if place >= 0]


def recorded_bytes(messages: Iterable[Message]) -> bytes:
    """Messages as Flower writes them for the wire, array for array."""
    parts = [
        part.deflate()
        for message in messages
        if not message.has_error()
        for part in get_all_nested_objects(message).values()
    ]
    return b"\n".join(parts)


def _telling_place(needle: bytes) -> int:
    """Where eight bytes lie that are not as common as zeros are."""
    places = range(0, len(needle) - LEAST_BYTES + 1, 4)
    return next((place for place in places if len(set(needle[place : place + LEAST_BYTES])) >= 4), 0)


def _encodings(array: np.ndarray) -> Iterable[tuple[str, bytes]]:
    if array.size == 0 or not np.any((array != array.min()) & (array != array.max())):
        return
    array = np.ascontiguousarray(array)
    encodings = {str(array.dtype): array.tobytes()}
    if array.dtype.kind == "f":
        encodings |= {kind: array.astype(dtype).tobytes() for kind, dtype in FLOATS.items()}
        halves = torch.from_numpy(array.astype(np.float32)).bfloat16().view(torch.int16)
        encodings["bfloat16"] = halves.numpy().tobytes()
    yield from ((kind, data) for kind, data in encodings.items() if len(data) >= LEAST_BYTES)
