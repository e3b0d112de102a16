from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, MetricRecord, RecordDict
from records import record_of, record_of_bytes
from torch.nn import functional as F

from mtmd_core.config import NetworkConfig
from mtmd_core.prototype_arrays import to_arrays
from mtmd_core.prototype_summary import summarise
from mtmd_core.refusals import Reason
from mtmd_core.update_encoding import encode_update
from mtmd_core.wire import ContrastPlan, Receipt, pack_arrays, to_record
from server.gate import Refusal, Reply, Visit, admit
from server.prototype_shelf import PrototypeShelf

ARRAYS = {"a": np.float32([[1, 2, 3], [4, 5, 6]]), "b": np.float32([7])}
EXPECTED = {"a": ("float32", (2, 3)), "b": ("float32", (1,))}
BEFORE = {name: np.zeros_like(array) for name, array in ARRAYS.items()}
METADATA = Metadata(
    run_id=1,
    message_id="1",
    src_node_id=1,
    dst_node_id=0,
    reply_to_message_id="0",
    group_id="3",
    created_at=0.0,
    ttl=1.0,
    message_type="train",
)


def good() -> RecordDict:
    return RecordDict(
        {
            "receipt": ConfigRecord(to_record(Receipt("abc", 3, "ankle"))),
            "metrics": MetricRecord({"loss": 0.5, "steps": 20}),
            "shared": record_of(ARRAYS),
        }
    )


def verdict(content: RecordDict, expected: dict | None = EXPECTED) -> Reply | Refusal:
    return looked_at(content, expected=expected)


def looked_at(content: RecordDict, **visit: object) -> Reply | Refusal:
    """The verdict on a reply to round 3 of run abc, which began with zeros."""
    visit = {"expected": EXPECTED, "before": BEFORE} | visit
    return admit(Message(content, metadata=METADATA), "ankle", Visit("abc", 3, **visit))


def test_a_good_reply_is_admitted():
    reply = verdict(good())
    assert isinstance(reply, Reply)
    assert (reply.site, reply.metrics) == ("ankle", {"loss": 0.5, "steps": 20})
    assert reply.shared.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(reply.shared[name], array)
    assert reply.bytes == len(pack_arrays(ARRAYS))


def test_a_loss_with_contrast_may_be_below_zero():
    content = good()
    content["metrics"].update({"loss": -0.2, "loss/contrast": -0.4, "gradient_norm/contrast": 3.0})
    assert verdict(content).metrics == dict(content["metrics"])


def test_where_no_parameters_are_asked_for_none_come():
    content = good()
    del content["shared"]
    assert verdict(content, None) == Reply("ankle", {"loss": 0.5, "steps": 20}, {}, 0)
    content["shared"] = record_of({})
    assert verdict(content, {}) == Reply("ankle", {"loss": 0.5, "steps": 20}, {}, 0)


def receipt(**change: object) -> Callable[[RecordDict], None]:
    return lambda content: content["receipt"].update(change)


def shared(**arrays: np.ndarray) -> Callable[[RecordDict], None]:
    return instead("shared", record_of(ARRAYS | arrays))


def shared_bytes(data: bytes) -> Callable[[RecordDict], None]:
    return instead("shared", record_of_bytes(data))


def without(record: str, name: str | None = None) -> Callable[[RecordDict], None]:
    return lambda content: content.pop(record) if name is None else content[record].pop(name)


def instead(record: str, other: object) -> Callable[[RecordDict], None]:
    return lambda content: content.update({record: other})


A = ARRAYS["a"]
PACKED_ARRAYS = pack_arrays(ARRAYS)
"""What an honest reply holds; bytes of its header are put for others below."""


