"""Tensors and facts in one safetensors file, written whole or not at all and checked when read."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mtmd_core.durable import write_with
from mtmd_core.errors import MtmdError

log = logging.getLogger(__name__)


class DamagedFileError(MtmdError):
    """A file of tensors that is cut short, altered or not one of ours."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Write tensors with JSON-serialisable facts and a checksum over both.

    Raises:
        OSError: if the file cannot be written, for example because the disk is full; what was there before stays.
    """
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    text = json.dumps(dict(facts), sort_keys=True)
    metadata = {"facts": text, "checksum": _checksum(plain, text)}

    def write(temporary: Path) -> None:
        try:
            save_file(plain, temporary, metadata)
        except SafetensorError as error:  # its own kind of error for whatever goes wrong with the file
            raise OSError(f"{path} cannot be written: {error}") from None

    write_with(path, write)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what :func:`save_tensors` wrote: tensors and facts.

    Raises:
        DamagedFileError: if the file is missing, cut short, altered or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise DamagedFileError(f"{path} cannot be read as a file of tensors: {error}") from None
    if "facts" not in metadata or metadata.get("checksum") != _checksum(tensors, metadata["facts"]):
        raise DamagedFileError(
            f"{path} was altered after it was written, or is not one of mtmd's: its checksum is wrong."
        )
    return tensors, json.loads(metadata["facts"])


def load_if_whole(path: Path) -> tuple[dict[str, Tensor], dict] | None:
    """As :func:`load_tensors`; None where there is no file, and where it is damaged, which the log then says."""
    if not path.is_file():
        return None
    try:
        return load_tensors(path)
    except DamagedFileError as error:
        log.warning("passed over: %s", error)
        return None


def peek_tensors(path: Path, prefix: str) -> tuple[dict[str, Tensor], dict]:
    """The tensors whose names begin with ``prefix``, and the facts; unchecked, for that would take reading the whole file.

    For pages that are made every few seconds while a run goes on, never for what a run goes on with.

    Raises:
        DamagedFileError: if the file is missing, cut short or of another kind.
    """
    return _peek(path, lambda name: name.startswith(prefix))


def peek_facts(path: Path) -> dict:
    """The facts alone, unchecked like :func:`peek_tensors`: what a file is for, before it is read whole.

    Raises:
        DamagedFileError: if the file is missing, cut short or of another kind.
    """
    return _peek(path, lambda name: False)[1]


def _peek(path: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, Tensor], dict]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = filter(wanted, file.keys())
            return {name: file.get_tensor(name) for name in names}, json.loads(metadata["facts"])
    except (OSError, SafetensorError, KeyError) as error:
        raise DamagedFileError(f"{path} cannot be read as a file of tensors: {error}") from None


def _checksum(tensors: Mapping[str, Tensor], facts: str) -> str:
    digest = hashlib.blake2b(facts.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
