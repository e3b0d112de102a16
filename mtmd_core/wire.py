"""The contract between server and client: kinds of messages, their records, and the bytes of arrays.

Nothing here knows Flower; both rooms put these plain values into Flower's records.

========  ======================================  ================================================
kind      server → site                           site → server
========  ======================================  ================================================
QUERY     –                                       facts: :class:`SiteFacts`
TRAIN     plan: :class:`RoundPlan`, shared,       receipt, :class:`Contribution`, metrics,
          and by strategy those of :class:`Terms`  prototypes (where there are some)
EVALUATE  plan: :class:`RoundPlan`, shared        receipt, metrics
NOTIFY    notice: :class:`Notice`                 –
FAREWELL  farewell: exit_code                     –
========  ======================================  ================================================

A TRAIN or EVALUATE message has a ``notice``, too, where the site's last reply to TRAIN was left out. A site that cannot answer
sends Flower's error with one of :class:`mtmd_core.errors.SiteError`, and no text.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import lru_cache
from typing import TypeVar

import numpy as np

from mtmd_core.scores import METRICS_2D, METRICS_3D

QUERY = "query.facts"
TRAIN = "train"
EVALUATE = "evaluate"
NOTIFY = "query.notice"
FAREWELL = "query.farewell"

PLAN, SHARED, METRICS, RECEIPT, FACTS, GOODBYE = "plan", "shared", "metrics", "receipt", "facts", "farewell"
NOTICE = "notice"
CONTRAST, PRIOR, PRIOR_SHARED, PROTOTYPES = "contrast", "prior", "prior_shared", "prototypes"
"""Names of the records in a message; other sites' prototypes come as ``prototypes.0``, ``prototypes.1`` and so on."""
UPDATE, GRADIENT = "update", "gradient"
"""What a site's contribution may be besides ``SHARED``: names of records too."""

PROTOCOL = 11
"""Raised whenever the records change; a site refuses a server of another protocol."""

Scalar = bool | int | float | str
T = TypeVar("T")


_SCORES = "|".join((*METRICS_3D, *METRICS_2D))  # spelt out: a name of an exam or a structure fits nowhere
_COUNTS = r"steps|training_slices|seconds_training|seconds_evaluation"
_TERMS = "cross_entropy|contrast|prior|proximal"  # of mtmd_core.objectives
_MEANS = rf"loss(/({_TERMS}))?|gradient_norm/({_TERMS})|(validation|test)/foreground_mean/({_SCORES})"
_STRUCTURES = rf"test/mean/structure_[0-9]{{1,3}}/({_SCORES})"
METRIC_NAMES = {
    "none": re.compile(_COUNTS),
    "mean": re.compile(f"{_COUNTS}|{_MEANS}"),
    "structure": re.compile(f"{_COUNTS}|{_MEANS}|{_STRUCTURES}"),
}
"""Names of metrics that a site may send, by the level of its ``release`` setting; a server takes no others."""