@pytest.mark.parametrize(
    ("change", "detail", "reason"),
    [
        (
            without("receipt"),
            "it holds the records metrics (MetricRecord), shared (ArrayRecord), expected",
            Reason.WRONG_RECORDS,
        ),
        (without("metrics"), "it holds the records receipt", Reason.WRONG_RECORDS),
        (without("shared"), "it holds the records", Reason.WRONG_RECORDS),
        (
            instead("private", ArrayRecord()),
            "receipt (ConfigRecord), shared (ArrayRecord), 1 that no site sends",
            Reason.WRONG_RECORDS,
        ),
        (instead("shared", MetricRecord({"a": 1.0, "b": 2.0})), "shared (MetricRecord)", Reason.WRONG_RECORDS),
        (instead("metrics", ConfigRecord({"loss": "low"})), "metrics (ConfigRecord)", Reason.WRONG_RECORDS),
        (instead("receipt", MetricRecord({"round": 3})), "receipt (MetricRecord)", Reason.WRONG_RECORDS),
        (receipt(run="abd"), "it answers another run or as another site than Receipt(run='abc'", Reason.OTHER_VISIT),
        (receipt(round=2), "it answers round 2, expected 3", Reason.STALE_ROUND),
        (receipt(site="knee"), "another run or as another site", Reason.OTHER_VISIT),
        (receipt(round="3"), "its receipt cannot be read", Reason.UNREADABLE_RECEIPT),
        (receipt(more=1), "its receipt cannot be read", Reason.UNREADABLE_RECEIPT),
        (without("receipt", "run"), "its receipt cannot be read", Reason.UNREADABLE_RECEIPT),
        (instead("metrics", MetricRecord({"loss": float("nan")})), "its metric loss is nan", Reason.WRONG_METRICS),
        (instead("metrics", MetricRecord({"loss": float("-inf")})), "its metric loss is -inf", Reason.WRONG_METRICS),
        (instead("metrics", MetricRecord({"test": 0.5})), "a metric that no site sends", Reason.WRONG_METRICS),
        (
            instead("metrics", MetricRecord({"test/foreground_mean/child_7": 0.5})),
            "a metric that no site sends",
            Reason.WRONG_METRICS,
        ),
        (
            instead("metrics", MetricRecord({"validation/foreground_mean/dice": 1.5})),
            "dice is 1.5",
            Reason.WRONG_METRICS,
        ),
        (
            instead("metrics", MetricRecord({"validation/foreground_mean/mssd_mm": -1.0})),
            "mssd_mm is -1",
            Reason.WRONG_METRICS,
        ),
        (instead("metrics", MetricRecord({"loss/prior": -0.1})), "its metric loss/prior is -0.1", Reason.WRONG_METRICS),
        (
            instead("metrics", MetricRecord({"gradient_norm/contrast": -0.1})),
            "its metric gradient_norm/contrast is -0.1",
            Reason.WRONG_METRICS,
        ),
        (instead("metrics", MetricRecord({"loss/talus": 0.1})), "a metric that no site sends", Reason.WRONG_METRICS),
        (instead("metrics", MetricRecord({"loss": [0.1, 0.2]})), "its metric loss is no number", Reason.WRONG_METRICS),
        (instead("shared", record_of({"a": A})), "its parameters do not fit: missing b", Reason.WRONG_PARAMETERS),
        (
            shared(c=A),
            "its parameters do not fit: 1 of another name than the 2 expected",
            Reason.WRONG_PARAMETERS,
        ),
        (shared(a=A.T), "a is float32[3, 2], expected float32[2, 3]", Reason.WRONG_PARAMETERS),
        (shared(a=A.astype(np.float64)), "a is float64[2, 3], expected float32[2, 3]", Reason.WRONG_PARAMETERS),
        (shared(a=A.astype(np.int32)), "a is int32[2, 3]", Reason.WRONG_PARAMETERS),
        (
            shared_bytes(PACKED_ARRAYS.replace(b"[2,3]", b"[9,3]")),
            "its parameters do not fit: the arrays cannot be read (ValueError)",
            Reason.WRONG_PARAMETERS,
        ),
        (shared_bytes(PACKED_ARRAYS.replace(b"[2,3]", b"{[]:1")), "cannot be read", Reason.WRONG_PARAMETERS),
        (shared_bytes(b""), "cannot be read", Reason.WRONG_PARAMETERS),
        (shared_bytes(PACKED_ARRAYS[:-4]), "cannot be read", Reason.WRONG_PARAMETERS),
        (shared_bytes(PACKED_ARRAYS + bytes(4)), "cannot be read", Reason.WRONG_PARAMETERS),
        (instead("shared", ArrayRecord()), "its parameters are not packed as protocol", Reason.WRONG_PARAMETERS),
        (instead("shared", ArrayRecord({"a": Array(A)})), "are not packed as protocol", Reason.WRONG_PARAMETERS),
        (
            shared(a=np.where(A > 5, np.nan, A).astype(np.float32)),
            "a holds values that are not finite",
            Reason.NOT_FINITE,
        ),
        (shared(b=np.float32([-np.inf])), "b holds values that are not finite", Reason.NOT_FINITE),
    ],
)
def test_a_reply_that_does_not_fit_is_refused_with_its_reason(change, detail, reason):
    content = good()
    change(content)
    refusal = verdict(content)
    assert isinstance(refusal, Refusal)
    assert (refusal.site, refusal.reason) == ("ankle", reason)
    assert detail in refusal.detail


JANE = "/data/clinic/jane_doe"


