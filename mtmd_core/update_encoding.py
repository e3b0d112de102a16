"""Updates in fewer bytes: what a site sends of the change of its shared parameters, and what is aggregated of it.

``float32`` sends trained parameters as they are. ``bfloat16`` and ``int8`` send the update Δ = trained − received, which is
small against the parameters and forgives coarse steps. Weights (tensors of two dimensions and more) are coarsened; vectors, which
are less than a hundredth of a network, travel as they are. Decoding is a function of what was sent alone: every receiver has the
same values.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mtmd_core.arrays import as_tensor
from mtmd_core.wire import ArrayShape

FLOAT32, BFLOAT16, INT8 = "float32", "bfloat16", "int8"
ENCODINGS = (FLOAT32, BFLOAT16, INT8)
SCALE = "/scale"
"""Ends the name of an array of scales, behind that of the tensor that they belong to; no parameter's name has a slash."""
LARGEST = 127
"""Largest magnitude of a quantised value: −128 is left out, so that a value and its negative are coarsened alike."""


def encode_update(update: Mapping[str, np.ndarray], encoding: str) -> dict[str, np.ndarray]:
    """What is sent of an update.

    Args:
        update: name → float32, any shape.
        encoding: ``bfloat16``: weights rounded to it (nearest, ties to even), as the uint16 of their bits. ``int8``: weights
            [C, …] become ``round(Δ / s_c)`` with one scale ``s_c = max |Δ_c| / 127`` for each output channel, sent as
            ``<name>/scale`` [C] float32 beside them.

    Example:
        >>> encode_update({"w": np.float32([[1.27, -0.634]])}, "int8")
        {'w': array([[127, -63]], dtype=int8), 'w/scale': array([0.01], dtype=float32)}
    """
    sent: dict[str, np.ndarray] = {}
    for name, array in update.items():
        if array.ndim < 2:
            sent[name] = array
        elif encoding == BFLOAT16:
            sent[name] = as_tensor(array).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        else:
            sent[name], sent[name + SCALE] = _quantise(as_tensor(array))
    return sent


def decode_update(sent: Mapping[str, np.ndarray], encoding: str) -> dict[str, np.ndarray]:
    """The update that was sent, float32; only where a scale is not finite are values that are not.

    Example:
        >>> decode_update({"w": np.int8([[127, -63]]), "w/scale": np.float32([0.01])}, "int8")["w"]
        array([[ 1.27, -0.63]], dtype=float32)
    """
    update: dict[str, np.ndarray] = {}
    for name, array in sent.items():
        if name.endswith(SCALE):
            continue
        if array.ndim < 2:
            update[name] = array
        elif encoding == BFLOAT16:
            update[name] = from_bfloat16(array)
        else:
            scales = as_tensor(sent[name + SCALE]).reshape(-1, *[1] * (array.ndim - 1))
            update[name] = (as_tensor(array) * scales).numpy()
    return update


def sent_shapes(expected: Mapping[str, ArrayShape], encoding: str) -> dict[str, ArrayShape]:
    """dtype and shape of all that is sent for shared parameters of these dtypes and shapes."""
    if encoding == FLOAT32:
        return dict(expected)
    shapes: dict[str, ArrayShape] = {}
    for name, (dtype, shape) in expected.items():
        if len(shape) < 2:
            shapes[name] = (dtype, shape)
        elif encoding == BFLOAT16:
            shapes[name] = ("uint16", shape)
        else:
            shapes[name], shapes[name + SCALE] = ("int8", shape), ("float32", shape[:1])
    return shapes


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16's bits, uint16.

    >>> from_bfloat16(np.uint16([0x3F80, 0xC000]))
    array([ 1., -2.], dtype=float32)
    """
    return as_tensor(np.asarray(bits).view(np.int16)).view(torch.bfloat16).float().numpy()


def what_was_lost(
    update: Mapping[str, np.ndarray], sent: Mapping[str, np.ndarray], encoding: str
) -> dict[str, np.ndarray]:
    """Error feedback (Seide et al. 2014; Karimireddy et al. 2019): what rounding kept back, to be added to the next update.

    Only of what was coarsened, and only where it is finite: a round that went wrong must not spoil those after it.
    """
    decoded = decode_update(sent, encoding)
    lost = {n: as_tensor(array) - as_tensor(decoded[n]) for n, array in update.items() if array.ndim > 1}
    return {name: (rest if rest.isfinite().all() else torch.zeros_like(rest)).numpy() for name, rest in lost.items()}


def _quantise(weights: Tensor) -> tuple[np.ndarray, np.ndarray]:
    rows = weights.reshape(len(weights), -1)  # [C, elements of a channel]
    scales = rows.abs().amax(dim=1) / LARGEST
    steps = torch.where(scales > 0, scales, 1)[:, None]
    quantised = (rows / steps).round().clamp(-LARGEST, LARGEST).nan_to_num().to(torch.int8)
    return quantised.reshape(weights.shape).numpy(), scales.numpy()
