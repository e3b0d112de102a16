"""Where tensors live, how they lie in memory, and how many threads work on them."""

import contextlib
import os
from pathlib import Path

import torch
from torch import nn

from mtmd_core.errors import ConfigurationError


def choose_device(word: str) -> torch.device:
    """``auto`` takes CUDA where there is one.

    Raises:
        ConfigurationError: if CUDA is asked for and not there.
    """
    if word == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device=cuda, but PyTorch sees no CUDA device here; use device=auto or device=cpu.")
    return torch.device("cuda" if word == "cuda" or (word == "auto" and torch.cuda.is_available()) else "cpu")


def to_device(network: nn.Module, device: torch.device, dtype: str, channels_last: bool) -> nn.Module:
    """The network itself, moved to a device.

    Args:
        network: any; names, shapes and values of its state stay as they are.
        device: where it computes from now on.
        dtype: of its parameters and floating-point buffers, ``float32`` or ``float64``.
        channels_last: whether kernels [C_out, C_in, H, W] lie in memory as [C_out, H, W, C_in]. Convolutions then make feature
            maps that lie so too, whatever layout an image comes in, and are faster on current processors. Sums are made in
            another order: the last bits are not those of the standard layout.
    """
    layout = torch.channels_last if channels_last else torch.preserve_format
    return network.to(device, getattr(torch, dtype), memory_format=layout)


_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a device has: the graphics card's, or this machine's, or its container's where that is less."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(_CONTAINER_LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return machine


def limit_threads(threads: int | None) -> None:
    """Let PyTorch use this many threads; None leaves its own choice.

    The number of threads decides the order of some sums: runs agree bit for bit only with the same number.
    """
    if threads is not None:
        torch.set_num_threads(threads)


def be_deterministic(enabled: bool) -> None:
    """Let CUDA repeat itself bit for bit, or choose the fastest algorithms that it finds.

    PyTorch warns where an operation cannot repeat itself. The CPU does so in either case.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(enabled, warn_only=True)
    torch.backends.cudnn.benchmark = not enabled


def autocast(device: torch.device, enabled: bool) -> contextlib.AbstractContextManager:
    """bfloat16 autocast on ``device`` if enabled."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
