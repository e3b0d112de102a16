"""``experiment=phantoms``: how hard the phantom joints are, and how far their scanners lie apart.

One network a joint is trained on that joint's phantoms, then segments children that it has never seen, as each of the three
scanners shows them.
"""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.table import Table
from torch import nn

from mtmd_core.config import RunConfig
from mtmd_core.data.orientation import ExamGrid
from mtmd_core.data.site_data import SiteData
from mtmd_core.data.slices import cut_image, normalise, slice_grid
from mtmd_core.devices import choose_device
from mtmd_core.errors import ConfigurationError
from mtmd_core.inference import predict_exam
from mtmd_core.metrics import score_exam
from mtmd_core.models import ModelCard, load_model

from ..data import phantom_folders
from ..phantom.exam import JOINT_NAMES, make_exam
from ..runs import run

FRESH = range(1000, 1005)
"""Indices of the children that no training exam has."""


def run_phantoms(config: RunConfig, sites: dict[str, SiteData], folder: Path, console: Console) -> dict:
    """Train, then score each joint's network on fresh children under each scanner's contrast.

    Returns ``dice``: joint → scanner → mean Dice over structures and children; ``drop``: the same, lost against its own.

    Raises:
        ConfigurationError: for another strategy than individual, or other sites than the phantom joints.
    """
    if config.strategy != "individual" or config.sites != phantom_folders(config):
        raise ConfigurationError(
            "experiment=phantoms trains one network a phantom joint, each by itself: leave strategy= and sites= out."
        )
    summary = run(replace(config, experiment=None), sites, folder / "individual", console)
    dice: dict[str, dict[str, float]] = {}
    for joint in JOINT_NAMES:
        network, card = load_model(folder / "individual" / "models" / f"{joint}.safetensors")
        network = network.to(choose_device(config.device))
        dice[joint] = {scanner: _fresh_dice(network, card, config, joint, scanner) for scanner in JOINT_NAMES}
    drop = {
        joint: {scanner: own[joint] - value for scanner, value in own.items() if scanner != joint}
        for joint, own in dice.items()
    }
    _print(dice, console)
    return {"experiment": "phantoms", "fresh_exams": len(FRESH), "dice": dice, "drop": drop, "run": summary}


def _fresh_dice(network: nn.Module, card: ModelCard, config: RunConfig, joint: str, scanner: str) -> float:
    own, scores = card.site(joint), []
    for index in FRESH:
        exam = make_exam(joint, config.phantoms.seed, index, config.phantoms.scale, site_contrast=scanner)
        grid = ExamGrid.of(exam.image.shape, exam.affine, nib.Nifti1Header())
        image = normalise(np.asarray(grid.to_canonical(exam.image), np.float32))
        slices = slice_grid(image.shape, grid.spacing_mm, own.slice_axis, card.slice_size)
        labels = predict_exam(network, own.space, cut_image(image, slices), slices).labels
        truth = np.ascontiguousarray(grid.to_canonical(exam.labels))
        scores += [score.dice for score in score_exam(truth, labels, own.space.structures, grid.spacing_mm)]
    return float(np.mean(scores))


def _print(dice: dict[str, dict[str, float]], console: Console) -> None:
    table = Table("trained on", *(f"scanner of {name}" for name in JOINT_NAMES), title="Dice on fresh phantoms")
    for joint, own in dice.items():
        cells = (
            f"{own[name]:.3f}" + ("" if name == joint else f" ({own[name] - own[joint]:+.3f})") for name in JOINT_NAMES
        )
        table.add_row(joint, *cells)
    console.print(table)
