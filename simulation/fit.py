"""Training that can be stopped anywhere and goes on as if it had not been."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mtmd_core.data.batches import SliceSource
from mtmd_core.durable import write_text
from mtmd_core.errors import RunFailedError
from mtmd_core.objectives import Objective
from mtmd_core.tensor_files import DamagedFileError, load_tensors, save_tensors
from mtmd_core.training import (
    LOSS,
    Recipe,
    build_optimiser,
    load_optimiser_tensors,
    measure_gradients,
    not_finite,
    optimiser_tensors,
    train,
)

from .progress import VALIDATION_DICE, RunDisplay

METRICS_FILE = "round_metrics.jsonl"


@dataclass(frozen=True)
class Trainee:
    """A network and everything that its training needs.

    ``name`` files it; ``steps``: in all, validated every ``validate_every`` of them; ``validate`` returns what was measured
    on the validation exams, site → metric → value, with the Dice by which the best state is chosen among it.
    """

    name: str
    network: nn.Module
    objective: Objective
    sources: Mapping[str, Sequence[SliceSource]]
    recipe: Recipe
    steps: int
    validate_every: int
    validate: Callable[[], dict[str, dict[str, float]]]


@dataclass
class _Progress:
    """How far a training is, and its best state so far."""

    step: int = 0
    best_dice: float = -1.0
    best_step: int = 0
    best: Mapping[str, Tensor] | None = None


def fit(trainee: Trainee, folder: Path, display: RunDisplay) -> int:
    """Train, and leave the network with the state of the best mean validation Dice; returns the step it was reached after.

    Goes on from the checkpoint that an interrupted call left in ``folder``; the result is the same bits. Writes lines into
    ``round_metrics.jsonl`` and each best state into ``checkpoints/<name>.safetensors``.

    Raises:
        RunFailedError: if the loss or the network is not finite any more.
    """
    network = trainee.network
    optimiser = build_optimiser(network, trainee.recipe.learning_rate, trainee.recipe.optimiser)
    progress = _load(trainee, optimiser, folder) or _Progress()
    display.skip(progress.step)
    for start in range(progress.step, trainee.steps, trainee.validate_every):
        stop = min(start + trainee.validate_every, trainee.steps)
        losses = train(
            network, optimiser, trainee.sources, trainee.recipe, range(start, stop), display.step, trainee.objective
        )
        _require_finite(trainee, f"steps {start} to {stop}", losses[LOSS])
        metrics = trainee.validate()
        norms = measure_gradients(network, trainee.sources, trainee.recipe, stop, trainee.objective)
        _append(
            trainee, folder, stop, losses | {name: norm for name, norm in norms.items() if math.isfinite(norm)}, metrics
        )
        progress.step = stop
        mean = sum(values[VALIDATION_DICE] for values in metrics.values()) / len(metrics)
        if mean >= progress.best_dice:  # of two that score alike, the one that was trained longer
            progress.best_dice, progress.best_step = mean, stop
            progress.best = {key: value.clone() for key, value in network.state_dict().items()}
            save_tensors(folder / "checkpoints" / f"{trainee.name}.safetensors", progress.best, {"step": stop})
        _save(trainee, optimiser, progress, folder)
        display.scores(f"step {stop}/{trainee.steps}, loss {losses[LOSS]:.4f}", metrics)
    network.load_state_dict(progress.best)
    return progress.best_step


def _require_finite(trainee: Trainee, steps: str, loss: float) -> None:
    """The loss is of before each step; what the last step left of the network shows in its state alone."""
    wrong = not_finite(trainee.network.state_dict())
    if wrong is not None or not math.isfinite(loss):
        left = "" if wrong is None else f", and they left NaN or infinity in {wrong}"
        raise RunFailedError(f"{trainee.name}: the loss of {steps} is {loss:g}{left}: lower the learning rate.")


def forget_checkpoints(folder: Path) -> None:
    """Drop what only an interrupted run needs."""
    for path in _resume_files(folder):
        path.unlink()


def forget_unfinished_lines(folder: Path) -> None:
    """Drop the lines of ``round_metrics.jsonl`` whose steps come again, for no checkpoint holds them."""
    reached: dict[str, int] = {}
    for path in _resume_files(folder):
        try:
            reached[path.name.removesuffix(_RESUME)] = load_tensors(path)[1]["step"]
        except DamagedFileError:
            continue
    file = folder / METRICS_FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    kept = [line for line in lines if _finished(line, reached)]
    write_text(file, "".join(line + "\n" for line in kept))


_RESUME = ".resume.safetensors"


def _resume_files(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob(f"*{_RESUME}"))


def _finished(line: str, reached: Mapping[str, int]) -> bool:
    try:
        content = json.loads(line)
    except ValueError:  # cut short by a crash
        return False
    return content["step"] <= reached.get(content["network"], 0)


def _append(
    trainee: Trainee,
    folder: Path,
    step: int,
    common: Mapping[str, float],
    metrics: Mapping[str, Mapping[str, float]],
) -> None:
    place = {"network": trainee.name, "round": math.ceil(step / trainee.validate_every), "step": step}
    with open(folder / METRICS_FILE, "a", encoding="utf-8") as file:
        for site, values in metrics.items():
            file.write(json.dumps({**place, "site": site, **common, **values}, allow_nan=False) + "\n")


def _save(trainee: Trainee, optimiser: torch.optim.Optimizer, progress: _Progress, folder: Path) -> None:
    tensors = {f"network/{name}": tensor for name, tensor in trainee.network.state_dict().items()}
    tensors |= {f"optimiser/{name}": tensor for name, tensor in optimiser_tensors(trainee.network, optimiser).items()}
    tensors |= {f"best/{name}": tensor for name, tensor in (progress.best or {}).items()}
    facts = {"step": progress.step, "best_dice": progress.best_dice, "best_step": progress.best_step}
    save_tensors(folder / "checkpoints" / f"{trainee.name}{_RESUME}", tensors, facts)


def _load(trainee: Trainee, optimiser: torch.optim.Optimizer, folder: Path) -> _Progress | None:
    path = folder / "checkpoints" / f"{trainee.name}{_RESUME}"
    if not path.is_file():
        return None
    try:
        tensors, facts = load_tensors(path)
    except DamagedFileError:
        return None  # cut short by a crash: from the beginning
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimiser": {}, "best": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    trainee.network.load_state_dict(parts["network"])
    load_optimiser_tensors(trainee.network, optimiser, parts["optimiser"])
    return _Progress(facts["step"], facts["best_dice"], facts["best_step"], parts["best"])