@dataclass(frozen=True)
class SiteFacts:
    """What a site says of itself at roll call: its name and how many structures its exams have."""

    site: str
    structures: int
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class RoundPlan:
    """What the coordinator asks of one site in one visit.

    ``round`` counts from 1. A TRAIN visit of round r brings the shared parameters that round r−1 ended with, an
    EVALUATE visit of round r those that round r ended with. ``encoder_weights`` is a word whose meaning a site looks up for
    itself, never a path. ``label_classes`` is 0 where the site keeps its own label space, else the size of the union, in
    which the site's structures follow ``label_offset``. ``best_round`` is the best one so far (0: none known), whose private
    parameters a site keeps.

    ``rounds`` is how many there are (0: not said), for people to know what is left, and for ``learning_rate_decay``, which needs
    it: the learning rate falls over all rounds' steps.
    ``channels_last`` is how the site's networks lie in memory (:func:`mtmd_core.devices.to_device`); what travels does not.
    ``deterministic`` makes a site's CUDA repeat itself bit for bit (:func:`mtmd_core.devices.be_deterministic`).
    ``local_epochs`` counts passes over the site's training slices and, where it is not 0, takes the place of ``local_steps``.
    ``proximal_mu`` is FedProx's μ. ``update_encoding`` says how the contribution travels (:mod:`mtmd_core.update_encoding`).
    ``tell_slices`` asks for the number of training slices. In lock-step ``lockstep_weight`` is the site's share of Eq. 1, 1/K:
    the site takes one step, sends its gradient and scales its private gradients by it; else it is 0.
    """

    run: str
    round: int
    strategy: str
    network: str
    width: int
    encoder_weights: str
    slice_size: int
    slice_axis: str
    fold: int
    seed: int
    local_steps: int
    share: int
    learning_rate: float
    augment: bool
    autocast: bool
    calibration_batches: int
    validate: bool
    test: bool
    best_round: int
    label_offset: int
    label_classes: int
    local_epochs: int = 0
    optimiser: str = "adam"
    dtype: str = "float32"
    proximal_mu: float = 0.0
    update_encoding: str = "float32"
    tell_slices: bool = False
    lockstep_weight: float = 0.0
    rounds: int = 0
    learning_rate_decay: str = "none"
    channels_last: bool = False
    deterministic: bool = False
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class ContrastPlan:
    """How a site holds its embeddings against prototypes in a TRAIN visit, and which it may send.

    ``single_scale``: the bottleneck alone (SSC) instead of nine scales (MSC). ``first_order`` and ``own_batch`` are
    ablations. ``by_size``: whether domains weigh by their training slices, which sites then tell. A site sends prototypes of
    ``minimum_exams`` and ``minimum_slices`` at least, no exam counting for more than ``slices_per_exam`` of its slices (0: no
    limit), from a full pass over its slices where a round has ``full_pass_steps`` at least. With ``noise_multiplier`` above 0
    they are those of :mod:`mtmd_core.noised_prototypes`.
    """

    weight: float
    temperature: float
    single_scale: bool
    first_order: bool
    own_batch: bool
    by_size: bool
    minimum_exams: int
    minimum_slices: int
    slices_per_exam: int
    full_pass_steps: int
    noise_multiplier: float


@dataclass(frozen=True)
class PriorPlan:
    """Which auto-encoder a site holds its predictions against in a TRAIN visit: that of ``round`` of the run ``run``.

    ``width``, ``share`` and ``seed`` are those that it was trained with; ``weight`` is λ3.
    """

    weight: float
    run: str
    round: int
    width: int
    share: int
    seed: int


Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Terms:
    """What a TRAIN visit brings beside plan and parameters, by strategy.

    ``others``: prototypes of other sites, without their names; ``prior_shared``: the shared parameters of the trained
    auto-encoder, which a site needs once.
    """

    contrast: ContrastPlan | None = None
    others: tuple[Arrays, ...] = ()
    prior: PriorPlan | None = None
    prior_shared: Arrays | None = None


@dataclass(frozen=True)
class Receipt:
    """Which visit a reply answers."""

    run: str
    round: int
    site: str


@dataclass(frozen=True)
class Notice:
    """What a site is told of a reply to TRAIN that was left out.

    ``reason`` is one of :class:`mtmd_core.refusals.Reason`; ``in_a_row`` counts the last replies that were left out. A site that
    is ``set_aside`` is asked no more until the coordinator readmits it.
    """

    run: str
    round: int
    reason: str
    in_a_row: int
    set_aside: bool


@dataclass(frozen=True)
class Contribution:
    """What a site brings to a round, as it is sent.

    ``record`` names what the arrays are: trained parameters (``SHARED``), an encoded change of them (``UPDATE``), or the
    gradient of one step in lock-step (``GRADIENT``).
    """

    record: str
    arrays: Mapping[str, np.ndarray]


def to_record(content: SiteFacts | RoundPlan | ContrastPlan | PriorPlan | Receipt | Notice) -> dict[str, Scalar]:
    """A dataclass as a flat record."""
    return asdict(content)


