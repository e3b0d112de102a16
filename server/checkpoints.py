"""What a run goes on from: shared parameters at the end of a round, with all that belongs to them, in one file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtmd_core.tensor_files import DamagedFileError, load_if_whole, load_tensors, save_tensors

Arrays = dict[str, np.ndarray]
OPTIMISER = "optimiser/"
"""Begins the names of the server optimiser's state in a checkpoint; no parameter's name has a slash."""
PROTOTYPES = "prototypes/"
"""Begins the names of prototypes in a checkpoint: ``prototypes/<site>/<array>``."""


@dataclass(frozen=True)
class Shelved:
    """A site's last prototypes, and the round at whose end it made them."""

    round: int
    arrays: Arrays


@dataclass(frozen=True)
class Checkpoint:
    """Shared parameters at the end of a round; where the run goes on from it, the server optimiser's state and the prototypes of
    all sites as they were known then, too; of the best round what makes it that (:meth:`.model_choice.ModelChoice.state`)."""

    round: int
    shared: Arrays
    optimiser: Mapping[str, Tensor] = field(default_factory=dict)
    prototypes: Mapping[str, Shelved] = field(default_factory=dict)
    choice: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, run: str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint of a run, whole or not at all."""
    arrays = checkpoint.shared | {
        f"{PROTOTYPES}{site}/{name}": array
        for site, kept in checkpoint.prototypes.items()
        for name, array in kept.arrays.items()
    }
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    tensors |= {f"{OPTIMISER}{name}": tensor for name, tensor in checkpoint.optimiser.items()}
    facts = {"run": run, "round": checkpoint.round}
    facts["prototypes"] = {site: kept.round for site, kept in checkpoint.prototypes.items()}
    facts["choice"] = dict(checkpoint.choice)
    save_tensors(path, tensors, facts)


def load_checkpoint(path: Path, run: str) -> Checkpoint | None:
    """A checkpoint of a run; None if the file is not there, damaged, or of another run."""
    found = load_if_whole(path)
    if found is None or found[1]["run"] != run:
        return None
    tensors, facts = found
    shared = {n: tensor.numpy() for n, tensor in tensors.items() if not n.startswith((OPTIMISER, PROTOTYPES))}
    prototypes = {}
    for site, round_ in facts.get("prototypes", {}).items():
        own = _beginning_with(f"{PROTOTYPES}{site}/", tensors)
        prototypes[site] = Shelved(round_, {name: tensor.numpy() for name, tensor in own.items()})
    optimiser = _beginning_with(OPTIMISER, tensors)
    return Checkpoint(facts["round"], shared, optimiser, prototypes, facts.get("choice", {}))


def run_of(path: Path) -> str:
    """The name of the run that a checkpoint is of.

    Raises:
        DamagedFileError: if it cannot be read.
    """
    return load_tensors(path)[1]["run"]


def is_damaged(path: Path) -> bool:
    """Whether a checkpoint that is there cannot be read."""
    try:
        run_of(path)
    except DamagedFileError:
        return True
    return False


def _beginning_with(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
