import io
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord

from mtmd_core.wire import (
    PROTOCOL,
    Receipt,
    RoundPlan,
    SiteFacts,
    decode_array,
    encode_array,
    from_record,
    misfit,
    to_record,
)

PLAN = RoundPlan(
    run="abc",
    round=3,
    strategy="dsl",
    network="att_unet",
    width=32,
    encoder_weights="none",
    slice_size=256,
    slice_axis="auto",
    fold=0,
    seed=1,
    local_steps=20,
    share=6,
    learning_rate=5e-4,
    augment=True,
    autocast=False,
    calibration_batches=4,
    validate=True,
    test=False,
    best_round=2,
    label_offset=0,
    label_classes=0,
)
ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "double": np.array([0.1, -0.0, np.inf]),
    "half": np.float16([1, 2]),
    "whole": np.array([[1], [2**40]]),
    "bytes": np.arange(3, dtype=np.uint8),
    "flags": np.array([True, False]),
    "number": np.array(3.5, dtype=np.float32),
    "kernel": np.zeros((4, 3, 1, 1), np.float32),
    "empty": np.zeros((0, 3), np.float32),
}
each_array = pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)


@each_array
def test_bytes_are_those_of_flowers_own_arrays(array):
    assert encode_array(array) == Array(array).data


@each_array
def test_arrays_come_back_without_a_copy(array):
    data = encode_array(array)
    result = decode_array(data)
    assert (result.dtype, result.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(result, array)
    assert not result.flags.writeable
    assert array.size == 0 or np.shares_memory(result, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("array", [np.asfortranarray(ARRAYS["matrix"]), ARRAYS["matrix"].T, ARRAYS["matrix"][:, ::2]])
def test_arrays_in_any_order_are_written_in_c_order(array):
    np.testing.assert_array_equal(decode_array(encode_array(array)), array)


def saved(array: np.ndarray, **options: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def with_header(text: str, body: bytes = bytes(24)) -> bytes:
    header = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


def header(descr: str = "'<f4'", fortran: str = "False", shape: str = "(2, 3)") -> bytes:
    return with_header(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}")


def test_a_header_made_here_is_one_that_is_read():
    np.testing.assert_array_equal(decode_array(header()), np.zeros((2, 3)))


@pytest.mark.parametrize(
    "data",
    [
        saved(np.asfortranarray(ARRAYS["matrix"])),
        saved(np.array([{}, 1], dtype=object), allow_pickle=True),
        saved(np.array(["a"])),
        saved(np.array([1j])),
        saved(np.zeros(2, [("a", "f4")])),
        saved(ARRAYS["matrix"])[:-1],
        saved(ARRAYS["matrix"]) + b"\0",
        saved(ARRAYS["matrix"]).replace(b"(2, 3)", b"(2, 4)"),
        saved(ARRAYS["matrix"]).replace(b"\x01\x00v", b"\x02\x00v"),
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04 and so on",
        with_header("not a header"),
        with_header("-" * 5000 + "1"),
        with_header("1+" * 3000 + "1"),
        with_header("{[]: 1}"),
        header(descr="('<f4',)"),
        header(descr="[('a',)]"),
        header(shape=f"({2**70},)"),
        header(shape=f"({2**32}, {2**32})"),
        header(shape="(-2, -3)"),
        header(shape="(-1, 6)"),
        header(shape="(True, 6)"),
        header(shape="6"),
    ],
    ids=range(24),
)
def test_bytes_that_are_no_plain_array_are_refused(data):
    """Always with a ValueError, which the gate turns into a refusal, whatever NumPy makes of them."""
    with pytest.raises(ValueError, match=r"array|header|shape"):
        decode_array(data)


@pytest.mark.parametrize("content", [PLAN, SiteFacts("ankle", 3), Receipt("abc", 1, "ankle")])
def test_records_come_back_through_flower(content):
    assert from_record(type(content), ConfigRecord(to_record(content))) == content


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"round": None}, "needs the word 'round'"),
        ({"label_names": "talus"}, "has no word 'label_names'"),
        ({"round": "3"}, "'round' of a RoundPlan must be int, not '3'"),
        ({"round": True}, "'round' of a RoundPlan must be int, not True"),
        ({"round": 3.0}, "must be int, not 3.0"),
        ({"augment": 1}, "'augment' of a RoundPlan must be bool, not 1"),
        ({"learning_rate": 1}, "must be float"),
        ({"run": b"abc"}, "must be str"),
        ({"seed": [1]}, "must be int"),
        ({"protocol": PROTOCOL + 1}, f"protocol {PROTOCOL + 1}, this one {PROTOCOL}: install the same"),
        ({"protocol": PROTOCOL + 1, "new_word": 1}, f"protocol {PROTOCOL + 1}"),
        ({"protocol": float(PROTOCOL)}, "must be int"),
    ],
)
def test_plans_that_differ_from_the_contract_are_refused(change, reason):
    record = {name: value for name, value in (to_record(PLAN) | change).items() if value is not None}
    with pytest.raises(ValueError, match=reason):
        from_record(RoundPlan, record)


def test_facts_of_another_protocol_are_refused():
    with pytest.raises(ValueError, match="the same mtmd version"):
        from_record(SiteFacts, to_record(replace(SiteFacts("ankle", 3), protocol=99)))


def test_misfit_names_what_is_wrong():
    expected = {"a": ("float32", (2, 3)), "b": ("float32", (1,))}
    assert misfit(expected, dict(reversed(expected.items()))) is None
    assert misfit(expected, {}) == "missing a and 1 more"
    assert misfit(expected, expected | {"c": ("float32", ())}) == "unknown c"
    assert misfit(expected, expected | {"a": ("float32", (3, 2))}) == "a is float32[3, 2], expected float32[2, 3]"
    assert misfit(expected, expected | {"b": ("float64", (1,))}) == "b is float64[1], expected float32[1]"