def from_record(kind: type[T], record: Mapping[str, object]) -> T:
    """A flat record as the dataclass it must be.

    Raises:
        ValueError: if a word is missing, unknown or of another type, or the protocol is another one.
    """
    known = {entry.name: entry for entry in fields(kind)}
    if record.get("protocol", PROTOCOL) != PROTOCOL:
        raise ValueError(
            f"the other side speaks protocol {record['protocol']}, this one {PROTOCOL}: install the same mtmd version"
        )
    for name in sorted(record.keys() - known.keys()):
        raise ValueError(f"a {kind.__name__} has no word '{name}'")
    for name, entry in known.items():
        if name not in record:
            if entry.default is MISSING:
                raise ValueError(f"a {kind.__name__} needs the word '{name}'")
        elif type(record[name]) is not entry.type:
            raise ValueError(f"'{name}' of a {kind.__name__} must be {entry.type.__name__}, not {record[name]!r}")
    return kind(**record)


PACKED = "safetensors"
"""Key and kind of the one array that a record of arrays holds.

Flower sends every array as objects of its own, each with a request of its own on each of a message's three hops: some hundred a
message for the tensors of a network, which take longer than the bytes in them. So all of a record's arrays travel as one.
"""
_KINDS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""safetensors' words for NumPy's dtypes."""
_DTYPES = {kind: np.dtype(name).newbyteorder("<") for name, kind in _KINDS.items()}
_LENGTH = 8
"""Bytes of a header's length before it; the header is filled up to a multiple, so that all arrays are aligned."""


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named arrays in safetensors' format: names, dtypes and shapes, then values in C order; no code, and no objects.

    Equal arrays make equal bytes, which Flower stores once for all sites. safetensors itself does the same with two copies more,
    which are most of the time of a simulated round.
    """
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header, start = {}, 0
    widest_first = sorted(plain, key=lambda name: (-plain[name].itemsize, name))
    for name in widest_first:
        end = start + plain[name].nbytes
        kind = _KINDS[plain[name].dtype.name]
        header[name] = {"dtype": kind, "shape": plain[name].shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    values = (plain[name].data.cast("B") if plain[name].size else b"" for name in widest_first)
    return b"".join((len(text).to_bytes(_LENGTH, "little"), text, *values))


def unpack_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Read-only views of the arrays that :func:`pack_arrays` packed, in the order of their names, without a copy.

    Raises:
        ValueError: if the bytes are no such arrays, none missing and none left over. The text quotes nothing of them, for they
            come from elsewhere.
    """
    try:
        body = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
        entries = json.loads(data[_LENGTH:body])
        arrays, end = {}, 0
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
            if not all(type(length) is int and length >= 0 for length in shape):
                raise ValueError("no shape of an array")
            count, begin, end = math.prod(shape), end, end + math.prod(shape) * dtype.itemsize
            if entry["data_offsets"] != [begin, end]:
                raise ValueError("not where the array before it ends, or of another length")
            arrays[name] = np.frombuffer(data, dtype, count, body + begin).reshape(shape)
        if len(data) != body + end:
            raise ValueError("bytes are missing or left over")
    except Exception as error:  # of many kinds: whatever the bytes make of JSON's and NumPy's readers
        raise ValueError(f"the arrays cannot be read ({type(error).__name__})") from None
    return dict(sorted(arrays.items()))


ArrayShape = tuple[str, tuple[int, ...]]
"""dtype and shape of one array."""


def array_shape(array: np.ndarray) -> ArrayShape:
    """dtype and shape of an array."""
    return dtype_name(array.dtype), array.shape


@lru_cache
def dtype_name(dtype: np.dtype) -> str:
    """A dtype's name, for example ``float32``; NumPy takes its time to spell one."""
    return str(dtype)


def misfit(expected: Mapping[str, ArrayShape], given: Mapping[str, ArrayShape]) -> str | None:
    """Why arrays do not have exactly the expected names, dtypes and shapes; None if they do."""
    for title, names in (
        ("missing", expected.keys() - given.keys()),
        ("unknown", given.keys() - expected.keys()),
    ):
        if names:
            return f"{title} {min(names)}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    for name, shape in expected.items():
        if given[name] != shape:
            return f"{name} is {given[name][0]}{list(given[name][1])}, expected {shape[0]}{list(shape[1])}"
    return None