@pytest.mark.parametrize(
    "change",
    [
        instead(JANE, ArrayRecord()),
        instead("receipt", ConfigRecord({JANE: JANE})),
        receipt(run=JANE),
        receipt(site=JANE),
        receipt(round=JANE),
        instead("metrics", MetricRecord({JANE: 1.0})),
        instead("shared", record_of(ARRAYS | {JANE: A})),
        instead("shared", ArrayRecord({JANE: Array(A)})),
        shared_bytes(PACKED_ARRAYS.replace(b'"F32"', JANE.encode())),
        shared_bytes(PACKED_ARRAYS.replace(b'"F32"', b'"%s"' % JANE.encode())),
    ],
)
def test_nothing_that_a_site_may_have_written_is_repeated(change):
    content = good()
    change(content)
    refusal = verdict(content)
    assert isinstance(refusal, Refusal)
    assert "jane" not in str(refusal)


def test_an_update_may_be_as_long_as_the_limit_and_no_longer():
    length = float(np.sqrt(sum(np.square(array).sum() for array in ARRAYS.values())))
    reply = looked_at(good(), longest=length * 1.001)
    assert reply.norm == pytest.approx(length, rel=1e-6)
    refusal = looked_at(good(), longest=length * 0.999)
    assert refusal == Refusal(
        "ankle", Reason.OUTLYING_NORM, "its update has norm 11.8; at most 11.8 is admitted after the last rounds"
    )
    assert looked_at(good(), before=ARRAYS, longest=1e-9).norm == 0
    assert looked_at(good(), statistics=frozenset({"a"}), longest=7.5).norm == 7


def test_running_statistics_must_be_finite_though_they_count_for_no_length():
    content = good()
    shared(b=np.float32([np.nan]))(content)
    assert looked_at(content, statistics=frozenset({"b"})).reason is Reason.NOT_FINITE


def test_an_update_too_long_to_measure_is_outlying_too():
    content = good()
    shared(a=np.full((2, 3), 3e38, np.float32))(content)
    refusal = looked_at(content)
    assert (refusal.reason, refusal.detail) == (Reason.OUTLYING_NORM, "its update has norm inf; no number")


def test_one_parameter_of_double_precision_may_be_too_long_to_measure_too():
    content, shape = good(), {"b": ("float64", (1,))}
    content["shared"] = record_of({"b": np.float64([1e200])})
    refusal = looked_at(content, expected=shape, before={"b": np.zeros(1)})
    assert (refusal.reason, refusal.detail) == (Reason.OUTLYING_NORM, "its update has norm inf; no number")


def test_what_nobody_foresaw_is_a_refusal_and_the_log_says_where_it_came_up(caplog):
    content = good()
    refusal = looked_at(content, before={})  # as if the gate itself did not know what the round began with
    assert refusal == Refusal("ankle", Reason.UNREADABLE, "it could not be read (KeyError)")
    assert "the reply of ankle could not be read: KeyError was raised at" in caplog.text
    assert "update_norm" in caplog.text
    assert "KeyError: 'a'" not in caplog.text  # the text of an exception may quote what came


def test_parameters_that_were_not_asked_for_are_refused():
    assert "it holds the records" in verdict(good(), None).detail
    assert "2 of another name than the 0 expected" in verdict(good(), {}).detail


def test_a_site_that_failed_is_refused_with_its_error():
    refusal = admit(Message(Error(2, "out_of_memory"), metadata=METADATA), "ankle", Visit("abc", 3, EXPECTED))
    assert refusal == Refusal("ankle", Reason.SITE_ERROR, "the site failed: out_of_memory")


def test_what_an_error_quotes_is_not_repeated():
    failed = Message(Error(2, "KeyError: exam of Jane Doe in /data/clinic"), metadata=METADATA)
    refusal = admit(failed, "ankle", Visit("abc", 3, EXPECTED))
    assert refusal.detail == "the site failed: for a reason that no site gives"


CONTRAST = ContrastPlan(0.1, 0.1, True, False, False, False, 3, 50, 0, 100, 0.0)
SHELF = PrototypeShelf(NetworkConfig(width=4), CONTRAST, 5, {})  # of the bottleneck alone


