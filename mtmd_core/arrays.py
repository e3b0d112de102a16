"""NumPy arrays that came in a message, as tensors that are only read."""

import warnings

import numpy as np
import torch
from torch import Tensor

with warnings.catch_warnings():
    # PyTorch says once in a process that it cannot promise not to write to a read-only array; nothing here does.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(bytes(4), np.float32))


def as_tensor(array: np.ndarray) -> Tensor:
    """A view of an array, to be read only; PyTorch's operations on it use all threads."""
    return torch.from_numpy(np.asarray(array))


def all_finite(array: np.ndarray) -> bool:
    """Whether an array holds no NaN and no infinity.

    A sum is finite where all its terms are, unless it overflows; only then each element is looked at.
    """
    if array.dtype.kind not in "fc":
        return True
    tensor = as_tensor(array)
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())
