"""Where tensors live and how many threads work on them."""

import contextlib

import torch

from mtmd_core.errors import ConfigurationError


def choose_device(word: str) -> torch.device:
    """``auto`` takes CUDA where there is one.

    Raises:
        ConfigurationError: if CUDA is asked for and not there.
    """
    if word == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device=cuda, but PyTorch sees no CUDA device here; use device=auto or device=cpu.")
    return torch.device("cuda" if word == "cuda" or (word == "auto" and torch.cuda.is_available()) else "cpu")


def limit_threads(threads: int | None) -> None:
    """Let PyTorch use this many threads; None leaves its own choice.

    The number of threads decides the order of some sums: runs agree bit for bit only with the same number.
    """
    if threads is not None:
        torch.set_num_threads(threads)


def autocast(device: torch.device, enabled: bool) -> contextlib.AbstractContextManager:
    """bfloat16 autocast on ``device`` if enabled."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
