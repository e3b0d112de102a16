import struct

import numpy as np
import pytest

from mtmd_core.update_encoding import (
    ENCODINGS,
    decode_update,
    encode_update,
    from_bfloat16,
    sent_shapes,
    what_was_lost,
)
from mtmd_core.wire import array_shape

LOSSY = ("bfloat16", "int8")


def update(seed: int = 0) -> dict[str, np.ndarray]:
    """Channels of very different sizes, one that is all zero, and a vector."""
    random = np.random.default_rng(seed)
    weights = random.normal(size=(4, 3, 3, 3)) * np.float32([1e-6, 1e-2, 30, 0])[:, None, None, None]
    return {"conv.weight": weights.astype(np.float32), "conv.bias": random.normal(size=4).astype(np.float32)}


def test_int8_by_hand():
    """Scales 1.27 / 127 = 0.01 and 2.54 / 127 = 0.02 a channel; −0.634 / 0.01 = −63.4 → −63, 1.28 / 0.02 = 64."""
    sent = encode_update({"w": np.float32([[1.27, -0.634], [-2.54, 1.28]])}, "int8")
    assert sent["w"].tolist() == [[127, -63], [-127, 64]]
    np.testing.assert_allclose(sent["w/scale"], [0.01, 0.02], rtol=1e-6)
    np.testing.assert_allclose(decode_update(sent, "int8")["w"], [[1.27, -0.63], [-2.54, 1.28]], rtol=1e-6)


def test_int8_is_off_by_half_a_step_of_its_channel_at_most():
    given = update()
    sent = encode_update(given, "int8")
    steps = np.abs(given["conv.weight"]).reshape(4, -1).max(axis=1) / 127
    np.testing.assert_allclose(sent["conv.weight/scale"], steps, rtol=1e-6)
    error = np.abs(decode_update(sent, "int8")["conv.weight"] - given["conv.weight"]).reshape(4, -1).max(axis=1)
    assert (error <= 0.5001 * steps).all()
    assert not sent["conv.weight"][3].any()
    assert sent["conv.weight"].min() >= -127


def test_bfloat16_is_the_upper_half_of_float32_rounded_to_even():
    """Second computation: the standard's own rule on the 32 bits."""
    given = update()
    sent = encode_update(given, "bfloat16")
    bits = given["conv.weight"].view(np.uint32)
    expected = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(sent["conv.weight"], expected)
    (value,) = struct.unpack(">f", struct.pack(">H", int(expected[1, 0, 0, 0])) + b"\0\0")
    assert decode_update(sent, "bfloat16")["conv.weight"][1, 0, 0, 0] == value
    assert from_bfloat16(expected).dtype == np.float32


@pytest.mark.parametrize("encoding", LOSSY)
def test_vectors_travel_as_they_are_and_shapes_are_those_foretold(encoding):
    given = update()
    sent = encode_update(given, encoding)
    np.testing.assert_array_equal(sent["conv.bias"], given["conv.bias"])
    expected = {name: array_shape(array) for name, array in given.items()}
    assert {name: array_shape(array) for name, array in sent.items()} == sent_shapes(expected, encoding)
    decoded = decode_update(sent, encoding)
    assert {name: array_shape(array) for name, array in decoded.items()} == expected


def test_float32_is_what_it_is():
    expected = {"a": ("float32", (2, 3))}
    assert sent_shapes(expected, "float32") == expected
    assert ("float32", *LOSSY) == ENCODINGS


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("encoding", LOSSY)
def test_what_is_not_finite_stays_so_and_spoils_no_later_round(encoding, value):
    given = update()
    given["conv.weight"][1, 0, 0, 0] = value
    sent = encode_update(given, encoding)
    assert not np.isfinite(decode_update(sent, encoding)["conv.weight"]).all()
    assert not what_was_lost(given, sent, encoding)["conv.weight"].any()


def test_with_error_feedback_what_was_received_in_all_is_what_was_meant_but_for_the_last_rounds_loss():
    """Σ received = Σ meant − the residual, however small the updates: 40 of a tenth of a step each arrive all the same."""
    meant = np.full((1, 5), 1e-3, np.float32)
    meant[0, 0] = 1.27  # decides the scale: a step is 0.01
    residual, received = np.zeros_like(meant), np.zeros_like(meant)
    for _ in range(40):
        sent = encode_update({"w": meant + residual}, "int8")
        residual = what_was_lost({"w": meant + residual}, sent, "int8")["w"]
        received += decode_update(sent, "int8")["w"]
    np.testing.assert_allclose(received + residual, 40 * meant, rtol=1e-4)
    assert np.abs(received[0, 1:] - 0.04).max() <= 0.0051
    without = decode_update(encode_update({"w": meant}, "int8"), "int8")["w"]
    assert not without[0, 1:].any()
