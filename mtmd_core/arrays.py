"""NumPy arrays that came in a message, as tensors that are only read."""

import ctypes
import math
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
    return math.isfinite(float(tensor.sum())) or bool(torch.isfinite(tensor).all())


def keep_memory() -> None:
    """Let memory that is freed stay with this process, where the C library allows it (glibc).

    A message's buffers are as large as a model and are made and freed every round. Given back to the system, each has to be
    fetched again page by page, which takes longer than filling it.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(mmap_threshold, 1 << 30)
        library.mallopt(trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):
        return  # another C library: slower, and as right
