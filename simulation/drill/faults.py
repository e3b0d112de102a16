"""What a broken or hostile site could send: each fault spoils a reply to TRAIN on its way out of the drill's own site."""

from collections.abc import Callable

import numpy as np
from flwr.app import RecordDict

from mtmd_core.prototype_arrays import COUNTS
from mtmd_core.wire import PACKED, PROTOTYPES, SHARED, unpack_arrays
from server.plans import pack

Arrays = dict[str, np.ndarray]
Spoil = Callable[[Arrays], None]
"""Changes the arrays of one record in place."""
HUGE = 1e4
"""Times what a parameter should be: finite, and far beyond any update."""
SENT_BEFORE, SENT_TWICE = "stale", "repeated"
"""Faults of the sending and not of the content: the last reply again, and one reply twice (:mod:`.saboteur_worker`)."""


def spoil(content: RecordDict, fault: str) -> None:
    """Spoil the content of a reply.

    Raises:
        ValueError: if there is no such fault.
    """
    if fault not in FAULTS:
        raise ValueError(f"there is no fault '{fault}'; expected one of {', '.join(FAULTS)}")
    record, change = FAULTS[fault]
    arrays = {name: array.copy() for name, array in unpack_arrays(content[record][PACKED].data).items()}
    change(arrays)
    content[record] = pack(arrays)


def _first(arrays: Arrays) -> str:
    return min(name for name, array in arrays.items() if array.dtype.kind == "f" and array.ndim)


def _one_value(value: float) -> Spoil:
    def change(arrays: Arrays) -> None:
        arrays[_first(arrays)].flat[-1] = value

    return change


def _one_array(change_array: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def change(arrays: Arrays) -> None:
        arrays[_first(arrays)] = change_array(arrays[_first(arrays)])

    return change


def _of_one_scale(field: str, change_array: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def change(arrays: Arrays) -> None:
        arrays[f"s1/{field}"] = np.float32(change_array(arrays[f"s1/{field}"]))

    return change


def _extra(arrays: Arrays) -> None:
    arrays["nobody.asked.for.this"] = np.zeros(3, np.float32)


def _missing(arrays: Arrays) -> None:
    del arrays[_first(arrays)]


def _huge(arrays: Arrays) -> None:
    for name in arrays:
        arrays[name] = arrays[name] * arrays[name].dtype.type(HUGE)


def _few(arrays: Arrays) -> None:
    arrays[COUNTS] = np.ones_like(arrays[COUNTS])


FAULTS: dict[str, tuple[str, Spoil]] = {
    "nan": (SHARED, _one_value(np.nan)),
    "infinite": (SHARED, _one_value(np.inf)),
    "mis_shaped": (SHARED, _one_array(lambda array: array[..., None])),
    "mis_typed": (SHARED, _one_array(lambda array: array.astype(np.float64))),
    "missing": (SHARED, _missing),
    "extra": (SHARED, _extra),
    "huge": (SHARED, _huge),
    "prototype_nan": (PROTOTYPES, _of_one_scale("mean", lambda mean: mean * np.nan)),
    "prototype_long": (PROTOTYPES, _of_one_scale("mean", lambda mean: 2 * mean / np.linalg.norm(mean))),
    "prototype_negative": (PROTOTYPES, _of_one_scale("residual", lambda residual: -1 - residual)),
    "prototype_spread": (PROTOTYPES, _of_one_scale("residual", lambda residual: 1 + residual)),
    "prototype_few": (PROTOTYPES, _few),
}
"""Name → the record that it spoils, and how."""
