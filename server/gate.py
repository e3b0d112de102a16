"""Which replies are fit to aggregate, and why not. Every reply is looked at alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from mtmd_core.arrays import all_finite
from mtmd_core.update_encoding import FLOAT32, decode_update, sent_shapes
from mtmd_core.wire import (
    METRIC_NAMES,
    METRICS,
    PROTOTYPES,
    RECEIPT,
    SHARED,
    UPDATE,
    ArrayShape,
    Receipt,
    array_shape,
    decode_array,
    from_record,
    misfit,
)

from .prototype_shelf import PrototypeShelf

TRAINING_SLICES = "training_slices"
MAX_METRIC = 1e12
"""Larger than any loss, distance, volume difference or time that a site measures."""


@dataclass(frozen=True)
class Reply:
    """A reply that is fit to use.

    ``shared`` is what the site brings for each shared parameter, decoded; empty where nothing was asked for. ``prototypes`` are
    None where the site sent none, or none that can be: then ``prototype_refusal`` says why, and the rest of the reply is used
    all the same. ``bytes``: of all arrays as they came; ``prototype_bytes`` is the prototypes' part.
    """

    site: str
    metrics: dict[str, int | float]
    shared: dict[str, np.ndarray]
    bytes: int
    prototypes: dict[str, np.ndarray] | None = None
    prototype_bytes: int = 0
    prototype_refusal: str | None = None


@dataclass(frozen=True)
class Refusal:
    """A reply that is left out, and why."""

    site: str
    reason: str


def admit(
    message: Message,
    site: str,
    run: str,
    round_: int,
    expected: Mapping[str, ArrayShape] | None,
    look_inside: bool = True,
    record: str = SHARED,
    encoding: str = FLOAT32,
    tells_slices: bool = False,
    shelf: PrototypeShelf | None = None,
) -> Reply | Refusal:
    """Look at one reply.

    Args:
        site: who must have sent it.
        run, round_: the visit that it must answer.
        expected: names, dtypes and shapes of the parameters that it must be about; None if it must bring none.
        look_inside: whether to look for values that are not finite, which takes a walk through all of them.
        record: in which it must bring them: ``SHARED``, ``UPDATE`` or ``GRADIENT``.
        encoding: of an update (:mod:`mtmd_core.update_encoding`).
        tells_slices: whether it must say how many slices the site trained on, which is its weight.
        shelf: knows what prototypes must be, which the reply may bring; None if it must bring none.
    """
    if message.has_error():
        return Refusal(site, f"the site failed with error {message.error.code} ({message.error.reason})")
    content = message.content
    wanted = {RECEIPT: ConfigRecord, METRICS: MetricRecord} | ({record: ArrayRecord} if expected is not None else {})
    if shelf is not None and expected is not None and PROTOTYPES in content:
        wanted[PROTOTYPES] = ArrayRecord
    if {name: type(record) for name, record in content.items()} != wanted:
        return Refusal(site, f"it holds the records {_kinds(content)}, expected {', '.join(sorted(wanted))}")
    try:
        receipt = from_record(Receipt, content[RECEIPT])
    except ValueError as error:
        return Refusal(site, f"its receipt cannot be read: {error}")
    if receipt != Receipt(run, round_, site):
        return Refusal(site, f"it answers {receipt}, expected {Receipt(run, round_, site)}")
    try:
        metrics = _metrics(content[METRICS])
        if expected is None:
            return Reply(site, metrics, {}, 0)
        if tells_slices and not metrics.get(TRAINING_SLICES, 0) >= 1:
            raise ValueError("it does not say how many slices the site trained on")
        update = record == UPDATE
        shapes = sent_shapes(expected, encoding) if update else expected
        shared, size = _arrays(content[record], shapes, "parameters")
        shared = decode_update(shared, encoding) if update else shared
        wild = next((name for name, array in shared.items() if look_inside and not all_finite(array)), None)
        if wild is not None:
            raise ValueError(f"{wild} holds values that are not finite")
    except ValueError as error:
        return Refusal(site, str(error))
    if PROTOTYPES not in content:
        return Reply(site, metrics, shared, size)
    try:
        prototypes, more = _arrays(content[PROTOTYPES], shelf.expected, "prototypes")
        refusal = shelf.refusal(prototypes)
    except ValueError as error:
        prototypes, more, refusal = None, 0, str(error)
    return Reply(site, metrics, shared, size + more, None if refusal else prototypes, more, refusal)


def _kinds(content: RecordDict) -> str:
    return ", ".join(f"{name} ({type(record).__name__})" for name, record in sorted(content.items()))


def _metrics(record: MetricRecord) -> dict[str, int | float]:
    metrics = dict(record)
    for name, value in sorted(metrics.items()):
        if not METRIC_NAMES["structure"].fullmatch(name):
            raise ValueError("it holds a metric that no site sends")  # whose name may quote anything
        share = name.rpartition("/")[2].removesuffix("_2d") in ("dice", "sensitivity", "specificity")
        least = -MAX_METRIC if name == "loss" else 0  # contrast may be below zero, what is counted or measured may not
        if not isinstance(value, int | float) or not least <= value <= (1 if share else MAX_METRIC):
            raise ValueError(f"its metric {name} is {value}")
    return metrics


def _arrays(record: ArrayRecord, expected: Mapping[str, ArrayShape], what: str) -> tuple[dict[str, np.ndarray], int]:
    claimed = {name: (array.dtype, tuple(array.shape)) for name, array in record.items()}
    reason = misfit(expected, claimed)
    if reason:
        raise ValueError(f"its {what} do not fit: {reason}")
    arrays = {name: decode_array(array.data) for name, array in record.items()}
    reason = misfit(expected, {name: array_shape(array) for name, array in arrays.items()})
    if reason:  # the header of the bytes may say something else than the record
        raise ValueError(f"its {what} do not fit: {reason}")
    return arrays, sum(len(array.data) for array in record.values())
