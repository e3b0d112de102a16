"""``mtmd-client predict``: segment new exams with a trained model, each in its own geometry."""

import sys
from pathlib import Path

from rich.console import Console
from torch import nn

from mtmd_core.data.dataset import load_image, write_label_map
from mtmd_core.data.slices import cut_image, normalise, slice_grid
from mtmd_core.devices import choose_device
from mtmd_core.errors import ConfigurationError, DataError, MtmdError
from mtmd_core.inference import predict_exam
from mtmd_core.models import ModelCard, SiteCard, load_model
from mtmd_core.tensor_files import DamagedFileError

ENDINGS = (".nii.gz", ".nii")
CHANNEL = "_0000"


def predict(site: str, model: Path | None, inputs: Path, output: Path, state: Path, device: str) -> int:
    """Segment one exam, or every NIfTI file of a folder, and write a label map for each.

    Args:
        site: whose exams they are; decides the private layers and the label space.
        model: file of the model; None takes the one that the site's last run left in ``state``.
        inputs: a NIfTI file or a folder of them.
        output: folder for the label maps; ``CASE_0000.nii.gz`` becomes ``CASE.nii.gz``.

    Returns:
        0, or 4 if any exam could not be segmented, whatever the cause (its file, the disk, memory); the others are all
        the same.

    Raises:
        ConfigurationError: if there is no such model, input, or site in the model.
    """
    path = model or state / "results" / "model.safetensors"
    if not path.is_file():
        raise ConfigurationError(
            f"there is no model at {path}: give one with -m, or let this site take part in a run first."
        )
    try:
        network, card = load_model(path)
    except DamagedFileError as error:
        raise ConfigurationError(
            f"{error} Give a site's results/model.safetensors with -m, or leave -m out; a checkpoint of the server holds what is "
            "shared alone."
        ) from None
    own = card.site(site)
    network = network.to(choose_device(device))
    targets = _targets(inputs, output)
    output.mkdir(parents=True, exist_ok=True)
    console, failed = Console(soft_wrap=True, highlight=False), 0
    for image, target in targets.items():
        try:
            voxels = _segment(network, card, own, image, target)
        except (
            MtmdError,
            OSError,
            RuntimeError,
        ) as error:  # PyTorch's own failures are RuntimeErrors, no memory among them
            failed += 1
            print(f"{image}: not segmented: {' '.join(str(error).split())}", file=sys.stderr)
        else:
            found = ", ".join(f"{name} {count}" for name, count in zip(own.structures, voxels, strict=True))
            console.print(f"{target}: voxels: {found}", markup=False)
    if failed:
        print(f"{failed} of {len(targets)} exams could not be segmented", file=sys.stderr)
    return DataError.exit_code if failed else 0


def _segment(network: nn.Module, card: ModelCard, own: SiteCard, image_path: Path, target: Path) -> list[int]:
    """Segment one exam; returns each structure's number of voxels."""
    image, grid = load_image(image_path)
    slices = slice_grid(image.shape, grid.spacing_mm, own.slice_axis, card.slice_size)
    labels = predict_exam(network, own.space, cut_image(normalise(image), slices), slices).labels
    write_label_map(target, labels, grid)
    return [int((labels == value).sum()) for value in range(1, own.space.structures + 1)]


def _targets(inputs: Path, output: Path) -> dict[Path, Path]:
    """Image file → label map file."""
    if inputs.is_dir():
        images = sorted(
            path for path in inputs.iterdir() if path.name.endswith(ENDINGS) and not path.name.startswith(".")
        )
        if not images:
            raise ConfigurationError(f"{inputs} holds no NIfTI file ({', '.join(ENDINGS)}).")
    elif inputs.is_file():
        images = [inputs]
    else:
        raise ConfigurationError(f"{inputs} is neither a file nor a folder.")
    targets: dict[Path, Path] = {}
    for image in images:
        ending = next((ending for ending in ENDINGS if image.name.endswith(ending)), "")
        name = image.name.removesuffix(ending).removesuffix(CHANNEL) + (ending or ".nii.gz")
        target = output / name
        if target.resolve() == image.resolve():
            raise ConfigurationError(f"{target} would overwrite the image itself: give another folder with -o.")
        if target in targets.values():
            raise ConfigurationError(f"two images of {inputs} would both become {name}: rename one.")
        targets[image] = target
    return targets
