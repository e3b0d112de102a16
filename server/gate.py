"""Which replies are fit to aggregate, and why not. Every reply is looked at alone, and none can end a run.

What is said of a refused one goes into logs, so nothing is quoted of it but numbers and names that were known before: whatever
else a reply holds may have been written by anybody.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from logging import getLogger
from traceback import format_tb

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from mtmd_core.arrays import all_finite
from mtmd_core.errors import SiteError
from mtmd_core.prototype_arrays import MOST_SLICES
from mtmd_core.refusals import Reason
from mtmd_core.update_encoding import FLOAT32, decode_update, sent_shapes
from mtmd_core.wire import (
    GRADIENT,
    METRIC_NAMES,
    METRICS,
    PACKED,
    PROTOCOL,
    PROTOTYPES,
    RECEIPT,
    SHARED,
    UPDATE,
    ArrayShape,
    Receipt,
    array_shape,
    from_record,
    misfit,
    unpack_arrays,
)

from .prototype_shelf import PrototypeShelf
from .update_norms import update_norm

log = getLogger(__name__)

TRAINING_SLICES = "training_slices"
MAX_METRIC = 1e12
"""Larger than any loss, distance, volume difference or time that a site measures."""


@dataclass(frozen=True)
class Reply:
    """A reply that is fit to use.

    ``shared`` is what the site brings for each shared parameter, decoded; empty where nothing was asked for. ``prototypes`` are
    None where the site sent none, or none that can be: then ``prototype_refusal`` says why, and the rest of the reply is used
    all the same. ``bytes``: of all arrays as they came; ``prototype_bytes`` is the prototypes' part. ``norm``: of the update
    (:mod:`server.update_norms`).
    """

    site: str
    metrics: dict[str, int | float]
    shared: dict[str, np.ndarray]
    bytes: int
    prototypes: dict[str, np.ndarray] | None = None
    prototype_bytes: int = 0
    prototype_refusal: str | None = None
    norm: float = 0.0


@dataclass(frozen=True)
class Refusal:
    """A reply that is left out, and why: in a word for programs, and in detail for people."""

    site: str
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Visit:
    """What replies must answer, and what they must bring.

    Args:
        run, round: the visit.
        expected: names, dtypes and shapes of the parameters that a reply must be about; None if it must bring none.
        record: in which it must bring them: ``SHARED``, ``UPDATE`` or ``GRADIENT``.
        encoding: of an update (:mod:`mtmd_core.update_encoding`).
        tells_slices: whether it must say how many slices the site trained on, which is its weight.
        shelf: knows what prototypes must be, which a reply may bring; None if it must bring none.
        before: the parameters that the round began with.
        statistics: names of those that are running statistics.
        longest: the greatest norm that an update may have.
    """

    run: str
    round: int
    expected: Mapping[str, ArrayShape] | None
    record: str = SHARED
    encoding: str = FLOAT32
    tells_slices: bool = False
    shelf: PrototypeShelf | None = None
    before: Mapping[str, np.ndarray] = field(default_factory=dict)
    statistics: frozenset[str] = frozenset()
    longest: float = math.inf


class _Unfit(Exception):  # noqa: N818 - carries a verdict from where it is found to where it is given
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def admit(message: Message, site: str, visit: Visit) -> Reply | Refusal:
    """Look at one reply to a visit, which ``site`` must have sent.

    Never raises: what nobody foresaw in a reply is a refusal of that site's reply, and the log says where it came up.
    """
    try:
        return _looked_at(message, site, visit)
    except _Unfit as unfit:
        return Refusal(site, unfit.reason, unfit.detail)
    except Exception as error:  # of whatever kind: its text may quote the reply and is left out
        kind, places = type(error).__name__, "".join(format_tb(error.__traceback__))
        log.error("the reply of %s could not be read: %s was raised at\n%s", site, kind, places.rstrip())
        return Refusal(site, Reason.UNREADABLE, f"it could not be read ({kind})")


def _looked_at(message: Message, site: str, visit: Visit) -> Reply:
    if message.has_error():
        raise _Unfit(Reason.SITE_ERROR, f"the site failed: {error_word(message.error.reason)}")
    content = message.content
    _check_records(content, visit)
    _check_receipt(content[RECEIPT], Receipt(visit.run, visit.round, site))
    metrics = _metrics(content[METRICS])
    if visit.expected is None:
        return Reply(site, metrics, {}, 0)
    slices = metrics.get(TRAINING_SLICES, 0)
    if visit.tells_slices and not (1 <= slices <= MOST_SLICES and slices == int(slices)):
        raise _Unfit(Reason.NO_SLICES, "it does not say how many slices the site trained on")
    update = visit.record == UPDATE
    shapes = sent_shapes(visit.expected, visit.encoding) if update else visit.expected
    try:
        shared, size = _arrays(content[visit.record], shapes, "parameters")
    except ValueError as error:
        raise _Unfit(Reason.WRONG_PARAMETERS, str(error)) from None
    shared = decode_update(shared, visit.encoding) if update else shared
    norm = _norm(shared, visit)
    if PROTOTYPES not in content:
        return Reply(site, metrics, shared, size, norm=norm)
    try:
        prototypes, more = _arrays(content[PROTOTYPES], visit.shelf.expected, "prototypes")
        refusal = visit.shelf.refusal(prototypes, metrics.get(TRAINING_SLICES, MOST_SLICES))
    except ValueError as error:
        prototypes, more, refusal = None, 0, str(error)
    return Reply(site, metrics, shared, size + more, None if refusal else prototypes, more, refusal, norm)


def error_word(reason: str) -> str:
    """The word that a site's error carries, if it is one that sites send."""
    return reason if reason in set(SiteError) else "for a reason that no site gives"


