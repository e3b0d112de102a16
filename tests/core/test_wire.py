import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord
from safetensors.numpy import load, save

from mtmd_core.wire import (
    PROTOCOL,
    Receipt,
    RoundPlan,
    SiteFacts,
    from_record,
    misfit,
    pack_arrays,
    to_record,
    unpack_arrays,
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


def test_arrays_come_back_as_they_were():
    back = unpack_arrays(pack_arrays(ARRAYS))
    assert list(back) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(back[name], array)


def test_arrays_come_back_as_views_that_nobody_can_write():
    data = pack_arrays(ARRAYS)
    back = unpack_arrays(data)
    assert not any(array.flags.writeable for array in back.values())
    assert all(np.shares_memory(array, np.frombuffer(data, np.uint8)) for array in back.values() if array.size)
    assert all(array.flags.aligned for array in back.values())


def test_the_bytes_are_those_of_a_safetensors_file():
    """Its own library reads what is packed here, and what it wrote is read here."""
    for back in (load(pack_arrays(ARRAYS)), unpack_arrays(save(ARRAYS))):
        assert back.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(back[name], array)


def test_the_same_arrays_make_the_same_bytes():
    """Flower stores a message's bytes once for all sites that are sent the same."""
    assert pack_arrays(dict(reversed(ARRAYS.items()))) == pack_arrays(ARRAYS)


@pytest.mark.parametrize("array", [np.asfortranarray(ARRAYS["matrix"]), ARRAYS["matrix"].T, ARRAYS["matrix"][:, ::2]])
def test_arrays_in_any_order_are_written_in_c_order(array):
    np.testing.assert_array_equal(unpack_arrays(pack_arrays({"a": array}))["a"], array)


@pytest.mark.parametrize(
    "arrays", [{}, {"none": np.zeros((0, 2))}, {"some": np.ones(3), "none": np.zeros((2, 0), np.int8)}]
)
def test_no_arrays_and_empty_ones_are_packed_too(arrays):
    back = unpack_arrays(pack_arrays(arrays))
    assert {name: array.shape for name, array in back.items()} == {name: a.shape for name, a in arrays.items()}


def with_header(header: object, body: bytes = bytes(24)) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: object = "F32", shape: object = (2, 3), offsets: object = (0, 24)) -> dict:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def test_a_header_made_here_is_one_that_is_read():
    np.testing.assert_array_equal(unpack_arrays(with_header(entry()))["a"], np.zeros((2, 3)))


@pytest.mark.parametrize(
    "data",
    [
        pack_arrays(ARRAYS)[:-1],
        pack_arrays(ARRAYS) + b"\0",
        b"",
        bytes(7),
        b"\x93NUMPY",
        (2**63).to_bytes(8, "little"),
        (100).to_bytes(8, "little") + b"{}",
        with_header("no header"),
        with_header([]),
        with_header({"a": {}}),
        with_header(entry(dtype="O")),
        with_header(entry(dtype="F8_E4M3", offsets=(0, 6)), bytes(6)),
        with_header(entry(dtype=4)),
        with_header(entry(shape=(2, 4))),
        with_header(entry(shape=(2**70,))),
        with_header(entry(shape=(2**32, 2**32))),
        with_header(entry(shape=(-2, -3))),
        with_header(entry(shape=6)),
        with_header(entry(offsets=(0, 23))),
        with_header(entry(offsets=(24, 0))),
        with_header(entry(offsets=(-24, 0))),
        with_header(entry(offsets=(0, 2**40))),
        with_header(entry() | {"b": entry()["a"]}),
        with_header(entry(shape=(True, 6))),
        with_header(entry(shape=(2.0, 3))),
        with_header(entry(shape=(-1, 6))),
        with_header(entry(offsets=(4, 28)), bytes(28)),
        with_header(entry() | {"b": entry(offsets=(20, 44))["a"]}, bytes(44)),
        with_header({"a": 1}),
        b"[" * 100_000,
        (99_999).to_bytes(8, "little") + b"[" * 99_999,
    ],
    ids=range(31),
)
def test_bytes_that_are_no_arrays_are_refused(data):
    """Always with a ValueError, which the gate turns into a refusal, and which quotes nothing."""
    with pytest.raises(ValueError, match=r"^the arrays cannot be read \([A-Za-z]+\)$"):
        unpack_arrays(data)


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
