"""Whether exams are the same ones: digests of what is in them, whatever their files are called and however they are packed.

A fold splits a site's exams by their places (:mod:`.split`): one that is added, renamed or taken away moves others between test
and training. So whoever keeps what a training made keeps the record of its exams beside it, and holds it against those there are.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

ExamRecord = Mapping[str, Mapping[str, object]]
"""Exam, in the order that folds count in → what is in it, as JSON holds it."""
_WORDS = {"image": "image", "labels": "label map", "spacing_mm": "spacing"}
"""Parts of an exam's entry → what people call them."""
_SHOWN = 5
"""Exams of a kind that a text names; more are counted."""


def voxel_digest(voxels: np.ndarray) -> str:
    """Digest of a volume [X, Y, Z] in canonical orientation: of its shape, and of its values as float32.

    Of one volume that is stored in two types, axis orders or compressions it is the same.
    """
    digest = hashlib.blake2b(str(voxels.shape).encode(), digest_size=16)
    digest.update(
        np.ascontiguousarray(voxels + np.float32(0), "<f4")
    )  # of the zeros that floats have, the positive one
    return digest.hexdigest()


def differences(begun: ExamRecord, now: ExamRecord) -> str:
    """How exams differ from those of a record, for people on the machine that has them; empty if they do not.

    >>> one, other = {"image": "ab", "labels": "cd"}, {"image": "ab", "labels": "ef"}
    >>> differences({"A1": one, "A2": one, "A3": one}, {"A0": one, "A2": other, "A3": one})
    'A0 is new; A1 is gone; A2 has another label map'
    """
    changes = {name: _change(begun[name], now[name]) for name in begun if name in now and begun[name] != now[name]}
    parts = [
        *_listed([name for name in now if name not in begun], "is new", "are new"),
        *_listed([name for name in begun if name not in now], "is gone", "are gone"),
    ]
    for change in dict.fromkeys(changes.values()):
        own = [name for name in changes if changes[name] == change]
        parts += _listed(own, f"has another {change}", f"have another {change}")
    return "; ".join(parts)


def _change(begun: Mapping[str, object], now: Mapping[str, object]) -> str:
    return " and ".join(word for part, word in _WORDS.items() if begun.get(part) != now.get(part))


def _listed(names: list[str], one: str, several: str) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{', '.join(names[:_SHOWN])}{more} {one if len(names) == 1 else several}"]