def _check_records(content: RecordDict, visit: Visit) -> None:
    brings = visit.expected is not None
    wanted = {RECEIPT: ConfigRecord, METRICS: MetricRecord} | ({visit.record: ArrayRecord} if brings else {})
    if visit.shelf is not None and brings and PROTOTYPES in content:
        wanted[PROTOTYPES] = ArrayRecord
    if {name: type(record) for name, record in content.items()} != wanted:
        raise _Unfit(
            Reason.WRONG_RECORDS, f"it holds the records {_kinds(content)}, expected {', '.join(sorted(wanted))}"
        )


def _kinds(content: RecordDict) -> str:
    known = {RECEIPT, METRICS, SHARED, UPDATE, GRADIENT, PROTOTYPES}
    kinds = [f"{name} ({type(record).__name__})" for name, record in sorted(content.items()) if name in known]
    strangers = len(content) - len(kinds)
    return ", ".join(kinds + ([f"{strangers} that no site sends"] if strangers else []))


def _check_receipt(record: ConfigRecord, expected: Receipt) -> None:
    try:
        receipt = from_record(Receipt, record)
    except ValueError:
        raise _Unfit(Reason.UNREADABLE_RECEIPT, "its receipt cannot be read") from None
    if (receipt.run, receipt.site) != (expected.run, expected.site):
        raise _Unfit(Reason.OTHER_VISIT, f"it answers another run or as another site than {expected}")
    if receipt.round != expected.round:
        raise _Unfit(Reason.STALE_ROUND, f"it answers round {receipt.round}, expected {expected.round}")


def _metrics(record: MetricRecord) -> dict[str, int | float]:
    metrics = dict(record)
    for name, value in sorted(metrics.items()):
        if not METRIC_NAMES["structure"].fullmatch(name):
            raise _Unfit(Reason.WRONG_METRICS, "it holds a metric that no site sends")
        share = name.rpartition("/")[2].removesuffix("_2d") in ("dice", "sensitivity", "specificity")
        # Contrast may be below zero; what is counted or measured may not.
        least = -MAX_METRIC if name in ("loss", "loss/contrast") else 0
        if not isinstance(value, int | float) or not least <= value <= (1 if share else MAX_METRIC):
            given = f"{value:g}" if isinstance(value, int | float) else "no number"
            raise _Unfit(Reason.WRONG_METRICS, f"its metric {name} is {given}")
    return metrics


def _norm(shared: Mapping[str, np.ndarray], visit: Visit) -> float:
    """The norm of the update; the same walk finds values that are not finite."""
    norm = update_norm(shared, visit.before, visit.record, visit.statistics)
    if not math.isfinite(norm) or not all(all_finite(shared[name]) for name in visit.statistics):
        wild = next((name for name, array in shared.items() if not all_finite(array)), None)
        if wild is not None:
            raise _Unfit(Reason.NOT_FINITE, f"{wild} holds values that are not finite")
    if norm > visit.longest or math.isinf(norm):
        limit = (
            f"at most {visit.longest:.3g} is admitted after the last rounds" if norm > visit.longest else "no number"
        )
        raise _Unfit(Reason.OUTLYING_NORM, f"its update has norm {norm:.3g}; {limit}")
    return norm


def _arrays(record: ArrayRecord, expected: Mapping[str, ArrayShape], what: str) -> tuple[dict[str, np.ndarray], int]:
    """The arrays of a record, and how many bytes they came in."""
    if record.keys() != {PACKED}:
        raise ValueError(f"its {what} are not packed as protocol {PROTOCOL} has it")
    data = record[PACKED].data
    try:
        arrays = unpack_arrays(data)
    except ValueError as error:
        raise ValueError(f"its {what} do not fit: {error}") from None
    strangers = len(arrays.keys() - expected.keys())
    if strangers:
        raise ValueError(f"its {what} do not fit: {strangers} of another name than the {len(expected)} expected")
    reason = misfit(expected, {name: array_shape(array) for name, array in arrays.items()})
    if reason:
        raise ValueError(f"its {what} do not fit: {reason}")
    return arrays, len(data) if arrays else 0  # an empty record's few bytes are those of its form