def prototypes() -> dict[str, np.ndarray]:
    points = F.normalize(1 + torch.randn(60, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    return to_arrays([summarise(points, torch.arange(60) % 4)])


def with_prototypes(**arrays: np.ndarray | None) -> RecordDict:
    content = good()
    given = prototypes() | {name.replace("_", "/"): array for name, array in arrays.items()}
    content["prototypes"] = record_of({name: array for name, array in given.items() if array is not None})
    return content


def judged(
    content: RecordDict, expected: dict | None = EXPECTED, shelf: PrototypeShelf | None = SHELF
) -> Reply | Refusal:
    return looked_at(content, expected=expected, shelf=shelf)


def test_prototypes_come_with_a_reply_and_count_as_bytes():
    reply = judged(with_prototypes())
    assert reply.prototypes.keys() == prototypes().keys()
    for name, array in prototypes().items():
        np.testing.assert_array_equal(reply.prototypes[name], array)
    assert reply.prototype_bytes == len(pack_arrays(prototypes()))
    assert reply.bytes == judged(good()).bytes + reply.prototype_bytes
    assert (judged(good()).prototypes, judged(good()).prototype_refusal) == (None, None)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"counts": np.float32([49, 12, 60])}, "too few exams or slices: s1"),
        ({"counts": np.float32([60.5, 12, 61])}, "counts that are no whole numbers: counts"),
        ({"counts": np.float32([60, 12, 2.0**64])}, "more slices than its site can have: s1"),
        ({"s1_mean": np.full(64, np.inf, np.float32)}, "not finite: s1"),
        ({"counts": np.float32([60, 12])}, "its prototypes do not fit: counts is float32[2], expected float32[3]"),
        ({"counts": np.array([60.0, 12.0, 60.0])}, "its prototypes do not fit: counts is float64[3]"),
        ({"counts": None}, "its prototypes do not fit: missing counts"),
        ({"s1_exams": np.float32([1])}, "its prototypes do not fit: 1 of another name"),
    ],
)
def test_prototypes_that_are_none_are_left_out_and_the_rest_is_used(arrays, reason):
    reply = judged(with_prototypes(**arrays))
    assert isinstance(reply, Reply)
    assert reply.prototypes is None
    assert reply.prototype_refusal.startswith(reason)
    assert reply.shared.keys() == ARRAYS.keys()


def test_prototypes_count_no_more_slices_than_the_site_says_to_train_on():
    for slices, reason in ((60, None), (59, "more slices than its site can have: s1")):
        content = with_prototypes()
        content["metrics"]["training_slices"] = slices
        reply = looked_at(content, shelf=SHELF, tells_slices=True)
        assert isinstance(reply, Reply)
        assert reply.prototype_refusal == reason


def test_prototypes_that_were_not_asked_for_are_refused_with_the_whole_reply():
    assert "prototypes (ArrayRecord)" in judged(with_prototypes(), shelf=None).detail
    evaluated = with_prototypes()
    del evaluated["shared"]
    assert "prototypes (ArrayRecord)" in judged(evaluated, expected=None).detail
    other = good()
    other["prototypes"] = MetricRecord({"counts": 1.0})
    assert "prototypes (MetricRecord)" in judged(other).detail


def encoded(encoding: str, **instead: np.ndarray) -> RecordDict:
    """A reply with an encoded update; ``a``, ``b`` or ``scale`` (of a) may be something else."""
    content = good()
    del content["shared"]
    sent = encode_update(ARRAYS, encoding) | {
        name.replace("scale", "a/scale"): array for name, array in instead.items()
    }
    content["update"] = record_of(sent)
    return content


@pytest.mark.parametrize("encoding", ["bfloat16", "int8"])
def test_an_encoded_update_is_decoded_and_its_bytes_are_counted_as_they_came(encoding: str) -> None:
    content = encoded(encoding)
    reply = looked_at(content, record="update", encoding=encoding)
    assert isinstance(reply, Reply)
    np.testing.assert_allclose(reply.shared["a"], ARRAYS["a"], atol=0.03)
    np.testing.assert_array_equal(reply.shared["b"], ARRAYS["b"])
    assert {name: array.dtype for name, array in reply.shared.items()} == dict.fromkeys(ARRAYS, np.dtype(np.float32))
    assert reply.bytes == sum(len(array.data) for array in content["update"].values())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (good(), "it holds the records"),
        (encoded("bfloat16"), "its parameters do not fit: missing a/scale"),
        (encoded("int8", scale=np.float32([1, 1, 1])), "a/scale is float32[3], expected float32[2]"),
        (encoded("int8", scale=np.float32([1, np.nan])), "a holds values that are not finite"),
        (encoded("int8", scale=np.float32([np.inf, 1])), "a holds values that are not finite"),
        (encoded("int8", a=ARRAYS["a"]), "a is float32[2, 3], expected int8[2, 3]"),
        (encoded("int8", c=ARRAYS["a"]), "1 of another name"),
    ],
)
def test_an_update_that_is_none_is_refused(content: RecordDict, reason: str) -> None:
    refusal = looked_at(content, record="update", encoding="int8")
    assert isinstance(refusal, Refusal)
    assert reason in refusal.detail


@pytest.mark.parametrize("slices", [None, 0, 0.5, 1.5, 1e12])
def test_a_site_that_weighs_by_its_slices_must_say_how_many_it_has(slices: float | None) -> None:
    content = good()
    if slices is not None:
        content["metrics"]["training_slices"] = slices
    refusal = looked_at(content, tells_slices=True)
    assert refusal == Refusal("ankle", Reason.NO_SLICES, "it does not say how many slices the site trained on")
