"""Pre-trained weights of an encoder: from ImageNet through the Hugging Face hub, or from a file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from safetensors.torch import load_file
from torch import Tensor

from mtmd_core.config import IMAGENET, NO_WEIGHTS
from mtmd_core.errors import ConfigurationError

HUB_FILE = "model.safetensors"
HUB_TIMEOUT_SECONDS = 10
COUNTER = ".num_batches_tracked"
"""What batch normalisation counts and nobody here uses; files have it or not."""


@dataclass(frozen=True)
class ClassifierNames:
    """How timm's classifier names its state: what belongs to its head, and how its encoder alone says it.

    ``renamed`` is a pair (classifier, encoder) of the beginning of names that differ.
    """

    head: tuple[str, ...]
    renamed: tuple[str, str] = ("", "")


CLASSIFIERS = {
    "inception_v3": ClassifierNames(head=("fc", "AuxLogits")),
    "densenet121": ClassifierNames(head=("classifier",), renamed=("features.", "features_")),
    "efficientnet_b3": ClassifierNames(head=("conv_head", "bn2", "classifier")),
}


def read_encoder_weights(word: str, encoder_name: str, download: bool = True) -> dict[str, Tensor]:
    """Weights of an encoder, complete and checked.

    Args:
        word: ``imagenet``, or the path of a .pth or .safetensors file with the state of timm's classifier; the classifier's
            head may be there or not.
        encoder_name: what timm calls the encoder.
        download: whether weights from ImageNet that are not in the cache of Hugging Face are downloaded into it; if not, the hub
            is neither called nor looked up.

    Returns:
        The state of timm's encoder with ``features_only``.

    Raises:
        ConfigurationError: if the weights cannot be had or are another encoder's, with what to do.
    """
    given = _from_hub(encoder_name, download) if word == IMAGENET else _from_file(Path(word))
    names = CLASSIFIERS[encoder_name]
    with torch.device("meta"):
        wanted = timm.create_model(encoder_name, pretrained=False, features_only=True).state_dict()
    as_classifier, as_encoder = names.renamed
    titles = {
        as_classifier + name.removeprefix(as_encoder): name for name in wanted
    }  # the classifier's name → the encoder's
    body = {name: tensor for name, tensor in given.items() if name.split(".")[0] not in names.head}
    reason = _misfit({title: wanted[name] for title, name in titles.items()}, body)
    if reason:
        raise ConfigurationError(
            f"network.encoder_weights={word} are no weights of timm's {encoder_name}: {reason}. Give the state of that "
            f"classifier, or network.encoder_weights={NO_WEIGHTS} to start from random weights."
        )
    return {name: body.get(title, torch.zeros((), dtype=torch.long)) for title, name in titles.items()}


def _misfit(wanted: Mapping[str, Tensor], given: Mapping[str, Any]) -> str:
    """What keeps tensors from being the wanted ones, or nothing."""
    reasons = []
    for word, names in (
        ("missing", [name for name in wanted if name not in given and not name.endswith(COUNTER)]),
        ("unknown", [name for name in given if name not in wanted]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            reasons.append(f"{word} {', '.join(map(str, names[:3]))}{more}")
    for name, tensor in given.items():
        if name in wanted and (problem := _problem(wanted[name], tensor)):
            reasons.append(f"{name} {problem}")
            break
    return "; ".join(reasons)


def _problem(wanted: Tensor, given: Any) -> str:
    if not isinstance(given, Tensor):
        return f"is a {type(given).__name__}, expected a tensor"
    if given.shape != wanted.shape:
        return f"has the shape {list(given.shape)}, expected {list(wanted.shape)}"
    if given.is_floating_point() != wanted.is_floating_point():
        return f"is {given.dtype}, expected {wanted.dtype}"
    if not torch.isfinite(given).all():
        return "has values that are not finite"
    return ""


def _from_hub(encoder_name: str, download: bool) -> dict[str, Tensor]:
    repository = timm.get_pretrained_cfg(encoder_name).hf_hub_id
    cached = try_to_load_from_cache(repository, HUB_FILE)
    if isinstance(cached, str):
        return _from_file(Path(cached))  # without asking the hub whether it has another
    if not download:
        folder = f"models--{repository.replace('/', '--')}"
        raise ConfigurationError(
            f"the ImageNet weights of {encoder_name} are not in this machine's cache, and nothing is downloaded here: run "
            f"'hf download {repository} {HUB_FILE}' where there is a network, and copy the folder {folder} from the cache there "
            f"(~/.cache/huggingface/hub) to {constants.HF_HUB_CACHE} here. With network.encoder_weights={NO_WEIGHTS} there is no "
            "need of any."
        )
    remedy = (
        f"Download {HUB_FILE} of https://huggingface.co/{repository} where there is a network and give its path as "
        f"network.encoder_weights, or give network.encoder_weights={NO_WEIGHTS} to start from random weights."
    )
    problem = f"the ImageNet weights of {encoder_name} are not in the cache and cannot be downloaded"
    return _from_file(Path(_attempt(lambda: _download(repository), problem, remedy)))


def _download(repository: str) -> str:
    # A download is tried again for minutes; whether the hub answers at all is asked once.
    get_hf_file_metadata(hf_hub_url(repository, HUB_FILE), timeout=HUB_TIMEOUT_SECONDS)
    return hf_hub_download(repository, HUB_FILE)


def _from_file(path: Path) -> dict[str, Tensor]:
    remedy = f"Give another file, or network.encoder_weights={NO_WEIGHTS} to start from random weights."
    problem = f"the encoder's weights cannot be read from {path}"
    if path.suffix == ".safetensors":
        return _attempt(lambda: load_file(path), problem, remedy)
    weights = _attempt(lambda: torch.load(path, map_location="cpu", weights_only=True), problem, remedy)
    if not isinstance(weights, Mapping):
        raise ConfigurationError(f"{problem}: it holds a {type(weights).__name__}, no state. {remedy}")
    return dict(weights)


def _attempt(read: Callable[[], Any], problem: str, remedy: str) -> Any:
    try:
        return read()
    except Exception as error:  # each library that reads or downloads raises what it likes
        cause = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ConfigurationError(f"{problem}: {cause[:300]}. {remedy}") from error
